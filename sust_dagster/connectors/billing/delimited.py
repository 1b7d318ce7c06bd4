"""CSV bills as a stream of Arrow batches, rows numbered as in the file.

Belongs here: header, delimiter, encoding, compression, malformed rows. All columns are read as text: what a value
means, and whether it is one, is decided later, so that a bad value costs its row and not the file.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from sust_dagster.connectors.billing.errors import BillingError
from sust_dagster.connectors.billing.places import BillFile
from sust_dagster.connectors.billing.text import INVALID, ByteReader, Utf8Stream, sniff_encoding

#: Bytes parsed at a time: memory is a small multiple of it.
BLOCK_BYTES = 4 << 20
#: Rows handed over at a time, or what that many blocks hold.
BATCH_ROWS = 65_536
_MOST_PARTS = 32
_HEADER_BYTES = 4 << 20
_FIRST_READ = 1 << 16
_LONGEST_ROW = 64 << 20
_QUOTE, _LINE_BREAK, _RETURN = 34, 10, 13
NULL_MARKS = ["", "NULL", "null", "Null"]


@dataclass(frozen=True)
class Malformed:
    """A row with the wrong number of fields."""

    row: int
    text: str
    expected: int
    actual: int


@dataclass(frozen=True)
class RawBatch:
    """Rows as the file has them: texts (or typed columns), data row numbers from 1, and malformed rows."""

    batch: pa.RecordBatch
    rows: np.ndarray
    malformed: list[Malformed] = field(default_factory=list)
    faulty: bool = False  #: some text may hold undecodable bytes


class DelimitedFile:
    """One CSV file, plain or compressed, in UTF-8 (with or without byte-order mark) or UTF-16 with one."""

    def __init__(self, file: BillFile, compression: str | None = None, block_bytes: int = BLOCK_BYTES) -> None:
        self.file = file
        self._block = block_bytes
        self._compression = compression
        self._stream, rest = self._open()
        self.columns, self._delimiter, self._rest = self._header(rest)

    def _open(self) -> tuple[Utf8Stream, bytes]:
        source: ByteReader = self.file.open_stream()
        if self._compression:
            source = pa.CompressedInputStream(source, self._compression)
        head = self._guarded(source, _FIRST_READ)
        encoding, mark = sniff_encoding(head)
        head = head[mark:]
        if not head.strip():
            raise BillingError("is empty", file=self.file.label, fix="export it again")
        if encoding == "utf-8" and b"\x00" in head[:4096]:
            raise BillingError(
                "is no text, or is UTF-16 without a byte-order mark", file=self.file.label, fix="export it as UTF-8"
            )
        stream = Utf8Stream(source, encoding, head)
        return stream, stream.read(_FIRST_READ)

    def close(self) -> None:
        """Let go of the file; :meth:`batches` does so by itself."""
        self._stream.close()

    def _guarded(self, source: ByteReader, size: int) -> bytes:
        try:
            return source.read(size)
        except (OSError, pa.ArrowException) as error:
            raise self._broken(error, None) from error

    def _broken(self, error: Exception, row: int | None) -> BillingError:
        text = str(error)
        if self._compression or "ompress" in text or "truncat" in text.lower():
            return BillingError(
                f"the compressed data is truncated or damaged ({text})", file=self.file.label, row=row,
                fix="fetch the file again",
            )  # fmt: skip
        return BillingError(f"cannot be read on ({text})", file=self.file.label, row=row, fix="fetch the file again")

    def _header(self, head: bytes) -> tuple[list[str], str, bytes]:
        """Column names (made distinct), delimiter, and the bytes after the header."""
        while b"\n" not in head.lstrip(b"\r\n") and len(head) < _HEADER_BYTES:
            more = self._guarded(self._stream, _FIRST_READ)
            if not more:
                break
            head += more
        text = head.decode("utf-8", "replace")
        body = text.lstrip("\r\n")
        line = body.split("\n", 1)[0]
        delimiter = max(",;\t|", key=line.count)
        if INVALID in line:
            raise BillingError("the header is not UTF-8", file=self.file.label, fix="export the file as UTF-8")
        lines = body.splitlines(keepends=True)
        reader = csv.reader(lines, delimiter=delimiter)
        names = next(reader, [])
        consumed = len(text) - len(body) + sum(len(part) for part in lines[: reader.line_num])
        return _distinct(names), delimiter, text[consumed:].encode("utf-8", "replace")

    def batches(self, include: Sequence[str], plain: frozenset[str]) -> Generator[RawBatch]:
        """Batches of the wanted columns; ``plain`` ones as strings, the rest as dictionary arrays.

        Raises :class:`BillingError` where the file cannot be parsed on.
        """
        done = 0
        parts: list[RawBatch] = []
        try:
            for chunk in self._chunks():
                raw = self._parse(chunk, include, plain, done)
                if raw is None:
                    continue
                self._check_quotes(raw.malformed)
                if done == 0:
                    self._check_encoding(raw.batch)
                done += raw.batch.num_rows + len(raw.malformed)
                parts.append(raw)
                if len(parts) == _MOST_PARTS or sum(p.batch.num_rows for p in parts) >= BATCH_ROWS:
                    yield joined_batches(parts)
                    parts = []
            if parts:
                yield joined_batches(parts)
        except pa.ArrowInvalid as error:
            raise BillingError(
                f"cannot be parsed ({error})", file=self.file.label, row=done + 1, fix="check the file around this row"
            ) from error
        except OSError as error:
            raise self._broken(error, done + 1) from error
        finally:
            self._stream.close()

    def _chunks(self) -> Iterator[memoryview]:
        """The file cut at row ends, about a block each.

        Arrow's own streaming reader would read up to 32 blocks ahead, and call back into Python from threads that
        may outlive the interpreter; its parser, given one chunk at a time, does neither.
        """
        pending = self._rest
        while True:
            data = self._stream.read(self._block)
            if not data:
                break
            pending = pending + data if pending else data
            end = last_row_end(pending, self._delimiter)
            if end:
                yield memoryview(pending)[:end]
                pending = pending[end:]
            elif len(pending) > max(_LONGEST_ROW, 2 * self._block):
                raise self._open_quote(None)
        if pending:
            yield memoryview(pending)

    def _parse(self, chunk: memoryview, include: Sequence[str], plain: frozenset[str], done: int) -> RawBatch | None:
        """One chunk; ``None`` where it holds blank lines only. ``done`` rows come before it."""
        if not bytes(chunk[:64]).strip() and not bytes(chunk).strip():
            return None
        malformed: list[Malformed] = []

        def keep_aside(row: pa_csv.InvalidRow) -> str:
            malformed.append(Malformed(done + row.number, row.text, row.expected_columns, row.actual_columns))
            return "skip"

        table = pa_csv.read_csv(
            pa.BufferReader(pa.py_buffer(chunk)),
            read_options=pa_csv.ReadOptions(
                use_threads=False,  # serial parsing is what gives row numbers
                block_size=len(chunk) + 1,
                column_names=self.columns,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=keep_aside
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(include),
                column_types={
                    name: pa.string() if name in plain else pa.dictionary(pa.int32(), pa.string()) for name in include
                },
                check_utf8=False,  # the stream under it gives valid UTF-8 only
                null_values=NULL_MARKS,
                strings_can_be_null=True,
            ),
        ).combine_chunks()
        batch = table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], table.schema)
        before = np.array([m.row - done - 1 - i for i, m in enumerate(malformed)], np.int64)
        index = np.arange(batch.num_rows)
        rows = done + 1 + index + np.searchsorted(before, index, side="right")
        return RawBatch(batch, rows, malformed, self._stream.faulty)

    def _check_quotes(self, malformed: list[Malformed]) -> None:
        """A row with an odd number of quotes has swallowed the rows after it."""
        for row in malformed:
            if row.text.count('"') % 2:
                raise self._open_quote(row.row)

    def _open_quote(self, row: int | None) -> BillingError:
        return BillingError(
            "a quoted value is never closed, or one row is larger than a block", file=self.file.label, row=row,
            fix="close the quote of this row or of one soon after it",
        )  # fmt: skip

    def _check_encoding(self, batch: pa.RecordBatch) -> None:
        """A file in which most rows of the first batch hold undecodable bytes is in another encoding."""
        if not self._stream.faulty or batch.num_rows < 10:
            return
        bad = np.zeros(batch.num_rows, bool)
        for column in batch.columns:
            bad |= faulty_rows(column)
        if bad.mean() > 0.5:
            raise BillingError(
                f"{bad.sum()} of the first {len(bad)} rows are not UTF-8", file=self.file.label,
                fix="export the file as UTF-8",
            )  # fmt: skip


def joined_batches(parts: list[RawBatch]) -> RawBatch:
    """Consecutive batches as one: the wanted columns are small, and work per batch has a fixed part."""
    if len(parts) == 1:
        return parts[0]
    table = pa.Table.from_batches([p.batch for p in parts]).unify_dictionaries().combine_chunks()
    return RawBatch(
        table.to_batches()[0] if table.num_rows else parts[0].batch,
        np.concatenate([p.rows for p in parts]),
        [m for p in parts for m in p.malformed],
        any(p.faulty for p in parts),
    )


def last_row_end(data: bytes, delimiter: str) -> int:
    """Position after the last line break outside quotes; 0 where there is none. ``data`` starts at a row.

    A quote opens a value only at its start, and a doubled quote inside one is a quote: so quotes alternate between
    opening and closing, but for strays in unquoted values, which are found by what stands before them and left out.
    """
    end = max(data.rfind(b"\n"), data.rfind(b"\r"))
    if end < 0:
        return 0
    values = np.frombuffer(data, np.uint8)
    # Even numbers of quotes before the break and in its own line: outside quotes, unless strays conspire.
    line = max(data.rfind(b"\n", 0, end), data.rfind(b"\r", 0, end)) + 1
    if np.count_nonzero(values[:end] == _QUOTE) % 2 == 0 and data.count(b'"', line, end) % 2 == 0:
        return end + 1
    quotes = _without_strays(data, np.flatnonzero(values == _QUOTE), delimiter)
    while True:
        before = int(np.searchsorted(quotes, end))
        if before % 2 == 0:
            return end + 1
        at = int(quotes[before - 1])  # inside a quoted value: go on before it
        end = max(data.rfind(b"\n", 0, at), data.rfind(b"\r", 0, at))
        if end < 0:
            return 0


def _without_strays(data: bytes, quotes: np.ndarray, delimiter: str) -> np.ndarray:
    """The quotes that open or close a value."""
    values = np.frombuffer(data, np.uint8)
    previous = np.where(quotes > 0, values[np.maximum(quotes - 1, 0)], _LINE_BREAK)
    opens = (previous == ord(delimiter)) | (previous == _LINE_BREAK) | (previous == _RETURN)
    adjacent = np.zeros(len(quotes), bool)
    adjacent[1:] = np.diff(quotes) == 1
    kept = np.ones(len(quotes), bool)
    start = 0
    while True:
        rank = np.cumsum(kept[start:]) - 1
        wrong = kept[start:] & (rank % 2 == 0) & ~opens[start:] & ~adjacent[start:]
        if not wrong.any():
            return quotes[kept]
        # Everything before the first stray is settled: an even number of quotes, so counting starts afresh.
        start += int(np.argmax(wrong))
        kept[start] = False
        start += 1


def faulty_rows(column: pa.Array) -> np.ndarray:
    """Rows of a text column that hold the mark of undecodable bytes."""
    if pa.types.is_dictionary(column.type):
        values = column.dictionary
        if not pa.types.is_string(values.type):
            return np.zeros(len(column), bool)
        hit = np.append(_marked(values), False)
        codes = column.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        return hit[codes]
    return _marked(column) if pa.types.is_string(column.type) else np.zeros(len(column), bool)


def _marked(values: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.match_substring(values, INVALID), False).to_numpy(zero_copy_only=False)


def _distinct(names: Sequence[str]) -> list[str]:
    """Header names made distinct: the second ``a`` becomes ``a#2``."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        clean = name.strip().strip("\ufeff")
        seen[clean] = seen.get(clean, 0) + 1
        found.append(clean if seen[clean] == 1 else f"{clean}#{seen[clean]}")
    return found

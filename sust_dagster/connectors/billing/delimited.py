"""CSV bills as a stream of Arrow batches, rows numbered as in the file.

Belongs here: header, delimiter, encoding, compression, malformed rows. All columns are read as text: what a value
means, and whether it is one, is decided later, so that a bad value costs its row and not the file.
"""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from sust_dagster.connectors.billing.errors import BillingError
from sust_dagster.connectors.billing.places import BillFile
from sust_dagster.connectors.billing.text import INVALID, ByteReader, Utf8Stream, sniff_encoding

#: Bytes parsed at a time: memory is a small multiple of it.
BLOCK_BYTES = 32 << 20
_HEADER_BYTES = 4 << 20
_FIRST_READ = 1 << 16
_BLOCKS_AHEAD = 2
_LONGEST_WAIT_S = 2.0
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

    def batches(self, include: Sequence[str], plain: frozenset[str]) -> Iterator[RawBatch]:
        """Batches of the wanted columns; ``plain`` ones as strings, the rest as dictionary arrays.

        Raises :class:`BillingError` where the file cannot be parsed on.
        """
        malformed: list[Malformed] = []

        def keep_aside(row: pa_csv.InvalidRow) -> str:
            malformed.append(Malformed(row.number, row.text, row.expected_columns, row.actual_columns))
            return "skip"

        source = _Rest(self._rest, self._stream)
        if source.exhausted():
            return
        done = 0
        try:
            reader = pa_csv.open_csv(
                source,
                read_options=pa_csv.ReadOptions(
                    use_threads=False, block_size=self._block, column_names=self.columns
                ),  # serial reading is what gives row numbers
                parse_options=pa_csv.ParseOptions(
                    delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=keep_aside
                ),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=list(include),
                    column_types={
                        name: pa.string() if name in plain else pa.dictionary(pa.int32(), pa.string())
                        for name in include
                    },
                    check_utf8=False,  # the stream under it gives valid UTF-8 only
                    null_values=NULL_MARKS,
                    strings_can_be_null=True,
                ),
            )
            seen = 0
            for batch in reader:
                before = np.array([m.row - 1 - i for i, m in enumerate(malformed)], np.int64)
                index = np.arange(done, done + batch.num_rows)
                rows = index + 1 + np.searchsorted(before, index, side="right")
                done += batch.num_rows
                new, seen = malformed[seen:], len(malformed)
                self._check_quotes(new)
                self._check_encoding(batch, done)
                yield RawBatch(batch, rows, new, self._stream.faulty)
                source.used()
            self._check_quotes(malformed[seen:])
            if seen < len(malformed):
                empty = pa.RecordBatch.from_pylist([], reader.schema)
                yield RawBatch(empty, np.zeros(0, np.int64), malformed[seen:], self._stream.faulty)
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):  # nothing but blank lines
                return
            if "straddl" in str(error):
                raise self._open_quote(done + len(malformed) + 1) from error
            raise BillingError(
                f"cannot be parsed ({error})", file=self.file.label, row=done + len(malformed) + 1, fix="check the file"
            ) from error
        except OSError as error:
            raise self._broken(error, done + len(malformed) + 1) from error
        finally:
            source.release()
            self._stream.close()

    def _check_quotes(self, malformed: list[Malformed]) -> None:
        """A row with an odd number of quotes has swallowed the rows after it."""
        for row in malformed:
            if row.text.count('"') % 2:
                raise self._open_quote(row.row)

    def _open_quote(self, row: int) -> BillingError:
        return BillingError(
            "a quoted value is never closed, or one row is larger than a block", file=self.file.label, row=row,
            fix="close the quote of this row or of one soon after it",
        )  # fmt: skip

    def _check_encoding(self, batch: pa.RecordBatch, done: int) -> None:
        """A file in which most rows of the first batch hold undecodable bytes is in another encoding."""
        if not self._stream.faulty or done != batch.num_rows or batch.num_rows < 10:
            return
        bad = np.zeros(batch.num_rows, bool)
        for column in batch.columns:
            bad |= faulty_rows(column)
        if bad.mean() > 0.5:
            raise BillingError(
                f"{bad.sum()} of the first {len(bad)} rows are not UTF-8", file=self.file.label,
                fix="export the file as UTF-8",
            )  # fmt: skip


class _Rest(io.RawIOBase):
    """Bytes already read, then the stream they came from, given out at the pace they are used.

    Arrow's reader takes up to 32 blocks ahead from a thread of its own, a gigabyte with ours: so a read waits until
    an earlier block was used. It waits for a while only, because a block may hold no row at all.
    """

    def __init__(self, head: bytes, stream: Utf8Stream) -> None:
        self._head = head
        self._stream = stream
        self._unused = threading.Semaphore(_BLOCKS_AHEAD)
        self._open = False

    def used(self) -> None:
        """A block was used: another one may be read."""
        self._unused.release()

    def release(self) -> None:
        """Nobody needs more: let a waiting reader go."""
        self._open = True
        self._unused.release()

    def readable(self) -> bool:
        return True

    def exhausted(self) -> bool:
        """Whether nothing but blank lines is left; reads ahead to find out."""
        while not self._head.strip():
            more = self._stream.read(_FIRST_READ)
            if not more:
                return True
            self._head += more
        return False

    def read(self, size: int = -1, /) -> bytes:
        if not self._open:
            self._unused.acquire(timeout=_LONGEST_WAIT_S)
        head, self._head = self._head, b""
        if size < 0:
            return head + b"".join(iter(lambda: self._stream.read(_FIRST_READ), b""))
        if not head:
            return self._stream.read(size)
        return head if len(head) >= size else head + self._stream.read(size - len(head))


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

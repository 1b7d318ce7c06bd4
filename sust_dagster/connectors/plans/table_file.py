"""One plain file as a table of typed columns: CSV (also .gz) or Parquet.

Belongs here: header names, cells as text, numbers or times, and refusals that say which row of the file it was. Does
not belong here: which columns a file must have (``inputs``).

Rows of a CSV are numbered as an editor shows them (the header is row 1), those of a Parquet file from 0. Empty cells
are null; any other cell that is no number or no time is refused.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from sust_dagster.agents.planner.jobs import InputError
from sust_dagster.world.schemas import TIMESTAMP

_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_TIME = r"^\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,6})?)?)?)?(Z|[+-]\d\d:?\d\d)?$"
_ZONE = r"(Z|[+-]\d\d:?\d\d)$"


class PlanFileError(InputError):
    """A file the planner cannot use: file, row, column and remedy."""


@dataclass(frozen=True)
class TableFile:
    """A file's table as it was read, its header by plain name, and the number of its first data row."""

    path: Path
    table: pa.Table
    names: dict[str, str]
    first_row: int

    @classmethod
    def read(cls, path: str | Path) -> TableFile:
        """Read a ``.csv``, ``.csv.gz`` or ``.parquet`` file; raises :class:`PlanFileError`."""
        path = Path(path).expanduser()
        if not path.is_file():
            raise PlanFileError("no such file", file=str(path))
        if path.name.endswith(".parquet"):
            table, first = _parquet(path), 0
        elif path.name.endswith((".csv", ".csv.gz")):
            table, first = _csv(path), 2
        else:
            raise PlanFileError("unknown file type", file=str(path), fix="give .csv, .csv.gz or .parquet")
        names: dict[str, str] = {}
        for name in table.column_names:
            plain = name.replace("\ufeff", "").strip().lower()
            if plain in names:
                raise PlanFileError("stands twice in the header", file=str(path), column=name, fix="drop one of them")
            names[plain] = name
        return cls(path, table, names, first)

    def refuse(self, message: str, at: int | None, column: str, fix: str) -> PlanFileError:
        return PlanFileError(message, file=str(self.path), row=at, first_row=self.first_row, column=column, fix=fix)

    def find(self, names: Sequence[str]) -> str | None:
        """The file's own name of the first of ``names`` it has."""
        return next((self.names[n] for n in names if n in self.names), None)

    def need(self, names: Sequence[str]) -> str:
        """The same; raises :class:`PlanFileError` where it has none."""
        found = self.find(names)
        if found is None:
            have = ", ".join(self.table.column_names)
            raise PlanFileError(f"no column {names[0]}", file=str(self.path), fix=f"add it; the file has {have}")
        return found

    def text(self, column: str) -> pa.ChunkedArray:
        """A text column, trimmed; empty cells are null."""
        values = pc.utf8_trim_whitespace(pc.cast(self.table.column(column), pa.string()))
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)

    def numbers(self, column: str) -> pa.ChunkedArray:
        """A number column as float64; empty cells are null."""
        values = self.table.column(column)
        kind = values.type
        if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
            return pc.cast(values, pa.float64(), safe=False)
        if pa.types.is_null(kind):
            return pc.cast(values, pa.float64())
        words = self.text(column)
        try:
            return pc.cast(words, pa.float64())
        except pa.ArrowInvalid:
            bad = pc.fill_null(pc.invert(pc.match_substring_regex(words, _NUMBER)), False).to_numpy()
            at = int(np.flatnonzero(bad)[0])
            raise self.refuse(
                f"{words[at].as_py()!r} is not a number", at, column, "leave the cell empty where there is no value"
            ) from None

    def times(self, column: str) -> pa.ChunkedArray:
        """A time column in UTC; a time without a zone is UTC by declaration. Empty cells are null."""
        values = self.table.column(column)
        if pa.types.is_timestamp(values.type):
            if values.type.tz is None:
                values = pc.assume_timezone(values, "UTC")
            return pc.cast(values, TIMESTAMP, safe=False)
        if pa.types.is_date(values.type):
            return pc.assume_timezone(pc.cast(values, pa.timestamp("us")), "UTC")
        words = self.text(column)
        words = pc.replace_substring_regex(words, r"\s*(UTC|utc|z)$", "Z")
        bad = pc.fill_null(pc.invert(pc.match_substring_regex(words, _TIME)), False)
        if pc.any(bad).as_py():
            at = int(np.flatnonzero(bad.to_numpy())[0])
            raise self.refuse(f"{words[at].as_py()!r} is not a time", at, column, "write YYYY-MM-DD HH:MM:SS, in UTC")
        words = pc.replace_substring_regex(words, r"^(.{10})Z$", r"\1")
        whole = pc.if_else(pc.equal(pc.utf8_length(words), 10), pc.binary_join_element_wise(words, "00:00", "T"), words)
        zoned = pc.match_substring_regex(whole, _ZONE)
        try:
            return pc.cast(pc.if_else(zoned, whole, pc.binary_join_element_wise(whole, "Z", "")), TIMESTAMP)
        except pa.ArrowInvalid as error:
            raise self.refuse(str(error), None, column, "write YYYY-MM-DD HH:MM:SS, in UTC") from None


def _parquet(path: Path) -> pa.Table:
    try:
        return pa_parquet.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise PlanFileError(f"not a Parquet file: {error}", file=str(path), fix="write it again") from error


def _csv(path: Path) -> pa.Table:
    """Cells as text. A row of another width is found a second time in one thread, which knows its number."""
    header = _header(path)
    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()), strings_can_be_null=False)
    try:
        return pa_csv.read_csv(path, convert_options=text)
    except (pa.ArrowException, OSError) as error:
        told: Exception = error
        try:
            pa_csv.read_csv(path, pa_csv.ReadOptions(use_threads=False), convert_options=text)
        except (pa.ArrowException, OSError) as again:
            told = again
        raise _unreadable(path, told) from error


def _header(path: Path) -> list[str]:
    opener = gzip.open if path.name.endswith(".gz") else Path.open
    try:
        with opener(path, mode="rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise _unreadable(path, error) from error
    if not header:
        raise PlanFileError("the file is empty", file=str(path), fix="give a header and its rows")
    return header


def _unreadable(path: Path, error: Exception) -> PlanFileError:
    broken = path.name.endswith(".gz") and not isinstance(error, pa.ArrowInvalid)
    fix = "the file is cut off or damaged: fetch it again" if broken else "every row needs the header's columns"
    return PlanFileError(f"not a readable CSV: {error}", file=str(path), fix=fix)

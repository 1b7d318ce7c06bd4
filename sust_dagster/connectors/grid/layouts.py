"""The layouts a grid file may have: Electricity Maps downloads, plain tables, one column per zone.

Belongs here: which layouts are known, how a cell becomes a time or a number, and refusals that name file,
row, column and remedy. Does not belong here: several files as one source (``files``), hourly resampling, gaps and
boxes (the accountant's), or which zone a region has (the reference table).

Known layouts, CSV (also .gz) or Parquet, told apart by their columns:

- Electricity Maps, both headers: ``Datetime (UTC)``, ``Zone id``, ``Carbon intensity gCO₂eq/kWh (Life cycle)``
  or ``(LCA)``, ``... (direct)``, ``Data estimated``; with or without the subscript, in any case;
- plain: ``ts``, ``region`` or ``zone``, ``intensity_g_per_kwh`` (or ``intensity_kgco2_kwh``), optional ``lower``,
  ``upper``, ``signal``, ``method``, ``estimated``;
- research traces: a time column, ``zone_name`` or ``region`` and ``carbon_intensity`` columns;
- wide: a time column and one number column per zone or region, at least one of them in our reference tables; an
  empty cell is an hour nobody reported.

An empty intensity cell is a gap, and its hour is left out; a cell that says something that is no number is
refused. Electricity Maps gives two intensities per hour: ``lifecycle`` is taken unless ``direct`` is asked for
(GHG Protocol Scope 2 asks for direct emissions of generation).
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from sust_dagster.agents.accountant.columns import floats
from sust_dagster.agents.accountant.grid import GridDataError, check_values
from sust_dagster.connectors.grid.protocol import SOURCE_SCHEMA, GridError
from sust_dagster.reference import region_zones
from sust_dagster.reference import regions as reference_regions

IntensityMethod = Literal["lifecycle", "direct"]

TIMESTAMP = SOURCE_SCHEMA.field("ts").type

_TIME_NAMES = ("ts", "datetime (utc)", "datetime", "utc time", "timestamp", "time", "point_time")
_ZONE_NAMES = ("zone", "zone id", "zone_id", "zone_name")
_REGION_NAMES = ("region",)
_ESTIMATED_NAMES = ("estimated", "data estimated", "isestimated")
_BOX_NAMES = ("system_rel_lower", "system_rel_upper", "hour_rel_lower", "hour_rel_upper")
_GRAMS_NAME = "intensity_g_per_kwh"
_KG_NAME = "intensity_kgco2_kwh"

#: Column of each (signal, method) in the research traces.
_TRACE_COLUMNS: dict[tuple[str, str], tuple[str, ...]] = {
    ("average", "lifecycle"): ("carbon_intensity_avg", "carbon_intensity"),
    ("average", "direct"): ("carbon_intensity_direct_avg", "carbon_intensity"),
    ("marginal", "lifecycle"): ("marginal_carbon_avg",),
    ("marginal", "direct"): ("marginal_carbon_avg",),
}

_TIME_PATTERN = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?$"
_NUMBER = r"^[ ]*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?[ ]*$"


def load(path: Path, method: IntensityMethod | None, signal: str) -> pa.Table:
    """One file as ``SOURCE_SCHEMA`` rows, with file row numbers behind every refusal.

    ``method`` chooses where a file offers both, and names that of a file which says nothing; ``None`` is life cycle.
    Raises :class:`UnknownLayoutError` for a file that is no grid file, :class:`GridError`
    for a grid file that cannot be used.
    """
    reader = _layout(path, {_plain(n): n for n in _header(path)})
    table, first_row = _read(path)
    names = {_plain(n): n for n in table.column_names}
    try:
        rows = reader(_File(path, table, names, first_row), method, signal)
    except GridDataError as error:
        raise GridError(error.message, file=str(path), row=error.row, column=error.column, fix=error.fix) from error
    if rows.num_rows == 0:
        raise GridError("the file holds no intensity", file=str(path), fix="every cell of the column is empty")
    return rows


class UnknownLayoutError(GridError):
    """The file is no grid file, by its type or its columns; in a folder of other files it may be passed over."""


def _named(path: Path, method: IntensityMethod | None) -> IntensityMethod:
    """The method of a file whose columns name none: as its own name says, else as asked, else life cycle."""
    return "direct" if "direct" in re.split(r"[^a-z]+", path.name.lower()) else method or "lifecycle"


def _header(path: Path) -> list[str]:
    """Column names alone: whether a file is a grid file is known before the rest of it is read."""
    if not path.is_file():
        raise GridError("no such file", file=str(path))
    if path.name.endswith(".parquet"):
        try:
            return pa_parquet.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            raise GridError(f"not a Parquet file: {error}", file=str(path), fix="write it again") from error
    if not path.name.endswith((".csv", ".csv.gz")):
        raise UnknownLayoutError("unknown file type", file=str(path), fix="give .csv, .csv.gz or .parquet")
    opener = gzip.open if path.name.endswith(".gz") else Path.open
    try:
        with opener(path, mode="rt", encoding="utf-8-sig", errors="replace", newline="") as stream:
            return next(csv.reader(stream), [])
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> GridError:
    broken = path.name.endswith(".gz") and not isinstance(error, pa.ArrowInvalid)
    fix = "the file is cut off or damaged: fetch it again" if broken else "every row needs the header's columns"
    return GridError(f"not a readable CSV: {error}", file=str(path), fix=fix)


def _plain(name: str) -> str:
    """A header without case, byte-order mark or subscripts."""
    return name.replace("\ufeff", "").replace("₂", "2").strip().lower()


def _read(path: Path) -> tuple[pa.Table, int]:
    """The file as a table, CSV cells as text; and the number people would give its first data row."""
    if path.name.endswith(".parquet"):
        try:
            return pa_parquet.read_table(path), 0
        except (pa.ArrowException, OSError) as error:
            raise GridError(f"not a Parquet file: {error}", file=str(path), fix="write it again") from error
    text = pa_csv.ConvertOptions(column_types=dict.fromkeys(_header(path), pa.string()), strings_can_be_null=False)
    try:
        return pa_csv.read_csv(path, convert_options=text), 2
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, _numbered(path, text) or error) from error


def _numbered(path: Path, options: pa_csv.ConvertOptions) -> Exception | None:
    """The same failure once more, read in one thread: only so does the reader say which row it was."""
    try:
        pa_csv.read_csv(path, pa_csv.ReadOptions(use_threads=False), convert_options=options)
    except (pa.ArrowException, OSError) as error:
        return error
    return None


@dataclass(frozen=True)
class _File:
    """A file's table, its header by plain name, and where its rows begin."""

    path: Path
    table: pa.Table
    names: dict[str, str]
    first_row: int

    def find(self, candidates: Sequence[str]) -> str | None:
        """The file's own name of the first candidate it has."""
        return next((self.names[c] for c in candidates if c in self.names), None)

    @cached_property
    def version(self) -> str:
        """SHA-256 of the file."""
        return "sha256:" + hashlib.sha256(self.path.read_bytes()).hexdigest()

    def refuse(self, message: str, at: int, column: str, fix: str) -> GridError:
        return GridError(message, file=str(self.path), row=at + self.first_row, column=column, fix=fix)

    def times(self, column: str) -> pa.ChunkedArray:
        """A time column as UTC; times without a zone are UTC by declaration."""
        values = self.table[column]
        if pa.types.is_timestamp(values.type):
            if values.type.tz is None:
                values = pc.assume_timezone(values, "UTC")
            return pc.cast(values, TIMESTAMP, safe=False)
        text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        bad = pc.invert(pc.fill_null(pc.match_substring_regex(text, _TIME_PATTERN), False))
        if pc.any(bad).as_py():
            at = int(np.flatnonzero(bad.to_numpy())[0])
            raise self.refuse(f"{text[at].as_py()!r} is not a time", at, column, "write YYYY-MM-DD HH:MM:SS, in UTC")
        text = pc.replace_substring(text, "T", " ")
        text = pc.replace_substring_regex(text, " ?(Z|UTC|[+]00:?00)$", "")
        offset = pc.match_substring_regex(text, r"[+-]\d\d:?\d\d$")
        if pc.any(offset).as_py():
            at = int(np.flatnonzero(offset.to_numpy())[0])
            raise self.refuse(
                f"{self.table[column][at].as_py()!r} is not in UTC", at, column, "convert the times to UTC"
            )
        try:
            return pc.assume_timezone(pc.cast(text, pa.timestamp("us")), "UTC")
        except pa.ArrowInvalid as error:
            raise GridError(
                str(error), file=str(self.path), column=column, fix="write YYYY-MM-DD HH:MM:SS, in UTC"
            ) from error

    def numbers(self, column: str) -> pa.ChunkedArray:
        """A number column as float64; an empty cell is null, any other text is refused."""
        values = self.table[column]
        if pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_null(values.type):
            return pc.cast(values, pa.float64())
        text = pc.utf8_trim_whitespace(pc.cast(values, pa.string()))
        text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        bad = pc.fill_null(pc.invert(pc.match_substring_regex(text, _NUMBER)), False)
        if pc.any(bad).as_py():
            at = int(np.flatnonzero(bad.to_numpy())[0])
            raise self.refuse(
                f"{text[at].as_py()!r} is not a number", at, column, "leave the cell empty where there is no value"
            )
        return pc.cast(text, pa.float64())

    def flags(self, column: str | None) -> pa.ChunkedArray | pa.Array:
        """A yes/no column; absent or empty is no."""
        if column is None:
            return pa.array(np.zeros(self.table.num_rows, dtype=bool))
        values = self.table[column]
        if pa.types.is_boolean(values.type):
            return pc.fill_null(values, False)
        return pc.is_in(pc.utf8_lower(pc.cast(values, pa.string())), pa.array(["true", "1", "yes"]))


_Reader = Callable[[_File, IntensityMethod | None, str], pa.Table]


def _layout(path: Path, names: dict[str, str]) -> _Reader:
    """The reader of the layout these columns make."""
    if any(n.startswith("carbon intensity gco2eq/kwh") for n in names):
        return _electricity_maps
    if _GRAMS_NAME in names or _KG_NAME in names:
        return _plain_table
    if any(c in names for columns in _TRACE_COLUMNS.values() for c in columns):
        return _trace
    if any(n in _TIME_NAMES for n in names) and _places().intersection(names.values()):
        return _wide
    raise UnknownLayoutError(
        f"unknown layout: columns {list(names.values())[:12]}" if names else "the file is empty",
        file=str(path),
        fix="give ts, region (or zone), intensity_g_per_kwh; or an Electricity Maps download",
    )


@lru_cache(maxsize=1)
def _places() -> frozenset[str]:
    """Every zone and region of the reference tables: a table of columns by place has some of them."""
    return frozenset(region_zones()["zone"].to_pylist()) | frozenset(reference_regions()["region"].to_pylist())


def _need(file: _File, what: str, candidates: Sequence[str]) -> str:
    found = file.find(candidates)
    if found is None:
        raise GridError(f"no {what} column", file=str(file.path), fix=f"name it {' or '.join(candidates[:2])}")
    return found


def _rows(
    file: _File,
    grams: pa.ChunkedArray,
    column: str,
    *,
    place: tuple[str, pa.ChunkedArray],
    times: pa.ChunkedArray,
    signal: str | pa.ChunkedArray,
    method: str | pa.ChunkedArray,
    source: str,
    estimated: pa.ChunkedArray | pa.Array,
    bounds: tuple[pa.ChunkedArray, pa.ChunkedArray] | None = None,
    own: Mapping[str, pa.ChunkedArray] | None = None,
) -> pa.Table:
    """Checked rows of a long layout: gaps (empty cells) left out, the rest as the source schema."""
    n = file.table.num_rows
    kind, places = place
    names = pc.cast(places, pa.string())
    unnamed = pc.fill_null(pc.equal(names, ""), True)
    if pc.any(unnamed).as_py():
        at = int(np.flatnonzero(unnamed.to_numpy())[0])
        raise file.refuse(f"no {kind} in the row", at, kind, "every row names its place")
    reported = pc.is_valid(grams)
    index = np.flatnonzero(reported.to_numpy())
    check_values(floats(grams.filter(reported)), column=column, rows=index + file.first_row)
    blank = pa.array([""]).take(pa.array(np.zeros(n, dtype=np.int64)))

    def whole(value: str | pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        return (
            pc.cast(value, pa.string()) if not isinstance(value, str) else pc.if_else(pc.equal(blank, ""), value, blank)
        )

    none = pa.nulls(n, pa.float64())
    table = pa.table(
        {
            "ts": times,
            "region": blank if kind == "zone" else names,
            "zone": names if kind == "zone" else pa.nulls(n, pa.string()),
            _GRAMS_NAME: grams,
            "lower": none if bounds is None else bounds[0],
            "upper": none if bounds is None else bounds[1],
            "signal": whole(signal),
            "method": whole(method),
            "estimated": estimated,
            "quality": whole("ok"),
            "source": whole(source),
            "source_version": whole(file.version),
            **dict.fromkeys(_BOX_NAMES, none),
        }
        | dict(own or {})
    )
    kept = table.filter(reported).select(SOURCE_SCHEMA.names).cast(SOURCE_SCHEMA)
    _refuse_duplicates(file, kept, index)
    return kept


def _refuse_duplicates(file: _File, rows: pa.Table, index: np.ndarray) -> None:
    """Refuse a second row for one time and place, naming it and whether it contradicts the first."""
    keys = ["ts", "region", "zone", "signal", "method"]
    if rows.group_by(keys, use_threads=False).aggregate([]).num_rows == rows.num_rows:
        return
    numbered = rows.append_column("at", pa.array(index)).to_pandas()
    first = int(np.flatnonzero(numbered.duplicated(keys))[0])
    again = numbered.iloc[first]
    same = (numbered[keys].fillna("") == again[keys].fillna("")).all(axis=1)
    before = numbered[same].iloc[0]
    kind = "duplicate" if before[_GRAMS_NAME] == again[_GRAMS_NAME] else "conflicting duplicate"
    raise file.refuse(
        f"{kind} of row {int(before['at']) + file.first_row} ({before[_GRAMS_NAME]} and {again[_GRAMS_NAME]} g/kWh)",
        int(again["at"]),
        "ts",
        "keep one row per time and place",
    )


def _electricity_maps(file: _File, method: IntensityMethod | None, signal: str) -> pa.Table:
    """Electricity Maps yearly download, header of any year."""
    if signal != "average":
        raise GridError(f"Electricity Maps downloads hold the average signal, not {signal}", file=str(file.path))
    method = method or "lifecycle"
    wanted = ("(direct)",) if method == "direct" else ("(life cycle)", "(lca)")
    column = next(
        (own for n, own in file.names.items() if n.startswith("carbon intensity") and n.endswith(wanted)), None
    )
    if column is None:
        raise GridError(
            f"no {method} intensity column", file=str(file.path), fix=f"a name that ends in {' or '.join(wanted)}"
        )
    zone = _need(file, "zone", ("zone id", "zone_id"))
    return _rows(
        file,
        file.numbers(column),
        column,
        place=("zone", file.table[zone]),
        times=file.times(_need(file, "time", _TIME_NAMES)),
        signal="average",
        method=method,
        source="electricity_maps",
        estimated=file.flags(file.find(_ESTIMATED_NAMES)),
    )


def _plain_table(file: _File, method: IntensityMethod | None, signal: str) -> pa.Table:
    """ts, region or zone, intensity_g_per_kwh[, lower, upper, signal, method, estimated]."""
    column = file.find((_GRAMS_NAME, _KG_NAME))
    region = file.find(_REGION_NAMES)
    if column is None or (region is None and file.find(_ZONE_NAMES) is None):
        raise GridError("no region and no zone column", file=str(file.path), fix="name it region or zone")
    scale = 1000.0 if _plain(column) == _KG_NAME else 1.0
    kind, place = ("region", region) if region is not None else ("zone", _need(file, "zone", _ZONE_NAMES))
    names = (("lower", "upper"), ("intensity_lower", "intensity_upper"))
    pair = next((p for p in ((file.find((a,)), file.find((b,))) for a, b in names) if p[0] and p[1]), None)
    bounds = None
    if pair is not None:
        low, high = (pc.multiply(file.numbers(str(name)), scale) for name in pair)
        bounds = (low, high)
    own_signal, own_method, own_quality = (file.find((n,)) for n in ("signal", "method", "quality"))
    own: dict[str, pa.ChunkedArray] = {}
    if all(n in file.names for n in _BOX_NAMES):
        # Our own intensity table, exported: its boxes and flags come back as they were.
        own = {n: file.numbers(file.names[n]) for n in _BOX_NAMES}
    if own_quality is not None:
        own["quality"] = pc.fill_null(pc.cast(file.table[own_quality], pa.string()), "ok")
    rows = _rows(
        file,
        pc.multiply(file.numbers(column), scale),
        column,
        place=(kind, file.table[place]),
        times=file.times(_need(file, "time", _TIME_NAMES)),
        signal=signal if own_signal is None else file.table[own_signal],
        method=_named(file.path, method) if own_method is None else file.table[own_method],
        source="file",
        estimated=file.flags(file.find(_ESTIMATED_NAMES)),
        bounds=bounds,
        own=own,
    )
    # A file with several signals is read for the one asked for; what it says about its method stands.
    return rows.filter(pc.equal(rows["signal"], signal))


def _trace(file: _File, method: IntensityMethod | None, signal: str) -> pa.Table:
    """Research traces: time, zone_name or region (a zone), carbon_intensity columns."""
    method = _named(file.path, method) if "carbon_intensity" in file.names else method or "lifecycle"
    column = file.find(_TRACE_COLUMNS.get((signal, method), ()))
    if column is None:
        raise GridError(
            f"no column of {signal} {method} intensity",
            file=str(file.path),
            fix=f"columns: {list(file.names.values())}",
        )
    return _rows(
        file,
        file.numbers(column),
        column,
        place=("zone", file.table[_need(file, "zone", (*_ZONE_NAMES, *_REGION_NAMES))]),
        times=file.times(_need(file, "time", _TIME_NAMES)),
        signal=signal,
        method=method,
        source="file",
        estimated=file.flags(file.find(_ESTIMATED_NAMES)),
    )


def _wide(file: _File, method: IntensityMethod | None, signal: str) -> pa.Table:
    """One column per zone or region; an empty or NaN cell is an hour nobody reported."""
    time = _need(file, "time", _TIME_NAMES)
    times = file.times(time)
    method = _named(file.path, method)
    known_regions = set(reference_regions()["region"].to_pylist())
    pieces = []
    for column in file.table.column_names:
        if column == time or _plain(column) in {"", "__index_level_0__"}:
            continue
        grams = file.numbers(column)
        grams = pc.if_else(pc.is_nan(grams), pa.scalar(None, pa.float64()), grams)
        if grams.null_count == len(grams):
            continue
        kind = "region" if column in known_regions else "zone"
        places = pa.chunked_array(
            [pa.array([column], pa.string()).take(pa.array(np.zeros(len(grams), dtype=np.int64)))]
        )
        pieces.append(
            _rows(
                file,
                grams,
                column,
                place=(kind, places),
                times=times,
                signal=signal,
                method=method,
                source="file",
                estimated=file.flags(None),
            )
        )
    return pa.concat_tables(pieces) if pieces else SOURCE_SCHEMA.empty_table()

"""The jobs to plan, checked and as arrays.

Belongs here: which columns a table of jobs has, which values no job can have, and the table as arrays. Does not belong
here: what a job may do (``windows``), files (connectors), the hours it meets (``candidates``).

Two kinds of bad input are kept apart. A value that no job can have (NaN, negative, infinite, no id, two jobs of one
id) is a malformed table: :class:`InputError` names row, column and fix. A job that merely cannot be planned (an unknown
category, no cost, no data size) is kept, and its outcome is named in its row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Coded, encode, floats
from sust_dagster.agents.planner.problem import Floats, Ints
from sust_dagster.world.schemas import CATEGORIES, TIMESTAMP, UPCOMING_JOBS

HOUR_US = 3_600_000_000

#: Columns every table of jobs has; ``cost_usd`` may be left out where prices are given.
REQUIRED = (
    "job_id", "workload_id", "team_id", "cloud_provider", "region", "category", "requested_start", "duration_hours",
    "vcpus", "gpus", "data_gb", "cost_usd",
)  # fmt: skip
#: ``depends_on`` holds comma-joined job ids; ``expected_count`` the runs a row stands for (1 without it).
OPTIONAL = ("sla_latency_ms", "allowed_regions", "max_delay_hours", "depends_on", "expected_count")
#: Columns in which an empty cell is an answer: not known, or none.
_MAY_BE_EMPTY = ("data_gb", "cost_usd", *OPTIONAL, "workload_id", "team_id", "cloud_provider", "category")
_LARGEST = 1e12
#: Longest run, hours: ten years. Longer is seconds or minutes by mistake.
LONGEST_HOURS = 87_660.0
#: Code of a category that is none of CATEGORIES.
UNKNOWN_CATEGORY = len(CATEGORIES)


class InputError(ValueError):
    """A table that cannot be used: which row and column, what stands there, and the remedy."""

    def __init__(
        self,
        message: str,
        *,
        row: int | None = None,
        column: str | None = None,
        fix: str = "",
        other: int | None = None,
        file: str = "",
        first_row: int = 0,
    ) -> None:
        """``row``, ``other``: positions in the table; ``first_row`` is what people call its first one."""
        number, first = (None if r is None else r + first_row for r in (row, other))
        where = [f"row {number}" if number is not None else "", f"column {column}" if column else ""]
        what = message if first is None else f"{message} row {first}"
        parts = [p for p in (file, ", ".join(w for w in where if w), what) if p]
        super().__init__(": ".join(parts) + (f". {fix}" if fix else ""))
        self.message, self.row, self.column, self.fix, self.other = message, row, column, fix, other

    def within(self, file: str, first_row: int) -> InputError:
        """The same error as it is told of a file whose first data row is numbered ``first_row``."""
        return InputError(
            self.message, row=self.row, column=self.column, fix=self.fix, other=self.other, file=file,
            first_row=first_row,
        )  # fmt: skip


@dataclass(frozen=True)
class Jobs:
    """n jobs as aligned arrays; NaN is 'not known' or 'no limit' where the column may be empty."""

    ids: pa.Array
    region: Coded
    """Home."""
    provider: Coded
    category: Ints
    """Position in CATEGORIES, or UNKNOWN_CATEGORY."""
    start_us: Ints
    """Requested start, microseconds since 1970-01-01T00:00Z."""
    duration_hours: Floats
    vcpus: Floats
    gpus: Floats
    data_gb: Floats
    cost_usd: Floats
    sla_latency_ms: Floats
    max_delay_hours: Floats
    allowed: Coded
    """Comma-joined regions; '' = no list of its own."""
    depends_on: pa.Array
    """Comma-joined job ids; null = none."""
    count: Floats
    """Runs the row stands for."""

    def __len__(self) -> int:
        return len(self.start_us)

    @property
    def start_hours(self) -> Floats:
        """Requested start, hours since 1970-01-01T00:00Z."""
        return self.start_us / HOUR_US

    @property
    def homes(self) -> tuple[str, ...]:
        """Home regions that occur, sorted."""
        return tuple(sorted({self.region.values[c] for c in np.unique(self.region.codes)}))


def read_jobs(table: pa.Table, *, priced: bool = False) -> Jobs:
    """A table of jobs as arrays.

    ``priced``: compute prices are given, so that ``cost_usd`` may be left out. Times without a zone are UTC. Raises
    :class:`InputError` for a missing column or the first value no job can have.
    """
    for name in REQUIRED:
        if name not in table.column_names and not (name == "cost_usd" and priced):
            raise InputError(f"no column {name}", column=name, fix=f"a table of jobs has {', '.join(REQUIRED)}")
    numbers = {
        name: _number(table, name)
        for name in ("vcpus", "gpus", "data_gb", "cost_usd", "sla_latency_ms", "max_delay_hours")
    }
    ids = _text(table, "job_id")
    _refuse_duplicates(ids)
    category = _words(table, "category")
    known = np.array([_category(v) for v in category.values], np.int64)
    return Jobs(
        ids=ids,
        region=_words(table, "region"),
        provider=_words(table, "cloud_provider"),
        category=known[category.codes],
        start_us=_start(table),
        duration_hours=_number(table, "duration_hours", LONGEST_HOURS),
        allowed=_words(table, "allowed_regions"),
        depends_on=_text(table, "depends_on"),
        count=np.nan_to_num(_number(table, "expected_count"), nan=1.0),
        **numbers,
    )


def _category(word: str) -> int:
    word = word.strip().lower()
    return CATEGORIES.index(word) if word in CATEGORIES else UNKNOWN_CATEGORY


def _first(bad: np.ndarray) -> int:
    return int(np.flatnonzero(bad)[0])


def _text(table: pa.Table, name: str) -> pa.Array:
    """A text column, trimmed, as one array; null where it is absent. Refuses empty cells where one must stand."""
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    values = table.column(name)
    if not pa.types.is_string(values.type):
        values = pc.cast(values, pa.string())
    values = pc.utf8_trim_whitespace(values).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.string())
    if name not in _MAY_BE_EMPTY:
        empty = pc.fill_null(pc.equal(values, ""), True).to_numpy(zero_copy_only=False)
        if empty.any():
            raise InputError("is empty", row=_first(empty), column=name, fix=f"every job states its {name}")
    return values


def _words(table: pa.Table, name: str) -> Coded:
    return encode(_text(table, name))


def _number(table: pa.Table, name: str, largest: float = _LARGEST) -> Floats:
    """A number column as float64, NaN where it is empty or absent."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    column = pc.cast(table.column(name), pa.float64())
    empty = column.is_null().to_numpy()
    if name not in _MAY_BE_EMPTY and empty.any():
        raise InputError("is empty", row=_first(empty), column=name, fix=f"every job states its {name}")
    values = floats(column)
    for bad, what, fix in (
        (~np.isfinite(values) & ~empty, "is no finite number", "leave the cell empty where it is not known"),
        (values < 0, "is negative", "it counts from 0 up"),
        (values > largest, f"is above {largest:g}", "check its unit"),
    ):
        if bad.any():
            at = _first(bad)
            raise InputError(f"{values[at]} {what}", row=at, column=name, fix=fix)
    return values


def _start(table: pa.Table) -> Ints:
    column = table.column("requested_start")
    if not pa.types.is_timestamp(column.type):
        raise InputError(f"holds {column.type}, not times", column="requested_start", fix="write UTC times")
    if column.null_count:
        at = _first(column.is_null().to_numpy())
        raise InputError("is empty", row=at, column="requested_start", fix="every job states its requested start")
    if column.type.tz is None:
        column = pc.assume_timezone(column, "UTC")
    return pc.cast(column, TIMESTAMP, safe=False).cast(pa.int64()).to_numpy().astype(np.int64)


def _refuse_duplicates(ids: pa.Array) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    codes = encode(ids).codes
    again = np.ones(len(codes), bool)
    again[np.unique(codes, return_index=True)[1]] = False
    at = _first(again)
    before = _first(codes == codes[at])
    raise InputError(
        f"{ids[at].as_py()!r} stands already in", other=before, row=at, column="job_id", fix="one row per job"
    )  # fmt: skip


assert {*REQUIRED, *OPTIONAL} <= set(UPCOMING_JOBS.column_names), "the declared table has every column"

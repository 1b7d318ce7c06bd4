"""Small tables by region and hour, or by pair of regions, as arrays.

Belongs here: prices, capacity, egress, latency and hourly values on the planner's axes, and which of their values
cannot be. Does not belong here: files (connectors), what the arrays are used for (``candidates``).

A row is refused for a region that is empty, an hour that is none, a number that is not finite or negative, or a second
row for the same place and hour. What no row speaks of has a stated meaning: no price, no limit, 0.02 USD/GB, latency
not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import floats
from sust_dagster.agents.planner.jobs import HOUR_US, InputError
from sust_dagster.agents.planner.problem import Flags, Floats, Ints
from sust_dagster.agents.planner.windows import EGRESS_USD_PER_GB


@dataclass(frozen=True)
class Axes:
    """R regions and H hours from ``first_hour`` (hours since 1970-01-01T00:00Z)."""

    regions: tuple[str, ...]
    first_hour: int
    hours: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.regions), self.hours


def prices(table: pa.Table, axes: Axes) -> Floats:
    """R x H (or R x 1 without ``ts``) USD per vCPU-hour; NaN where no row says one.

    ``table``: region, usd_per_vcpu_hour[, ts]; an empty price is none. Raises :class:`InputError`.
    """
    return _by_region(table, "usd_per_vcpu_hour", axes, np.nan, may_be_empty=True)


def capacity(table: pa.Table, axes: Axes) -> Floats:
    """R x H vCPUs; inf where no row sets a limit. ``table``: region, vcpus[, ts]. Raises :class:`InputError`."""
    limits = _by_region(table, "vcpus", axes, np.inf, may_be_empty=False)
    return np.ascontiguousarray(np.broadcast_to(limits, axes.shape))


def egress(table: pa.Table | None, regions: Sequence[str]) -> Floats:
    """R x R USD per GB, row = from; 0.02 where no row says otherwise, 0 within a region.

    ``table``: from_region, to_region, usd_per_gb. Raises :class:`InputError`.
    """
    matrix = np.full((len(regions), len(regions)), EGRESS_USD_PER_GB)
    if table is not None:
        stated = _by_pair(table, "usd_per_gb", regions)
        matrix = np.where(np.isnan(stated), matrix, stated)
    np.fill_diagonal(matrix, 0.0)
    return matrix


def latency(table: pa.Table | None, regions: Sequence[str]) -> Floats:
    """R x R round-trip ms, row = from; NaN where not known. One direction stands for both.

    ``table``: from_region, to_region, rtt_ms. Raises :class:`InputError`.
    """
    if table is None:
        return np.full((len(regions), len(regions)), np.nan)
    stated = _by_pair(table, "rtt_ms", regions)
    return np.where(np.isnan(stated), stated.T, stated)


def hourly(table: pa.Table, name: str, axes: Axes) -> NDArray:
    """R x H of column ``name`` of a table with ``ts`` and ``region``, one row per cell; NaN (or False) elsewhere.

    For grid intensities and forecasts, whose tables are checked where they are made.
    """
    region = pc.fill_null(pc.index_in(table.column("region"), pa.array(axes.regions, pa.string())), -1).to_numpy()
    hour = table.column("ts").cast(pa.int64()).to_numpy() // HOUR_US - axes.first_hour
    here = (region >= 0) & (hour >= 0) & (hour < axes.hours)
    column = table.column(name)
    flags = pa.types.is_boolean(column.type)
    values = column.to_numpy() if flags else floats(column)
    out = np.zeros(axes.shape, bool) if flags else np.full(axes.shape, np.nan)
    out[region[here], hour[here]] = values[here]
    return out


def _by_region(table: pa.Table, name: str, axes: Axes, fill: float, *, may_be_empty: bool) -> Floats:
    values = _values(table, name, may_be_empty)
    region = _names(table, "region", axes.regions)
    if "ts" not in table.column_names:
        _refuse_duplicates(table, ["region"], "region")
        out = np.full((len(axes.regions), 1), fill)
        held = (region >= 0) & ~np.isnan(values)
        out[region[held], 0] = values[held]
        return out
    hour = _hours(table) - axes.first_hour
    _refuse_duplicates(table, ["region", "ts"], "ts")
    out = np.full(axes.shape, fill)
    held = (region >= 0) & (hour >= 0) & (hour < axes.hours) & ~np.isnan(values)
    out[region[held], hour[held]] = values[held]
    return out


def _by_pair(table: pa.Table, name: str, regions: Sequence[str]) -> Floats:
    values = _values(table, name, may_be_empty=False)
    origin, target = (_names(table, c, regions) for c in ("from_region", "to_region"))
    _refuse_duplicates(table, ["from_region", "to_region"], "to_region")
    out = np.full((len(regions), len(regions)), np.nan)
    held = (origin >= 0) & (target >= 0)
    out[origin[held], target[held]] = values[held]
    return out


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InputError(f"no column {name}", column=name, fix=f"columns here: {', '.join(table.column_names)}")
    return table.column(name)


def _at(bad: Flags) -> int:
    return int(np.flatnonzero(bad)[0])


def _values(table: pa.Table, name: str, may_be_empty: bool) -> Floats:
    column = pc.cast(_column(table, name), pa.float64())
    empty = column.is_null().to_numpy()
    if empty.any() and not may_be_empty:
        raise InputError("is empty", row=_at(empty), column=name, fix="leave the row out where there is no value")
    values = floats(column)
    for bad, what in ((~np.isfinite(values) & ~empty, "is no finite number"), (values < 0, "is negative")):
        if bad.any():
            raise InputError(f"{values[_at(bad)]} {what}", row=_at(bad), column=name, fix="correct or drop the row")
    return values


def _names(table: pa.Table, name: str, regions: Sequence[str]) -> Ints:
    """Position of each row's region; -1 for one that is not looked at."""
    column = pc.utf8_trim_whitespace(pc.cast(_column(table, name), pa.string()))
    empty = pc.fill_null(pc.equal(column, ""), True).to_numpy()
    if empty.any():
        raise InputError("is empty", row=_at(empty), column=name, fix="every row names its region")
    return pc.fill_null(pc.index_in(column, pa.array(regions, pa.string())), -1).to_numpy().astype(np.int64)


def _hours(table: pa.Table) -> Ints:
    """Hours since 1970 of ``ts``."""
    column = table.column("ts")
    if column.null_count:
        at = _at(column.is_null().to_numpy())
        raise InputError("is empty", row=at, column="ts", fix="state the hour, or leave the column out altogether")
    micros = column.cast(pa.int64()).to_numpy()
    broken = micros % HOUR_US != 0
    if broken.any():
        at = _at(broken)
        raise InputError(
            f"{column[at].as_py():%Y-%m-%d %H:%M:%S} is not the start of an hour", row=at, column="ts",
            fix="one row per whole UTC hour",
        )  # fmt: skip
    return micros // HOUR_US


def _refuse_duplicates(table: pa.Table, keys: list[str], column: str) -> None:
    rows = table.select(keys).append_column("at", pa.array(np.arange(table.num_rows)))
    seen = rows.group_by(keys, use_threads=False).aggregate([("at", "min"), ("at", "count"), ("at", "max")])
    if seen.num_rows == table.num_rows:
        return
    twice = seen.filter(pc.greater(seen.column("at_count"), 1)).sort_by("at_min").slice(0, 1).to_pylist()[0]
    again = rows.filter(
        pc.and_(
            pc.greater(rows.column("at"), twice["at_min"]),
            _equal(rows, {k: twice[k] for k in keys}),
        )
    )
    raise InputError(
        "the same " + " and ".join(keys) + " as", other=twice["at_min"], row=again.column("at")[0].as_py(),
        column=column, fix="keep one of them",
    )  # fmt: skip


def _equal(rows: pa.Table, values: dict[str, object]) -> pa.ChunkedArray:
    """Rows whose columns have these values."""
    flags = [pc.equal(rows.column(k), pa.scalar(v, rows.schema.field(k).type)) for k, v in values.items()]
    out = flags[0]
    for more in flags[1:]:
        out = pc.and_(out, more)
    return out

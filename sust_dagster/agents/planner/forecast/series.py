"""Hourly intensity by region on a gapless axis: what a forecast reads.

Belongs here: from a table of hours to one series per region, and what becomes of every hour that is no plain
number. Does not belong here: models, intervals, or how a grid source is read (the connectors').

What becomes of a row: a null, NaN, infinite, negative or absurd value makes its hour ``invalid_hours``; two rows of
one hour that differ make it ``conflicting_hours``, two that agree count once; a value that another stood in for
(``known_good.STAND_IN_FLAGS``) makes it ``stand_in_hours``. Such an hour is as good as missing: a model never
learns from it and no accuracy is scored on it. An hour without a row is ``gap_hours``. Values that stood in are a
series of their own, for a region that has no other yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Coded, Floats, encode, floats
from sust_dagster.agents.accountant.grid import ABSURD_G_PER_KWH
from sust_dagster.agents.accountant.known_good import STAND_IN_FLAGS
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.planner.forecast.errors import ForecastError

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Why an hour is missing, by code; 0 is an hour that is known.
OUTCOMES = ("", "gap_hours", "invalid_hours", "conflicting_hours", "stand_in_hours")
GAP, INVALID, CONFLICT, STAND_IN = range(1, 5)

_REQUIRED = ("ts", "region", "intensity_kgco2_kwh")


@dataclass(frozen=True)
class Series:
    """Hours of one region, from its first known hour to its last; hour ``i`` starts at ``first + i`` (hours, epoch)."""

    region: str
    first: int
    values: Floats
    """Intensity, kgCO2e/kWh; NaN where no hour is known."""
    outcome: NDArray[np.int8]
    """Code into :data:`OUTCOMES`."""
    estimated: Flags
    """The provider says the hour is estimated."""
    version: NDArray[np.int32]
    """Code into ``versions``: where the hour's value comes from."""
    versions: tuple[str, ...]

    @property
    def end(self) -> int:
        """Hour (epoch) after the last one held."""
        return self.first + len(self.values)


@dataclass(frozen=True)
class Region:
    """What a history holds of one region: its own hours, and those that something else stood in for."""

    own: Series | None
    stand_in: Series | None


def read_history(history: pa.Table, until: int, since: int | None = None) -> dict[str, Region]:
    """Each region's series, of hours in ``[since, until)`` (epoch); every region of the table, by name.

    ``history``: ``ts`` (UTC, whole hours), ``region``, ``intensity_kgco2_kwh``, optional ``estimated``, ``quality``,
    ``source_version``, ``signal``, ``method``; rows in any order. Raises :class:`ForecastError`.
    """
    _check(history)
    region = encode(history["region"])
    hour = _hours(history["ts"])
    inside = hour < until
    if since is not None:
        inside &= hour >= since
    names = [n for n in region.values if n]
    at = np.flatnonzero(inside)
    rows = _rows(history.take(pa.array(at)))
    code, hour = region.codes[at], hour[at]
    order = np.lexsort((hour, code))
    edges = np.searchsorted(code[order], np.arange(len(names) + 1))
    found: dict[str, Region] = {}
    for i in sorted(range(len(names)), key=names.__getitem__):
        own = order[edges[i] : edges[i + 1]]
        found[names[i]] = Region(*(_series(names[i], hour[own], rows.take(own), good) for good in (0, STAND_IN)))
    return found


def _check(history: pa.Table) -> None:
    for name in _REQUIRED:
        if name not in history.column_names:
            raise ForecastError(
                "the history has no such column", column=name, fix=f"columns here: {', '.join(history.column_names)}"
            )
    kind = history.schema.field("ts").type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise ForecastError(f"is {kind}, not a time with a zone", column="ts", fix="give UTC timestamps")
    for name in ("ts", "region"):
        if history[name].null_count:
            at = int(np.flatnonzero(history[name].is_null().to_numpy())[0])
            raise ForecastError("is empty", column=name, row=at, fix="leave the row out: a missing hour is a gap")
    for name in ("signal", "method"):
        if name in history.column_names and len(kinds := pc.unique(history[name])) > 1:
            raise ForecastError(
                f"holds {' and '.join(sorted(map(str, kinds.to_pylist())))}: they are different series",
                column=name,
                fix="filter the history to one of them",
            )


def _hours(ts: pa.ChunkedArray) -> Ints:
    micros = pc.cast(pc.cast(ts, pa.timestamp("us", tz="UTC")), pa.int64()).to_numpy()
    off = micros % HOUR_US != 0
    if off.any():
        at = int(np.flatnonzero(off)[0])
        raise ForecastError(
            f"{ts[at].as_py()} is no whole hour", column="ts", row=at, fix="resample to hours: connectors.grid.hourly"
        )
    return micros // HOUR_US


@dataclass(frozen=True)
class _Rows:
    """Columns of history rows: value, what is wrong with it, estimated, version."""

    value: Floats
    outcome: NDArray[np.int8]
    estimated: Flags
    version: Coded

    def take(self, at: Ints) -> _Rows:
        version = Coded(self.version.codes[at], self.version.values)
        return _Rows(self.value[at], self.outcome[at], self.estimated[at], version)


def _rows(history: pa.Table) -> _Rows:
    value = floats(history["intensity_kgco2_kwh"].cast(pa.float64()))
    outcome = np.zeros(len(value), np.int8)
    if "quality" in history.column_names:
        quality = encode(history["quality"])
        stood_in = np.array([any(f in q.split(";") for f in STAND_IN_FLAGS) for q in quality.values])
        outcome[stood_in[quality.codes]] = STAND_IN
    with np.errstate(invalid="ignore"):
        good = np.isfinite(value) & (value >= 0) & (value <= ABSURD_G_PER_KWH / 1000)
    outcome[~good] = INVALID
    estimated = np.zeros(len(value), bool)
    if "estimated" in history.column_names:
        estimated = pc.fill_null(history["estimated"], False).to_numpy()
    column = (
        history["source_version"] if "source_version" in history.column_names else pa.nulls(len(value), pa.string())
    )
    return _Rows(value, outcome, estimated, encode(column))


def _series(region: str, hour: Ints, rows: _Rows, wanted: int) -> Series | None:
    """The rows of one region (by hour) whose outcome is ``wanted``, as a series; ``None`` where there are none."""
    good = rows.outcome == wanted
    if not good.any():
        return None
    first, last = int(hour[good][0]), int(hour[good][-1])
    n = last - first + 1
    inside = (hour >= first) & (hour <= last)
    at = np.where(inside, hour - first, 0)
    outcome, values = np.full(n, GAP, np.int8), np.full(n, np.nan)
    outcome[at[inside & ~good]] = rows.outcome[inside & ~good]
    outcome[at[good]] = 0
    values[at[good]] = rows.value[good]
    differs = at[good & (values[at] != rows.value)]
    outcome[differs], values[differs] = CONFLICT, np.nan
    estimated, version = np.zeros(n, bool), np.full(n, len(rows.version.values) - 1, np.int32)
    estimated[at[good]], version[at[good]] = rows.estimated[good], rows.version.codes[good]
    return _trimmed(Series(region, first, values, outcome, estimated, version, rows.version.values))


def _trimmed(series: Series) -> Series | None:
    """Without unknown hours at either end: a conflict may have taken the first or last one."""
    known = np.flatnonzero(~np.isnan(series.values))
    if not len(known):
        return None
    cut = slice(int(known[0]), int(known[-1]) + 1)
    return Series(
        series.region,
        series.first + int(known[0]),
        series.values[cut],
        series.outcome[cut],
        series.estimated[cut],
        series.version[cut],
        series.versions,
    )


def filled(series: Series) -> Floats:
    """The values with every unknown hour taken from the same hour a day before, or else from the last known hour.

    For the inputs of a model, never for its targets. Only what came before an hour fills it.
    """
    n = len(series.values)
    days = -(-n // 24)
    grid = np.full(days * 24, np.nan)
    grid[:n] = series.values
    index = np.arange(days * 24).reshape(days, 24)
    same_hour = np.maximum.accumulate(np.where(np.isnan(grid.reshape(days, 24)), -1, index), axis=0).reshape(-1)
    any_hour = np.maximum.accumulate(np.where(np.isnan(grid), -1, np.arange(days * 24)))
    return grid[np.where(same_hour >= 0, same_hour, any_hour)][:n]

"""Replay of a real grid trace in place of the generated grids.

Belongs here: reading a trace file at a given path, its checks, and mapping simulated hours onto trace hours.
A trace is the *observed* signal, so the loop sees exactly the published figures; the hidden truth is the trace
divided by the named errors of truth.py.

Missing hours are an error, named, when they are asked for: nothing is filled in.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from sust_dagster.simulator.carbon import DECIMALS, Signal, bounds_of, observation_error
from sust_dagster.simulator.clock import HOUR_S, TIMESTAMP, Hours, hour_index, moment_of
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.streams import Floats
from sust_dagster.simulator.truth import FactorErrors

#: How simulated hours meet trace hours: on their own dates, or wrapped onto the trace year by hour of the year.
Wrap = Literal["none", "hour_of_year"]
_REQUIRED = ("ts", "region", "intensity_g_per_kwh")


class TraceError(ValueError):
    """A trace cannot serve: a column, region or hour is missing or malformed."""


@dataclass(frozen=True)
class Replay:
    """A trace to replay.

    ``table`` has columns ``ts`` (timezone-aware, whole hours), ``region``, ``intensity_g_per_kwh`` and optionally
    ``lower`` and ``upper``; one row per hour and region; other columns are ignored. With
    ``wrap="hour_of_year"`` hour ``k`` of any simulated year takes hour ``k`` of ``trace_year`` (default: the
    year of the first row); a leap year's last 24 hours wrap to the trace year's first.
    """

    table: pa.Table = field(repr=False)
    wrap: Wrap = "none"
    trace_year: int | None = None

    def __post_init__(self) -> None:
        missing = [c for c in _REQUIRED if c not in self.table.column_names]
        if missing:
            raise TraceError(f"trace has no column {', '.join(missing)}; it has {', '.join(self.table.column_names)}")
        ts = self.table.schema.field("ts").type
        if not pa.types.is_timestamp(ts) or ts.tz is None:
            raise TraceError(f"trace column ts is {ts}; it must be a timestamp with a time zone")
        if self.wrap not in ("none", "hour_of_year"):
            raise TraceError(f"wrap={self.wrap!r}; it is 'none' or 'hour_of_year'")

    @property
    def year(self) -> int:
        """The trace year that hours are wrapped onto."""
        return self.trace_year or pc.min(pc.year(pc.cast(self.table["ts"], TIMESTAMP))).as_py()


def read_trace(path: Path | str) -> pa.Table:
    """Read a trace file (Parquet, CSV or CSV.gz) with the columns of :class:`Replay`.

    Times without a zone are taken as UTC. Raises :class:`TraceError` where a column is missing.
    """
    path = Path(path)
    table = pq.read_table(path) if path.suffix == ".parquet" else pa_csv.read_csv(path)
    missing = [c for c in _REQUIRED if c not in table.column_names]
    if missing:
        raise TraceError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    ts = table["ts"]
    if not pa.types.is_timestamp(ts.type):
        raise TraceError(f"{path.name}, column ts: {ts[0].as_py() if len(ts) else 'empty'!r} is no ISO 8601 time")
    if ts.type.tz is None:
        ts = pc.assume_timezone(ts, "UTC")
    table = table.set_column(table.column_names.index("ts"), "ts", ts.cast(TIMESTAMP))
    for name in {"intensity_g_per_kwh", "lower", "upper"} & set(table.column_names):
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.float64()))
    return table


@dataclass(frozen=True)
class _Series:
    """One region's trace: sorted hours and values; bounds are NaN where the trace states none."""

    hours: Hours
    value: Floats
    lower: Floats
    upper: Floats


class ReplayedGrid:
    """A :class:`~sust_dagster.simulator.carbon.GridSource` over a trace; all regions of the cloud must be in it."""

    def __init__(self, seed: int, replay: Replay) -> None:
        self._errors = FactorErrors(seed)
        self._replay = replay
        self._series = [_series(replay.table, region) for region in REGION_IDS]
        digest = hashlib.sha256(f"{replay.wrap} {replay.year}".encode())
        for s in self._series:
            for values in (s.hours, s.value, s.lower, s.upper):
                digest.update(values.tobytes())
        self._version = f"trace {digest.hexdigest()[:16]}"

    @property
    def version(self) -> str:
        return self._version

    def observed(self, hours: Hours) -> Signal:
        """The trace, with its own bounds where it states any and ours elsewhere."""
        _, estimated = observation_error(self._errors, hours)
        found = [self._rows(i, hours) for i in range(len(REGION_IDS))]
        intensity = np.column_stack([s.value[at] for s, at in zip(self._series, found, strict=True)])
        lower, upper = bounds_of(intensity, estimated)
        own_lower = np.column_stack([s.lower[at] for s, at in zip(self._series, found, strict=True)])
        own_upper = np.column_stack([s.upper[at] for s, at in zip(self._series, found, strict=True)])
        lower = np.where(np.isnan(own_lower), lower, own_lower)
        upper = np.where(np.isnan(own_upper), upper, own_upper)
        return Signal(intensity, lower, upper, estimated)

    def true_g_per_kwh(self, hours: Hours) -> Floats:
        """The trace divided by the hidden errors."""
        error, _ = observation_error(self._errors, hours)
        return np.round(self.observed(hours).intensity / error, DECIMALS)

    def _trace_hours(self, hours: Hours) -> Hours:
        if self._replay.wrap == "none":
            return hours
        year = self._replay.year
        first, following = (hour_index(datetime(y, 1, 1, tzinfo=UTC)) for y in (year, year + 1))
        dates = hours.astype("datetime64[h]")
        of_year = (dates - dates.astype("datetime64[Y]").astype("datetime64[h]")).astype(np.int64)
        return first + of_year % (following - first)

    def _rows(self, region: int, hours: Hours) -> Hours:
        wanted = self._trace_hours(hours)
        series = self._series[region]
        at = np.minimum(np.searchsorted(series.hours, wanted), series.hours.size - 1)
        gone = series.hours[at] != wanted
        if gone.any():
            k = int(np.flatnonzero(gone)[0])
            hint = "" if self._replay.wrap != "none" else "; wrap='hour_of_year' replays a year on other dates"
            raise TraceError(
                f"trace has no {REGION_IDS[region]} intensity for {moment_of(int(wanted[k])):%Y-%m-%dT%H:%MZ}, "
                f"wanted for {moment_of(int(hours[k])):%Y-%m-%dT%H:%MZ} ({int(gone.sum())} of {hours.size} hours "
                f"missing){hint}"
            )
        return at


def _series(table: pa.Table, region: str) -> _Series:
    rows = table.filter(pc.equal(pc.cast(table["region"], pa.string()), region))
    if rows.num_rows == 0:
        raise TraceError(f"trace has no rows for region {region}; it needs all of {', '.join(REGION_IDS)}")
    seconds = rows["ts"].cast(pa.timestamp("s", tz="UTC"), safe=False).cast(pa.int64()).to_numpy()
    if (seconds % HOUR_S).any():
        raise TraceError(f"trace has times of region {region} that are not whole hours")
    hours = seconds // HOUR_S
    order = np.argsort(hours, kind="stable")
    hours = hours[order]
    if hours.size > 1 and (np.diff(hours) == 0).any():
        twice = hours[1:][np.diff(hours) == 0][0]
        raise TraceError(f"trace has {region} {moment_of(int(twice)):%Y-%m-%dT%H:%MZ} more than once")

    def values(name: str) -> Floats:
        if name not in rows.column_names:
            return np.full(hours.size, np.nan)
        return rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False)[order]

    value = values("intensity_g_per_kwh")
    usable = np.isfinite(value)
    if (value[usable] < 0).any():
        raise TraceError(f"trace has negative intensities in region {region}")
    # An hour whose value is null is a missing hour.
    return _Series(hours[usable], value[usable], values("lower")[usable], values("upper")[usable])

"""The forecasts of one region at several issues: model, interval, and what takes over where they cannot.

Belongs here: the ladder of methods. Does not belong here: models, what is known at an issue, tables.

The ladder, each step said in ``method`` and ``quality``:

1. the model asked for, with conformal bounds, where at least 20 of its own past misses are known (``+conformal``);
2. *hour-of-day mean* of the last 28 days: too little history for that (``short_history``), more than half of the
   window missing (``sparse_history``), or a series that never moves (``constant``);
3. *last known good*: the newest hour is older than a day. The hour-of-day mean as of then; its bounds are those that
   forecasts of that age would have needed, and never narrower than fresh ones;
4. none, with a reason, where fewer than 24 hours are known or the newest is older than 14 days.

Where a mean has too few past misses of its own the bounds are declared ones (``declared_bounds``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.agents.planner.forecast.conformal import (
    ADAPTING_ISSUES,
    LEAST_ISSUES,
    QUANTILES,
    WINDOW_ISSUES,
    issues_until_known,
    quantiles,
)
from sust_dagster.agents.planner.forecast.known import FRESH_HOURS, NO_USABLE_HOURS, Known
from sust_dagster.agents.planner.forecast.models import Model, Sight, hour_of_day_mean, intensity
from sust_dagster.agents.planner.forecast.series import Flags, Ints, Region, Series

MEAN = "hour-of-day mean"
LAST_KNOWN = "last known good"

#: Bounds where no misses are known: factors on the point at the five quantiles. Wider than the misses of a one-day to
#: 28-day mean, up to 14 days old, in the middle of 88 zones in 2022 (5 % to 95 %: 0.61 to 1.65).
DECLARED_BOUNDS = (0.5, 0.67, 1.0, 1.5, 2.0)

#: µg per kWh: digits beyond are noise of the arithmetic.
DECIMALS = 9


@dataclass(frozen=True)
class Issued:
    """Forecasts of one region: one entry per issue, in kgCO2e/kWh."""

    point: Floats
    """(issues, hours); NaN where there is no forecast."""
    bounds: Floats
    """(5, issues, hours)."""
    method: list[str]
    quality: list[str]
    version: list[str | None]
    reason: list[str]
    """Why there is none; empty where there is."""

    @classmethod
    def nothing(cls, issues: int, hours: int, reason: str) -> Issued:
        """No forecast at any issue."""
        return cls(
            np.full((issues, hours), np.nan),
            np.full((len(QUANTILES), issues, hours), np.nan),
            [""] * issues,
            [""] * issues,
            [None] * issues,
            [reason] * issues,
        )

    def put(self, at: Ints, other: Issued) -> None:
        """Replace some issues by those of another."""
        self.point[at], self.bounds[:, at] = other.point, other.bounds
        for k, i in enumerate(at.tolist()):
            self.method[i], self.quality[i] = other.method[k], other.quality[k]
            self.version[i], self.reason[i] = other.version[k], other.reason[k]


def issue(region: Region, issues: Ints, hours: int, lag_hours: int, name: str, model: Model) -> Issued:
    """Forecasts of a region for the ``hours`` from each issue (epoch hours, ascending) on.

    Values that stood in for the region's own count until its first own hour is known.
    """
    out = Issued.nothing(len(issues), hours, NO_USABLE_HOURS)
    since = region.own.first if region.own else None
    own = issues - lag_hours > since if since is not None else np.zeros(len(issues), bool)
    for series, chosen in ((region.own, own), (region.stand_in, ~own)):
        at = np.flatnonzero(chosen)
        if series is not None and len(at):
            out.put(at, _from_series(series, issues[at], hours, lag_hours, name, model))
    if region.stand_in is not None:
        for i in np.flatnonzero(~own).tolist():
            out.quality[i] = merge(out.quality[i], "stand_in")
    return out


@dataclass(frozen=True)
class _Ahead:
    """Logarithms of forecasts of some issues, their residual quantiles, and whether those rest on enough misses."""

    logs: Floats
    spread: Floats
    calibrated: Flags


def _from_series(series: Series, issues: Ints, hours: int, lag_hours: int, name: str, model: Model) -> Issued:
    known, sight = Known(series, issues, lag_hours), Sight(series)
    out = Issued.nothing(len(issues), hours, "")
    out.quality[:], out.version[:], out.reason[:] = known.flags, known.version, known.reason
    possible = np.array([not r for r in known.reason])
    fresh = known.age_hours <= FRESH_HOURS
    wanted = possible & fresh & ~known.constant & ~known.sparse
    short = np.zeros(len(issues), bool)
    if model is not hour_of_day_mean:
        for at, age in _groups(issues, known.age_hours, wanted):
            ahead = _calibrated(sight, model, issues[at], age, hours)
            _write(out, at[ahead.calibrated], ahead, ahead.calibrated, f"{name}+conformal")
            short[at[~ahead.calibrated]] = True
    left = possible & fresh & (short | ~wanted | (model is hour_of_day_mean))
    for at, age in _groups(issues, known.age_hours, left):
        ahead = _calibrated(sight, hour_of_day_mean, issues[at], age, hours)
        _write(out, at, ahead, np.ones(len(at), bool), MEAN)
    for at, age in _groups(issues, known.age_hours, possible & ~fresh):
        ahead = _widest(
            _calibrated(sight, hour_of_day_mean, issues[at], age, hours),
            _calibrated(sight, hour_of_day_mean, issues[at], lag_hours, hours),
        )
        _write(out, at, ahead, np.ones(len(at), bool), LAST_KNOWN)
    for flag, at in (("short_history", short), ("sparse_history", possible & fresh & known.sparse & ~known.constant)):
        for i in np.flatnonzero(at).tolist():
            out.quality[i] = merge(out.quality[i], flag)
    return out


def _groups(issues: Ints, age_hours: Ints, wanted: Flags) -> list[tuple[Ints, int]]:
    """Wanted issues of the same hour of day and age, which one row of forecasts serves."""
    at = np.flatnonzero(wanted)
    keys = np.stack([issues[at] % 24, age_hours[at]], axis=1)
    return [(at[(keys == key).all(1)], int(key[1])) for key in np.unique(keys, axis=0)]


def _calibrated(sight: Sight, model: Model, issues: Ints, age: int, hours: int) -> _Ahead:
    """A model's forecasts at issues of one hour of day, ``age`` hours after the newest hour it may see."""
    behind = issues_until_known(hours, age)
    back = WINDOW_ISSUES + ADAPTING_ISSUES + 2 * int(behind.max())
    every = np.arange(int(issues[0]) - 24 * back, int(issues[-1]) + 1, 24)
    origins = every - age - sight.series.first
    every, origins = every[origins > 0], origins[origins > 0]
    ahead = model(sight, origins, age + hours)[:, age:]
    target = (every - sight.series.first)[:, None] + np.arange(hours)
    observed = sight.observed
    actual = np.where(target < len(observed), observed[np.minimum(target, len(observed) - 1)], np.nan)
    rows = np.searchsorted(every, issues)
    spread, count = quantiles(actual - ahead, rows, behind)
    enough = np.all(count >= LEAST_ISSUES, axis=1) & ~np.isnan(ahead[rows]).any(1)
    return _Ahead(ahead[rows], spread, np.asarray(enough))


def _widest(aged: _Ahead, fresh: _Ahead) -> _Ahead:
    """The aged forecast, nowhere with narrower bounds than the fresh one."""
    spread = aged.spread.copy()
    spread[:2] = np.fmin(spread[:2], fresh.spread[:2])
    spread[3:] = np.fmax(spread[3:], fresh.spread[3:])
    return _Ahead(aged.logs, spread, aged.calibrated & fresh.calibrated)


def _write(out: Issued, at: Ints, ahead: _Ahead, chosen: Flags, method: str) -> None:
    """Forecasts into their issues, with declared bounds where misses are too few."""
    logs, spread, calibrated = ahead.logs[chosen], ahead.spread[:, chosen], ahead.calibrated[chosen]
    declared = np.log(DECLARED_BOUNDS)[:, None, None]
    spread = np.where(calibrated[None, :, None], spread, declared)
    point = np.round(intensity(logs), DECIMALS)
    bounds = np.round(intensity(logs + spread), DECIMALS)
    bounds[:2], bounds[3:] = np.minimum(bounds[:2], point), np.maximum(bounds[3:], point)
    out.point[at], out.bounds[:, at] = point, bounds
    for i, sure in zip(at.tolist(), calibrated.tolist(), strict=True):
        out.method[i] = method
        if not sure:
            out.quality[i] = merge(out.quality[i], "declared_bounds")

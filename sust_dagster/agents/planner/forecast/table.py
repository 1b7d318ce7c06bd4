"""Forecasts as rows of ``GRID_FORECAST``: the face the rest of the product uses.

Belongs here: reading the history, issuing for every region, rows and the regions without any. Does not belong here:
models, fallbacks, scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import dictionary
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.planner.forecast.conformal import ADAPTING_ISSUES, QUANTILES, WINDOW_ISSUES
from sust_dagster.agents.planner.forecast.errors import ForecastError
from sust_dagster.agents.planner.forecast.issue import Issued, issue
from sust_dagster.agents.planner.forecast.known import FRESH_HOURS, NO_HISTORY
from sust_dagster.agents.planner.forecast.models import Model, named_model
from sust_dagster.agents.planner.forecast.ridge import REACH_HOURS, REFIT_HOURS
from sust_dagster.agents.planner.forecast.series import Ints, Region, read_history
from sust_dagster.world.schemas import GRID_FORECAST, TIMESTAMP

#: Farthest hour ahead: a step has to know its own hour of the week before.
MOST_HOURS = 168 - FRESH_HOURS

#: Days before an issue that a forecast can draw on. With these in the history its bytes depend on nothing else.
HISTORY_DAYS = -(-(REACH_HOURS + REFIT_HOURS + MOST_HOURS) // 24) + WINDOW_ISSUES + ADAPTING_ISSUES + 20

#: Regions without a forecast.
MISSING = pa.schema([pa.field("region", pa.string(), nullable=False), pa.field("reason", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Forecast:
    """One issue: ``table`` in ``GRID_FORECAST`` by region and hour; ``missing``: ``region, reason`` of the others."""

    issued_at: datetime
    table: pa.Table
    missing: pa.Table


def forecast(
    history: pa.Table,
    issued_at: datetime,
    horizon_hours: int = 48,
    *,
    model: str | Model = "ridge",
    lag_hours: int = 0,
    regions: Sequence[str] = (),
) -> Forecast:
    """The forecast of every region for ``[issued_at, issued_at + horizon_hours)``, from what was known then.

    ``history``: ``ts`` (UTC, whole hours), ``region``, ``intensity_kgco2_kwh``, of one signal and method, in any order;
    optional ``estimated``, ``quality`` and ``source_version`` as in ``GRID_INTENSITY``. Only hours that had ended
    ``lag_hours`` (the source's publication delay) before ``issued_at``, a whole UTC hour, are looked at.
    ``model``: a name of ``MODELS``, or a model. ``regions``: those to answer for, also if the history lacks them.
    Give ``HISTORY_DAYS`` of history where there are so many. Raises :class:`ForecastError` for a history or an
    argument that cannot be used; what one region lacks is said in its rows, or in ``missing``.

    Example::

        made = forecast(lake_rows, datetime(2026, 1, 2, 3, tzinfo=UTC))
        made.table.column("intensity_p95")  # kgCO2e/kWh
        made.missing.to_pylist()  # [{"region": "me-central-1", "reason": "too_old_history"}]
    """
    return forecasts(history, [issued_at], horizon_hours, model=model, lag_hours=lag_hours, regions=regions)[0]


def forecasts(
    history: pa.Table,
    issues: Sequence[datetime],
    horizon_hours: int = 48,
    *,
    model: str | Model = "ridge",
    lag_hours: int = 0,
    regions: Sequence[str] = (),
) -> list[Forecast]:
    """:func:`forecast` at several issues, in their order: the same rows, at little more than the cost of the last one.

    (The fits behind a day's intervals are those of the days before it.)
    """
    hours = np.array([hour_of(moment) for moment in issues], dtype=np.int64)
    _check(horizon_hours, lag_hours)
    name, function = named_model(model)
    if not len(hours):
        return []
    since = int(hours.min()) - HISTORY_DAYS * 24
    found = read_history(history, int(hours.max()) - lag_hours, since)
    ascending, place = np.unique(hours, return_inverse=True)
    names = sorted({*found, *regions})
    made = [issue_or_nothing(found.get(n), ascending, horizon_hours, lag_hours, name, function) for n in names]
    return [
        _forecast(moment, int(ascending[i]), horizon_hours, names, made, i)
        for moment, i in zip(issues, place.tolist(), strict=True)
    ]


def issue_or_nothing(
    region: Region | None, issues: Ints, hours: int, lag_hours: int, name: str, model: Model
) -> Issued:
    """:func:`issue`, or no forecast for a region the history does not hold."""
    if region is None:
        return Issued.nothing(len(issues), hours, NO_HISTORY)
    return issue(region, issues, hours, lag_hours, name, model)


def hour_of(moment: datetime) -> int:
    """Epoch hour of an issue time. Raises :class:`ForecastError` where it is no whole hour or has no zone."""
    if moment.tzinfo is None:
        raise ForecastError(f"issued_at {moment} has no time zone", fix="give a UTC time")
    seconds = moment.timestamp()
    if seconds % 3600:
        raise ForecastError(f"issued_at {moment} is no whole hour", fix="forecasts are hourly: give hh:00 UTC")
    return int(seconds) // 3600


def _check(horizon_hours: int, lag_hours: int) -> None:
    if not 1 <= horizon_hours <= MOST_HOURS:
        raise ForecastError(f"horizon_hours is {horizon_hours}", fix=f"give 1 to {MOST_HOURS}")
    if not 0 <= lag_hours <= FRESH_HOURS:
        raise ForecastError(f"lag_hours is {lag_hours}", fix=f"give 0 to {FRESH_HOURS}")


def _forecast(
    moment: datetime, hour: int, steps: int, names: Sequence[str], made: Sequence[Issued], i: int
) -> Forecast:
    """The rows of one issue, by region and hour."""
    held = [(n, m) for n, m in zip(names, made, strict=True) if not m.reason[i]]
    missing = [(n, m.reason[i]) for n, m in zip(names, made, strict=True) if m.reason[i]]
    rows = len(held) * steps

    def text(values: Sequence[str | None]) -> pa.Array:
        codes = np.repeat(np.arange(len(held), dtype=np.int32), steps)
        return dictionary(codes, values or [""]).cast(pa.string())

    def stamps(at: Ints) -> pa.Array:
        return pa.array(at * HOUR_US).cast(TIMESTAMP)

    flat = np.concatenate([m.bounds[:, i] for _, m in held], axis=1) if held else np.empty((len(QUANTILES), 0))
    table = pa.table(
        {
            "issued_at": stamps(np.full(rows, hour)),
            "region": text([n for n, _ in held]),
            "ts": stamps(np.tile(hour + np.arange(steps), len(held))),
            "intensity_kgco2_kwh": np.concatenate([m.point[i] for _, m in held]) if held else np.empty(0),
            **{f"intensity_p{round(q * 100):02d}": flat[k] for k, q in enumerate(QUANTILES)},
            "method": text([m.method[i] for _, m in held]),
            "source_version": text([m.version[i] for _, m in held]),
            "quality": text([m.quality[i] for _, m in held]),
        }
    )
    lacking = pa.table(
        [pa.array(c, pa.string()) for c in ([n for n, _ in missing], [r for _, r in missing])], schema=MISSING
    )
    return Forecast(moment, GRID_FORECAST.conform(table), lacking)

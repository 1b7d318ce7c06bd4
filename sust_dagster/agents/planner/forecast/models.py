"""The models of a forecast, all on one face: ridge and the peers it is measured against.

Belongs here: from a series and a row of issues to point forecasts. Does not belong here: intervals, fallbacks, scores.

A model is called with the sight of a series (its hours on a gapless axis) and origins (positions of the first hour
not known, ascending, whole days apart) and answers ``ln(intensity + 1 g)`` for the steps ahead: shape (origins, steps),
NaN where it has nothing to say. No model may look at an hour at or after its origin, for fitting or for input; a
test tells one that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.planner.forecast import ridge as ridge_model
from sust_dagster.agents.planner.forecast.errors import ForecastError
from sust_dagster.agents.planner.forecast.features import PROFILE_DAYS
from sust_dagster.agents.planner.forecast.series import Ints, Series, filled

#: Added before the logarithm, kgCO2e/kWh: a grid may be at zero for an hour.
FLOOR_KG = 0.001

#: A forecast stays within the extremes of the last 28 days, widened by this factor: lines fitted to logarithms can
#: run away where the grid does what it never did before.
RUNAWAY = 2.0


@dataclass(frozen=True)
class Sight:
    """What models see of one region."""

    series: Series

    @cached_property
    def observed(self) -> Floats:
        """``ln(intensity + 1 g)``, NaN where the hour is not known."""
        return np.log(self.series.values + FLOOR_KG)

    @cached_property
    def input(self) -> Floats:
        """The same without gaps."""
        return np.log(filled(self.series) + FLOOR_KG)


Model = Callable[[Sight, Ints, int], Floats]


def intensity(logs: Floats) -> Floats:
    """kgCO2e/kWh of a model's answer."""
    return np.maximum(np.exp(logs) - FLOOR_KG, 0.0)


def ridge(sight: Sight, origins: Ints, steps: int) -> Floats:
    """The mean of two ridge regressions; see the module of that name."""
    ahead = ridge_model.ridge(sight.input, sight.observed, sight.series.first, origins, -(-steps // 24))[:, :steps]
    days = _days_before(sight.observed, origins)
    known = ~np.isnan(days).all((1, 2))
    low, high = np.full(len(origins), np.nan), np.full(len(origins), np.nan)
    low[known], high[known] = np.nanmin(days[known], axis=(1, 2)), np.nanmax(days[known], axis=(1, 2))
    return np.clip(ahead, (low - np.log(RUNAWAY))[:, None], (high + np.log(RUNAWAY))[:, None])


def hour_of_day_mean(sight: Sight, origins: Ints, steps: int) -> Floats:
    """Mean of the same hour of day over the 28 days before (as many of them as are known)."""
    days = _days_before(sight.series.values, origins)
    known = ~np.isnan(days)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_hour = np.where(known, days, 0.0).sum(1) / known.sum(1)
        overall = np.where(known, days, 0.0).sum((1, 2)) / known.sum((1, 2))
    by_hour = np.where(np.isnan(by_hour), overall[:, None], by_hour)
    return _repeated(np.log(by_hour + FLOOR_KG), steps)


def yesterday(sight: Sight, origins: Ints, steps: int) -> Floats:
    """The same hour of the last day known."""
    return _repeated(_days_before(sight.input, origins)[:, -1], steps)


def persistence(sight: Sight, origins: Ints, steps: int) -> Floats:
    """The last known hour, for all hours ahead."""
    return np.repeat(_days_before(sight.input, origins)[:, -1, -1:], steps, axis=1)


#: Model by name; the first is the default, the others are its peers.
MODELS: Mapping[str, Model] = {
    "ridge": ridge,
    "hour-of-day mean": hour_of_day_mean,
    "yesterday": yesterday,
    "persistence": persistence,
}


def named_model(model: str | Model) -> tuple[str, Model]:
    """Name and function of a model given as either. Raises :class:`ForecastError` for an unknown name."""
    if not isinstance(model, str):
        return str(getattr(model, "__name__", "model")), model
    if model not in MODELS:
        raise ForecastError(f"no model {model!r}", fix=f"models: {', '.join(MODELS)}")
    return model, MODELS[model]


def _days_before(values: Floats, origins: Ints) -> Floats:
    """The 28 days before each origin by day and hour since the origin; NaN where no hour is held."""
    at = origins[:, None] + np.arange(-PROFILE_DAYS * 24, 0)
    held = (at >= 0) & (at < len(values))
    return np.where(held, values[np.where(held, at, 0)], np.nan).reshape(len(origins), PROFILE_DAYS, 24)


def _repeated(by_hour: Floats, steps: int) -> Floats:
    """Values of the 24 hours after an origin, repeated day by day for ``steps`` hours."""
    return by_hour[:, np.arange(steps) % 24]

"""The default model: the mean of two direct ridge regressions, refitted every fortnight on what was known then.

Belongs here: fitting and predicting over a row of issues. Does not belong here: inputs (``features``), intervals, or
which issues may be asked for.

Each hour ahead has linear models of its own (``features.pooled`` and ``features.daily``). Normal equations are summed
by fortnights counted from the epoch, so a forecast depends on the hours before its issue and on nothing else: not on
how many issues are computed together, nor on what comes after. A model is fitted at the first issue of a fortnight, on
origins whose every target was known by then, and serves that fortnight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.planner.forecast.features import WARM_HOURS, daily, pooled
from sust_dagster.agents.planner.forecast.series import Ints

_Inputs = Callable[[Floats, int, Ints], tuple[Floats, Floats]]

#: Hours between two fits, counted from the epoch.
REFIT_HOURS = 336
#: Days that must stand behind a fit.
LEAST_TRAINING_DAYS = 21
#: Training days at which the daily model has its full weight in the mean.
FULL_WEIGHT_DAYS = 364


@dataclass(frozen=True)
class _Member:
    """One of the two models: its inputs, its origins and its shrinkage."""

    inputs: _Inputs
    hours_between_origins: int
    fits: int
    """Fortnights behind a fit."""
    shrinkage: Callable[[Floats], Floats]
    """Ridge penalty on standardised inputs, from the number of samples."""


def _constant_shrinkage(samples: Floats) -> Floats:
    return np.full_like(samples, 0.01)


def _shrinkage_by_samples(samples: Floats) -> Floats:
    return 60.0 / samples


POOLED = _Member(pooled, 3, 26, _constant_shrinkage)
DAILY = _Member(daily, 24, 52, _shrinkage_by_samples)

#: Hours before a fit that it can reach back to, beside the hours it forecasts.
REACH_HOURS = WARM_HOURS + DAILY.fits * REFIT_HOURS


def ridge(u: Floats, observed: Floats, first_hour: int, origins: Ints, days: int) -> Floats:
    """Forecast ``u`` (log intensity) for whole ``days`` from each origin on: shape (origins, 24 x days).

    ``u``: gapless hours from ``first_hour`` (epoch); ``observed``: the same with NaN where an hour is not known, the
    targets to learn from. ``origins``: positions in ``u``, ascending, whole days apart. NaN where too little stands
    behind an origin.
    """
    out = np.full((len(origins), days * 24), np.nan)
    usable = origins >= WARM_HOURS
    if not usable.any():
        return out
    fortnight = (first_hour + origins) // REFIT_HOURS
    phase = int((first_hour + origins[0]) % 24)
    runs = [_Run(m, u, observed, first_hour, phase, days) for m in (POOLED, DAILY)]
    for fit in np.unique(fortnight[usable]).tolist():
        own = usable & (fortnight == fit)
        (many, _), (few, trained) = (run.predict(fit, origins[own]) for run in runs)
        weight = 0.5 * np.minimum(trained / FULL_WEIGHT_DAYS, 1.0)
        ahead = many * (1 - weight) + few * weight
        ahead[:, :, trained < LEAST_TRAINING_DAYS] = np.nan
        out[own] = ahead.reshape(-1, days * 24)
    return out


class _Run:
    """One model over a row of issues: fortnights' normal equations are summed once and kept while they are needed."""

    def __init__(self, member: _Member, u: Floats, observed: Floats, first_hour: int, phase: int, days: int) -> None:
        self._member, self._u, self._observed = member, u, observed
        self._first_hour, self._phase, self._days = first_hour, phase, days
        self._sums: dict[int, Floats] = {}

    def predict(self, fit: int, origins: Ints) -> tuple[Floats, Floats]:
        """Forecasts (origins, days, 24) by the model fitted for a fortnight; and the days it was fitted on, by hour."""
        total = self._window(fit)
        count = total[:, 0, 0]
        samples = np.maximum(count, 1.0)
        means = total[:, 0, 1:] / samples[:, None]
        inputs, profile = self._member.inputs(self._u, self._first_hour, origins)
        size = inputs.shape[2]
        spread = total[:, 1:, 1:] / samples[:, None, None] - means[:, :size, None] * means[:, None]
        scale = np.sqrt(np.maximum(np.einsum("sii->si", spread[:, :, :size]), 0.0))
        inverse = np.where(scale > 1e-7, 1.0 / np.maximum(scale, 1e-7), 0.0)
        standard = spread * inverse[:, :, None]
        penalty = self._member.shrinkage(samples)[:, None, None] * np.eye(size)
        weights = np.linalg.solve(standard[:, :, :size] * inverse[:, None] + penalty, standard[:, :, size:])
        weights *= inverse[:, :, None]
        # Input by input, in one order: the sum does not depend on how many issues are computed together.
        ahead = np.zeros((24, len(origins), self._days)) + means[:, None, size:]
        for i in range(size):
            ahead += (inputs[:, :, i] - means[:, i, None])[..., None] * weights[:, None, i]
        return ahead.transpose(1, 2, 0) + profile[:, None], count * self._member.hours_between_origins / 24

    def _window(self, fit: int) -> Floats:
        """The sum of the normal equations behind a fit: shape (24, 1 + inputs, 1 + inputs + days)."""
        wanted = range(fit - self._member.fits + 1, fit + 1)
        self._sums = {k: self._sums[k] if k in self._sums else self._normal(k) for k in wanted}
        total = np.zeros_like(self._sums[fit])
        for k in wanted:
            total += self._sums[k]
        return total

    def _normal(self, fit: int) -> Floats:
        """Normal equations of one fortnight's origins: those whose last target is known first at this fit.

        An origin counts for an hour of day where that hour is known on every day ahead.
        """
        last = fit * REFIT_HOURS + self._phase - self._days * 24 - self._first_hour
        origins = np.arange(last - REFIT_HOURS, last, self._member.hours_between_origins)
        origins = origins[origins >= WARM_HOURS]
        inputs, profile = self._member.inputs(self._u, self._first_hour, origins)
        hours = origins[:, None] + np.arange(self._days * 24)
        target = self._observed[hours].reshape(len(origins), self._days, 24) - profile[:, None]
        target = target.transpose(2, 0, 1)
        known = ~np.isnan(target).any(2, keepdims=True)
        left = np.concatenate([known, inputs * known], axis=2)
        right = np.concatenate([known, inputs, np.where(known, target, 0.0)], axis=2)
        return np.matmul(left.transpose(0, 2, 1), right)

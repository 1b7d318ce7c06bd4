"""How good forecasts were: error, interval coverage, and the share of an oracle's gain they captured.

Belongs here: formulas over arrays of forecasts and what then happened. Does not belong here: making forecasts.

**Captured share.** An hour-long job may start in any hour of a day's window ``w`` (hours 1 to 24 after the issue).
Starting at a random hour costs the window's mean; an oracle starts in the hour that turns out cleanest; we start in
the hour forecast to be cleanest (ties: the earliest). With actual intensity ``g``, forecast ``f`` and the sum over
issues::

    captured = sum( mean_w(g) - g[argmin_w f] ) / sum( mean_w(g) - min_w(g) )

1 is the oracle, 0 a random hour, and a forecast that picks dirtier hours than chance is below 0 (a flat forecast
always starts at once). It has no value where the oracle gains nothing (a constant series). The second day's window is
hours 25 to 48. An issue counts where its whole window is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats

#: An actual below this (kgCO2e/kWh) has no percentage error.
LEAST_FOR_PERCENT_KG = 0.001

#: An oracle's mean gain below this (kgCO2e/kWh) is the arithmetic's noise.
NO_GAIN_KG = 1e-9


@dataclass(frozen=True)
class Scores:
    """Of one region and band of hours. Intensities in kgCO2e/kWh, shares in percent; NaN where not defined."""

    issues: int
    hours: int
    mape_percent: float
    mae: float
    bias: float
    coverage80_percent: float
    coverage90_percent: float
    width80_percent: float
    width90_percent: float
    oracle_gain: float
    captured_percent: float


def scores(actual: Floats, point: Floats, bounds: Floats) -> Scores:
    """Scores of forecasts: ``actual`` and ``point`` (issues, hours), ``bounds`` (5, issues, hours), NaN where unknown.

    Bias is forecast less actual. Widths are relative to the mean actual. ``oracle_gain`` is the oracle's mean gain.
    """
    known = ~np.isnan(actual) & ~np.isnan(point)
    error = np.where(known, point - actual, np.nan)
    relative = np.where(
        actual >= LEAST_FOR_PERCENT_KG, np.abs(error) / np.maximum(actual, LEAST_FOR_PERCENT_KG), np.nan
    )
    inside = {
        level: (actual >= bounds[low]) & (actual <= bounds[high]) for level, low, high in ((80, 1, 3), (90, 0, 4))
    }
    level = _mean(actual[known])
    gain, best = gains(actual, point)
    captured = 100 * float(gain.sum() / best.sum()) if _mean(best) > NO_GAIN_KG else float("nan")
    return Scores(
        issues=int(known.any(1).sum()),
        hours=int(known.sum()),
        mape_percent=100 * _mean(relative[~np.isnan(relative)]),
        mae=_mean(np.abs(error[known])),
        bias=_mean(error[known]),
        coverage80_percent=100 * _mean(inside[80][known]),
        coverage90_percent=100 * _mean(inside[90][known]),
        width80_percent=100 * _mean((bounds[3] - bounds[1])[known]) / level if level else float("nan"),
        width90_percent=100 * _mean((bounds[4] - bounds[0])[known]) / level if level else float("nan"),
        oracle_gain=_mean(best),
        captured_percent=captured,
    )


def gains(actual: Floats, point: Floats) -> tuple[Floats, Floats]:
    """Per issue whose window is wholly known: gain over a random hour of the forecast's pick, and of the oracle's."""
    whole = ~(np.isnan(actual) | np.isnan(point)).any(1)
    actual, point = actual[whole], point[whole]
    if not len(actual):
        return np.empty(0), np.empty(0)
    mean = actual.mean(1)
    picked = np.take_along_axis(actual, point.argmin(1)[:, None], axis=1)[:, 0]
    return mean - picked, mean - actual.min(1)


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")

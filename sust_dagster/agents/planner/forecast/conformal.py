"""Intervals from a model's own recent misses: online split conformal prediction, adapted to how it has fared.

Belongs here: quantiles of past residuals, issue by issue. Does not belong here: which model made them.

*Split conformal.* For the issue at T and a step ahead, the residuals ``ln(actual) - ln(forecast)`` of the same step in
the newest 60 issues whose outcome was known at T are sorted; the q-quantile is the ``(n + 1) q``-th smallest
(interpolated), the usual correction for n residuals. Signs are kept, so a model that is usually too low gets an
interval that reaches further up. Source: Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005.

*Adaptive.* That holds for exchangeable residuals; a grid has seasons. So each quantile asks for a level of its own, a
day ahead at a time: after each issue whose outcome is known, ``level += RATE x (q - share of the day's hours at or
below)``, from q on over the newest 30 such issues. Source: Gibbs and Candès, Adaptive Conformal Inference Under
Distribution Shift, 2021, with a rate per quantile.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.planner.forecast.series import Ints

#: The quantiles of a forecast row.
QUANTILES = (0.05, 0.10, 0.50, 0.90, 0.95)
#: Issues whose misses make an interval, and the fewest that may.
WINDOW_ISSUES = 60
LEAST_ISSUES = 20
#: Issues over which a level adapts, and how fast.
ADAPTING_ISSUES = 30
RATE = 0.05


def issues_until_known(steps: int, age_hours: int) -> Ints:
    """Daily issues that lie between an issue and the newest one whose outcome it knows, for each step: shape (steps,).

    ``age_hours``: hours before the issue that are not known yet.
    """
    return 1 + np.arange(steps) // 24 + -(-age_hours // 24)


def quantiles(residuals: Floats, wanted: Ints, behind: Ints) -> tuple[Floats, Ints]:
    """Quantiles of the residuals known at each wanted issue, and how many there were.

    ``residuals``: (issues, steps), one row per day, NaN where the outcome is not known. ``wanted``: rows to make
    quantiles for. ``behind``: see :func:`issues_until_known`. Shapes (5, wanted, steps) and (wanted, steps); NaN where
    there are none.
    """
    out = np.full((len(QUANTILES), len(wanted), residuals.shape[1]), np.nan)
    count = np.zeros(out.shape[1:], np.int64)
    for gap in np.unique(behind).tolist():
        band = behind == gap
        misses = residuals[:, band]
        # The window of row i ends with residual row i - gap, the newest whose outcome is known then.
        lead = np.full((WINDOW_ISSUES - 1 + gap, misses.shape[1]), np.nan)
        windows = sliding_window_view(np.concatenate([lead, misses]), WINDOW_ISSUES, axis=0)[: len(misses)]
        recent = _Sorted(np.sort(windows, axis=2))
        out[:, :, band] = np.sort(recent.at(wanted, _levels(misses, recent, wanted - gap)), axis=0)
        count[:, band] = recent.count[wanted]
    return out, count


class _Sorted:
    """Known residuals behind each issue and step, ascending: shape (issues, steps, 60), NaN after the known ones."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.count = (~np.isnan(values)).sum(2)

    def at(self, rows: Ints, levels: Floats) -> Floats:
        """The ``(n + 1) level``-th smallest of rows and steps; ``levels`` and the result: (5, rows) and steps.

        NaN where n is 0.
        """
        most = np.maximum(self.count[rows] - 1, 0)
        place = np.clip((most + 2) * levels[:, :, None] - 1, 0, most)
        low = place.astype(np.int64)
        step = np.arange(self.values.shape[1])
        below, above = (self.values[rows[:, None], step, i] for i in (low, np.minimum(low + 1, most)))
        return below + (above - below) * (place - low)


def _levels(misses: Floats, recent: _Sorted, newest: Ints) -> Floats:
    """The level each quantile asks for, after the issues up to ``newest``: shape (5, newest)."""
    asked = np.array(QUANTILES)[:, None]
    levels = np.repeat(asked, len(newest), axis=1)
    for ago in range(ADAPTING_ISSUES - 1, -1, -1):
        at = np.flatnonzero(newest >= ago)
        rows = newest[at] - ago
        known = ~np.isnan(misses[rows]) & (recent.count[rows] >= LEAST_ISSUES)
        hours = known.sum(1)
        below = ((misses[rows] <= recent.at(rows, levels[:, at])) & known).sum(2)
        levels[:, at] += RATE * np.where(hours > 0, asked - below / np.maximum(hours, 1), 0.0)
    return levels

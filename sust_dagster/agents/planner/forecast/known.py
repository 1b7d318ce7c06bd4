"""What is known of a region when a forecast is issued: how old, how much, how good.

Belongs here: age of the newest hour, amount of history, and the flags a forecast row carries. Does not belong here:
the forecast itself, or the choice of a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.agents.planner.forecast.series import GAP, OUTCOMES, Flags, Ints, Series

#: Window that a forecast's quality speaks of.
RECENT_HOURS = 28 * 24
#: Hours that must be known for any forecast at all.
LEAST_HOURS = 24
#: Newest hour older than this: no forecast. Older than a day: last known good.
FRESH_HOURS = 24
OLDEST_HOURS = 14 * 24
#: A series that moves less than this part of its mean in the window is constant.
CONSTANT_WITHIN = 0.001
#: From this part of estimated hours in the window on, the series is estimated.
ESTIMATED_FROM = 0.95
#: Where more than this part of the window is missing, no regression is trusted.
SPARSE_FROM = 0.5

#: Why a region has no forecast.
NO_HISTORY = "no_history"
NO_USABLE_HOURS = "no_usable_hours"
TOO_LITTLE = "too_little_history"
TOO_OLD = "too_old_history"

#: Flags of a forecast's quality that the planner must heed: such a series never earns a saving by time shift.
NO_TIME_SHIFT = ("constant", "estimated")


@dataclass(frozen=True)
class Known:
    """State of one series at several issues; every array has one entry per issue."""

    series: Series
    issues: Ints
    """Hours (epoch) of the issues."""
    lag_hours: int
    """Hours the source publishes late."""

    @cached_property
    def origin(self) -> Ints:
        """Position in the series of the first hour not known; 0 where nothing is known."""
        values = self.series.values
        newest = np.maximum.accumulate(np.where(np.isnan(values), -1, np.arange(len(values))))
        cut = np.clip(self.issues - self.lag_hours - self.series.first, 0, len(values))
        return np.where(cut > 0, newest[np.maximum(cut - 1, 0)] + 1, 0)

    @cached_property
    def age_hours(self) -> Ints:
        """Hours between the end of the newest known hour and the issue."""
        return self.issues - self.series.first - self.origin

    @cached_property
    def hours(self) -> Ints:
        """Hours known at all."""
        counts = np.concatenate([[0], np.cumsum(~np.isnan(self.series.values))])
        return counts[self.origin]

    @cached_property
    def reason(self) -> list[str]:
        """Why there can be no forecast; empty where there can."""
        found = np.full(len(self.issues), "", dtype=object)
        found[self.age_hours > OLDEST_HOURS] = TOO_OLD
        found[self.hours < LEAST_HOURS] = TOO_LITTLE
        found[self.origin == 0] = NO_HISTORY
        return found.tolist()

    @cached_property
    def constant(self) -> Flags:
        """The window moves by next to nothing."""
        window = self._recent(self.series.values, np.nan)
        seen = ~np.isnan(window)
        low, high = np.where(seen, window, np.inf).min(1), np.where(seen, window, -np.inf).max(1)
        return seen.any(1) & (high - low <= CONSTANT_WITHIN * (high + low) / 2)

    @cached_property
    def sparse(self) -> Flags:
        """Most of the window is missing (and not merely before the first known hour)."""
        return (self._outcomes > 0).mean(1) > SPARSE_FROM

    @cached_property
    def estimated(self) -> Flags:
        """The provider estimated (nearly) every known hour of the window."""
        known = self._outcomes == 0
        guessed = self._recent(self.series.estimated.astype(float), 0.0) > 0
        count = known.sum(1)
        return (count > 0) & ((known & guessed).sum(1) >= ESTIMATED_FROM * count)

    @cached_property
    def flags(self) -> list[str]:
        """Quality text of each issue: what the window holds beside plain hours."""
        marks = [
            ("stale", self.age_hours > self.lag_hours),
            ("constant", self.constant),
            ("estimated", self.estimated),
            *((name, (self._outcomes == code).any(1)) for code, name in enumerate(OUTCOMES) if code >= GAP),
        ]
        return [merge(*(name for name, at in marks if at[i])) for i in range(len(self.issues))]

    @cached_property
    def version(self) -> list[str | None]:
        """Where the newest known hour comes from."""
        newest = self.series.version[np.maximum(self.origin - 1, 0)]
        return [self.series.versions[code] or None for code in newest.tolist()]

    @cached_property
    def _outcomes(self) -> Ints:
        """Outcome of each hour of the window; -1 before the first hour held."""
        return self._recent(self.series.outcome.astype(float), -1.0).astype(np.int64)

    def _recent(self, values: Floats, before: float) -> Floats:
        at = self.origin[:, None] + np.arange(-RECENT_HOURS, 0)
        return np.where(at >= 0, values[np.maximum(at, 0)], before)

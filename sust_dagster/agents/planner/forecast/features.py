"""What the two linear models of the ridge forecast look at.

Belongs here: from hours before an origin to input arrays. Does not belong here: fitting, or which hours are known.

Both work on ``u = ln(intensity + 1 g)`` as deviation from the hour's *profile*: the mean of the same hour of day over
the 28 days before the origin. An origin is the first hour that is not known. The inputs of an hour of day serve each
day ahead: on the second day the same things are known, and the weekday is the next one (which a linear model takes for
the same inputs in another order).

- *pooled*: deviations of the last 24 hours, of the target's hour on each of the last 7 days, and the weekday.
  Learned from origins at every third hour of the day: many samples, few inputs.
- *daily*: besides, means of the last days, the profile itself, neighbouring hours, and the same hour two weeks before.
  Learned from origins at the issue's own hour of day alone.
"""

from __future__ import annotations

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.planner.forecast.series import Ints

#: Days of the profile, and hours before an origin that any input needs.
PROFILE_DAYS = 28
WARM_HOURS = PROFILE_DAYS * 24

_HOURS = np.arange(24)
_WEEKDAYS = np.arange(7)
#: 1970-01-01 was a Thursday.
_EPOCH_WEEKDAY = 3


def weeks_before(values: Floats, origins: Ints) -> Floats:
    """The 28 days before each origin, by day (oldest first) and hour since the origin: shape (origins, 28, 24)."""
    return values[origins[:, None] + np.arange(-WARM_HOURS, 0)].reshape(len(origins), PROFILE_DAYS, 24)


def pooled(u: Floats, first_hour: int, origins: Ints) -> tuple[Floats, Floats]:
    """Inputs (24, origins, 38) of each hour of day, and the profile (origins, 24) they deviate from."""
    days = weeks_before(u, origins)
    profile = days.mean(1)
    recent = days[:, -7:] - profile[:, None]
    parts = (_for_every_hour(recent[:, -1]), recent.transpose(2, 0, 1), _weekday(first_hour + origins))
    return np.concatenate(parts, axis=2), profile


def daily(u: Floats, first_hour: int, origins: Ints) -> tuple[Floats, Floats]:
    """Inputs (24, origins, 52) of each hour of day, and the profile (origins, 24) they deviate from."""
    days = weeks_before(u, origins)
    profile = days.mean(1)
    level = profile.mean(1, keepdims=True)
    deviation = days - profile[:, None]
    recent, last = deviation[:, -7:], deviation[:, -1]
    day_means = days[:, -7:].mean(2) - level
    shared = np.concatenate([last, day_means[:, 1:], day_means.mean(1, keepdims=True), level], axis=1)
    of_hour = (*recent.transpose(1, 0, 2), recent.mean(1), profile, last[:, (_HOURS + 1) % 24], last[:, _HOURS - 1])
    weeks = (deviation[:, -14], deviation[:, -13])
    own = np.stack([*of_hour, *weeks], axis=2).transpose(1, 0, 2)
    return np.concatenate([_for_every_hour(shared), own, _weekday(first_hour + origins)], axis=2), profile


def _for_every_hour(shared: Floats) -> Floats:
    return np.broadcast_to(shared, (24, *shared.shape))


def _weekday(first: Ints) -> Floats:
    """Which weekday (UTC) each hour after ``first`` (epoch) falls on, as seven indicators less their mean."""
    day = ((first + _HOURS[:, None]) // 24 + _EPOCH_WEEKDAY) % 7
    return (day[..., None] == _WEEKDAYS) - 1 / 7

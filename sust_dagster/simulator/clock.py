"""Simulated time: whole UTC hours since the Unix epoch.

Belongs here: conversions between datetimes, hour indices, seconds and Arrow timestamps, and the local hour of
the week. Does not belong here: a wall clock. The simulator never asks what time it is; callers say.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

HOUR_S = 3600
DAY_HOURS = 24
WEEK_HOURS = 168
TIMESTAMP = pa.timestamp("us", tz="UTC")

Hours = NDArray[np.int64]


def hour_index(moment: datetime) -> int:
    """Whole hours since 1970-01-01T00:00Z.

    Raises ``ValueError`` for a naive datetime or one that is not on a whole UTC hour.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone; the simulator takes timezone-aware times only")
    delta = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = delta.days * 86_400 + delta.seconds
    if delta.microseconds or seconds % HOUR_S:
        raise ValueError(f"{moment.isoformat()} is not a whole UTC hour")
    return seconds // HOUR_S


def hour_bounds(start: datetime, end: datetime) -> tuple[int, int]:
    """Hour indices of ``[start, end)``; ``ValueError`` when ``end`` is before ``start``."""
    first, last = hour_index(start), hour_index(end)
    if last < first:
        raise ValueError(f"end {end.isoformat()} is before start {start.isoformat()}")
    return first, last


def moment_of(hour: int) -> datetime:
    """The UTC datetime of an hour index."""
    return datetime.fromtimestamp(hour * HOUR_S, tz=UTC)


def timestamps(seconds: NDArray[np.int64]) -> pa.Array:
    """Arrow ``timestamp[us, UTC]`` of seconds since the epoch."""
    return pa.array(np.asarray(seconds, np.int64) * 1_000_000, pa.int64()).cast(TIMESTAMP)


def hour_timestamps(hours: Hours) -> pa.Array:
    """Arrow ``timestamp[us, UTC]`` of hour indices."""
    return timestamps(np.asarray(hours, np.int64) * HOUR_S)


def local_hour_of_week(utc_offset_hours: float) -> NDArray[np.float64]:
    """Local hour of the week, Monday 00:00 = 0, at the middle of each UTC hour of the week.

    Entry ``k`` belongs to hour indices with ``hour_of_week(hour) == k``. Offsets are standard time: the simulated
    world has no daylight saving.
    """
    return (np.arange(WEEK_HOURS) + 0.5 + utc_offset_hours) % WEEK_HOURS


def hour_of_week(hours: Hours) -> Hours:
    """UTC hour of the week, Monday 00:00 = 0 (the epoch was a Thursday)."""
    return (hours + 3 * DAY_HOURS) % WEEK_HOURS


def month_bounds(hours: Hours) -> tuple[Hours, Hours]:
    """First hour of each hour's UTC month and of the next one."""
    months = np.asarray(hours, np.int64).astype("datetime64[h]").astype("datetime64[M]")
    first = months.astype("datetime64[h]").astype(np.int64)
    following = (months + 1).astype("datetime64[h]").astype(np.int64)
    return first, following

"""Outages: hours in which a region takes no new placements.

Belongs here: when they happen. They are outages of the control plane: what runs goes on running, but nothing new
can be placed. An outage starts in a region once in 45 days on average and lasts 1 to 6 hours; whether an hour is
hit follows from the keyed starts of that hour and the five before it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.simulator.clock import DAY_HOURS, Hours, hour_timestamps
from sust_dagster.simulator.columns import pick
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.streams import Stream, word

MEAN_DAYS_BETWEEN = 45
MAX_OUTAGE_HOURS = 6
#: Hours up to which each is looked up on its own.
_FEW = 64


def outage_hours(seed: int, hours: Hours) -> NDArray[np.bool_]:
    """Whether each region is out in each hour: shape ``(hours, regions)``."""
    if 0 < hours.size <= _FEW:  # the placement API asks for the same few hours over and over
        return np.stack([_outages_of_day(seed, hour // DAY_HOURS)[hour % DAY_HOURS] for hour in hours.tolist()])
    return _outages(seed, hours)


@lru_cache(maxsize=256)
def _outages_of_day(seed: int, day: int) -> NDArray[np.bool_]:
    return _outages(seed, np.arange(day * DAY_HOURS, (day + 1) * DAY_HOURS, dtype=np.int64))


def _outages(seed: int, hours: Hours) -> NDArray[np.bool_]:
    stream = Stream.of(seed, "outages")
    lanes = np.array([word(r) for r in REGION_IDS], np.int64)
    out = np.zeros((hours.size, lanes.size), bool)
    for ago in range(MAX_OUTAGE_HOURS):
        u = stream.uniforms((hours - ago)[:, None], lanes[None, :])
        starts = u[..., 0] < 1.0 / (MEAN_DAYS_BETWEEN * 24)
        lasts = 1 + np.floor(u[..., 1] * MAX_OUTAGE_HOURS)
        out |= starts & (lasts > ago)
    return out


def outage_table(seed: int, hours: Hours) -> pa.Table:
    """``ts, region``: one row per hour and region that is out."""
    row, region = np.nonzero(outage_hours(seed, hours))
    return pa.table({"ts": hour_timestamps(hours[row]), "region": pick(REGION_IDS, region)})

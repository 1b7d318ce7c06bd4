"""Runs that read what others made: who waits for whom, and who began before it was there.

Belongs here: what a dependency means for single runs, and counting those that were let down. Which workload reads which
is a fixed list (organisation.py). Does not belong here: any other promise (twins.py), planning.

**Meaning.** Workload B depends on workload A. A run of B asked for at r is promised every result of A that would have
been there at r had the cloud been left alone: it depends on each run of A that, left alone, ends at or before r. The
promise is broken when B's run starts before one of them has ended. So a cloud that is left alone never breaks it
(there B starts at r), and in another nothing but a placement can.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.simulator.arrivals import Ints
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.placements import Placements
from sust_dagster.simulator.runs import LOOKBACK_HOURS

_COLUMNS = ["workload_id", "requested_at", "started_at", "ended_at"]


@dataclass(frozen=True)
class Dependencies:
    """Runs of one span of requests that depend on others."""

    waiting: int
    """Runs that depend on at least one other run."""
    too_early: int
    """Those of them that started before one of these had ended."""


def dependencies(cloud: FakeCloud, start: datetime, end: datetime) -> Dependencies:
    """Runs requested in ``[start, end)`` that depend on others, and those that did not wait for them.

    Runs asked for so long before ``start`` that they have ended in every world by then hold nobody up: they count
    neither as waited for nor as broken.
    """
    begin = start - timedelta(hours=LOOKBACK_HOURS)
    ran = cloud.jobs(begin, end).select(_COLUMNS)
    alone = cloud.with_placements(Placements()).jobs(begin, end)  # the same jobs in the same order
    natural = _micros(alone["ended_at"])
    first = int(start.timestamp() * 1_000_000)
    waiting = too_early = 0
    for workload in (w for w in cloud.catalogue if w.depends_on):
        own = _rows(ran, (workload.workload_id,))
        requested, started = _micros(ran["requested_at"])[own], _micros(ran["started_at"])[own]
        asked = requested >= first
        before = _rows(ran, workload.depends_on)
        order = before[np.argsort(natural[before], kind="stable")]
        # The latest true end among the runs that are through, left alone, by each moment; -1 before the first.
        latest = np.concatenate([[-1], np.maximum.accumulate(_micros(ran["ended_at"])[order])])
        bound = latest[np.searchsorted(natural[order], requested[asked], side="right")]
        waiting += int((bound >= 0).sum())
        too_early += int((started[asked] < bound).sum())
    return Dependencies(waiting, too_early)


def _rows(jobs: pa.Table, workloads: tuple[str, ...]) -> Ints:
    found = pc.is_in(jobs["workload_id"].cast(pa.string()), value_set=pa.array(workloads, pa.string()))
    return np.flatnonzero(found.to_numpy(zero_copy_only=False))


def _micros(times: pa.ChunkedArray) -> Ints:
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()

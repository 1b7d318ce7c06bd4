"""Worlds beside one another on the same random numbers: as it is, untouched, and moved by a plain region table.

Belongs here: the truth a scorecard is held against: what each world emitted and cost for the same jobs, which promises
it broke. Does not belong here: what the product says of itself (the lake), the scorecard.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.simulator.clock import hour_timestamps
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.dependencies import dependencies
from sust_dagster.simulator.network import round_trip_ms
from sust_dagster.simulator.placements import PLACEMENT_SCHEMA, Placements
from sust_dagster.simulator.regions import REGION_IDS, REGION_INDEX, REGIONS
from sust_dagster.simulator.workloads import Workload

#: Longest start delay of a category, hours (founding design, section 4).
MOST_DELAY_HOURS = {"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0}
_ROUNDING_HOURS = 1e-6


@dataclass(frozen=True)
class World:
    """Totals over the jobs asked for in a span of time, each over its whole run."""

    true_kg: float
    stated_kg: float
    cost_usd: float
    """Compute and egress."""


def world(cloud: FakeCloud, start: datetime, end: datetime) -> World:
    """What the jobs requested in ``[start, end)`` came to."""
    emissions, jobs = cloud.true_emissions(start, end), cloud.jobs(start, end)
    cost = pc.sum(jobs["cost_usd"]).as_py() + pc.sum(jobs["egress_usd"]).as_py()
    return World(pc.sum(emissions["true_kg"]).as_py(), pc.sum(emissions["stated_kg"]).as_py(), cost)


@dataclass(frozen=True)
class Broken:
    """Jobs that were promised otherwise; one may break several promises."""

    late: int
    """Started later than their category allows."""
    slow: int
    """Ran further from home than their latency limit allows."""
    elsewhere: int
    """Ran in a region their data may not be in."""
    start_before_dependency: int
    """Started before a result was there that they would have found (``dependencies``)."""

    @property
    def total(self) -> int:
        return self.late + self.slow + self.elsewhere + self.start_before_dependency


def broken(cloud: FakeCloud, start: datetime, end: datetime) -> Broken:
    """Promises the cloud broke to the jobs requested in ``[start, end)``."""
    jobs = cloud.jobs(start, end)
    names = {w.workload_id: k for k, w in enumerate(cloud.catalogue)}
    kind = np.array([names[w] for w in jobs["workload_id"].to_pylist()], np.int64)
    region, home = (
        np.array([REGION_INDEX[r] for r in jobs[c].to_pylist()], np.int64) for c in ("region", "home_region")
    )
    delay = (_micros(jobs["started_at"]) - _micros(jobs["requested_at"])) / 3.6e9
    most = np.array([MOST_DELAY_HOURS[w.workload_category] for w in cloud.catalogue])[kind]
    limit = np.array([np.inf if w.sla_latency_ms is None else w.sla_latency_ms for w in cloud.catalogue])[kind]
    allowed = np.array([_allowed(w) for w in cloud.catalogue])
    return Broken(
        int((delay > most + _ROUNDING_HOURS).sum()),
        int(((region != home) & (round_trip_ms()[home, region] > limit)).sum()),
        int((~allowed[kind, region]).sum()),
        dependencies(cloud, start, end).too_early,
    )


def deferred(cloud: FakeCloud, start: datetime, end: datetime) -> int:
    """Jobs requested in ``[start, end)`` that started later than asked for."""
    jobs = cloud.jobs(start, end)
    return int((_micros(jobs["started_at"]) > _micros(jobs["requested_at"])).sum())


def static_table(cloud: FakeCloud, start: datetime, end: datetime) -> FakeCloud:
    """The same world with every workload at once in the region of the lowest mean intensity it may use.

    What a one-line table does: by category (urgent within its continent and latency limit), without forecast, delay,
    budget or capacity. ``cloud`` is the untouched one.
    """
    hours = int((end - start) / timedelta(hours=1))
    first = int(start.timestamp()) // 3600
    moved = [(w, r) for w in cloud.catalogue if (r := _cleanest(w)) != w.home_region]
    stamps = hour_timestamps(np.tile(np.arange(first, first + hours, dtype=np.int64), len(moved)))
    columns = {
        "workload_id": pa.array(np.repeat([w.workload_id for w, _ in moved], hours)),
        "requested_hour": stamps,
        "region": pa.array(np.repeat([r for _, r in moved], hours)),
    }
    n = len(moved) * hours
    rows = pa.table(
        {f.name: columns.get(f.name, pa.nulls(n, f.type)) for f in PLACEMENT_SCHEMA}
    ).cast(PLACEMENT_SCHEMA)  # fmt: skip
    return cloud.with_placements(Placements.from_rows(rows))


def _cleanest(workload: Workload) -> str:
    means = np.array([r.grid_mean_g_per_kwh for r in REGIONS])
    fits = np.array(_allowed(workload)) & np.array(_reachable(workload))
    fits[REGION_INDEX[workload.home_region]] = True
    return REGION_IDS[int(np.where(fits, means, np.inf).argmin())]


def _allowed(workload: Workload) -> list[bool]:
    return [workload.allowed_regions is None or r in workload.allowed_regions for r in REGION_IDS]


def _reachable(workload: Workload) -> list[bool]:
    home = REGIONS[REGION_INDEX[workload.home_region]]
    limit = np.inf if workload.sla_latency_ms is None else workload.sla_latency_ms
    near = round_trip_ms()[REGION_INDEX[home.region_id]] <= limit
    urgent = workload.workload_category == "urgent"
    return [bool(near[k]) and (not urgent or r.continent == home.continent) for k, r in enumerate(REGIONS)]


def _micros(times: pa.ChunkedArray) -> np.ndarray:
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()

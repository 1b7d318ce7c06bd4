"""The fake cloud: one object to ask for jobs, bills, grid signals, prices and the hidden truth.

Belongs here: the public face of the simulator and its tables. Everything it returns follows from the seed, the
placements and the trace, if one is replayed; any range of hours can be asked for alone and in any order, and
ranges that meet give what the whole range gives. Does not belong here: how any of it is drawn.

Twin worlds: ``FakeCloud(s)`` and ``FakeCloud(s, placements=p)`` have the same jobs with the same draws, so the
difference of their true emissions, job by job, is what the placements truly saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.simulator import api
from sust_dagster.simulator.arrivals import Demand, job_ids
from sust_dagster.simulator.carbon import GeneratedGrid, GridSource, signal_table, truth_table
from sust_dagster.simulator.clock import HOUR_S, Hours, hour_bounds, hour_timestamps, timestamps
from sust_dagster.simulator.columns import constant, pick
from sust_dagster.simulator.emissions import by_hour, per_job
from sust_dagster.simulator.focus import focus_table
from sust_dagster.simulator.focus_schema import FOCUS_SCHEMA
from sust_dagster.simulator.health import Seen, seen
from sust_dagster.simulator.instances import INSTANCES
from sust_dagster.simulator.network import egress_table, latency_table
from sust_dagster.simulator.organisation import DEVELOPERS
from sust_dagster.simulator.outages import outage_table
from sust_dagster.simulator.placements import PlacementIndex, Placements, Rows, placement_rows
from sust_dagster.simulator.prices import price_table
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.replay import Replay, ReplayedGrid
from sust_dagster.simulator.runs import Runs, Scheduler, Slices, slices_of
from sust_dagster.simulator.truth import FactorErrors
from sust_dagster.simulator.workloads import Workload, catalogue, catalogue_table, metrics_table

#: Hours of bill made in one piece: what a long range holds in memory besides its result.
BATCH_HOURS = 14 * 24


@dataclass(frozen=True)
class Submission:
    """Answer of the placement API: the cloud with the accepted rows in force, and both lots of rows.

    ``refused`` has the placement's columns and ``reason, detail`` (api.py lists the reasons).
    """

    cloud: FakeCloud
    accepted: pa.Table
    refused: pa.Table


class FakeCloud:
    """The simulated cloud of one seed."""

    def __init__(self, seed: int, *, placements: Placements | None = None, replay: Replay | None = None) -> None:
        self.seed = seed
        self.placements = Placements() if placements is None else placements
        self.replay = replay
        self.catalogue: tuple[Workload, ...] = catalogue(seed)
        self.grid: GridSource = GeneratedGrid(seed) if replay is None else ReplayedGrid(seed, replay)
        self.errors = FactorErrors(seed)
        self._demand = Demand(seed, self.catalogue)
        self._scheduler = Scheduler(self._demand, PlacementIndex(self.placements, self.catalogue))

    def with_placements(self, placements: Placements) -> FakeCloud:
        """The same world with other placements in force."""
        return FakeCloud(self.seed, placements=placements, replay=self.replay)

    def submit(self, rows: Rows, *, now: datetime | None = None) -> Submission:
        """Ask for placements; what the cloud refuses comes back with a reason, the rest is in force.

        With ``now`` (timezone-aware), jobs whose requested hour has begun can no longer be placed. Asking again
        for what is in force changes nothing. Raises ``PlacementError`` for rows of the wrong form.
        """
        verdict = self.judge(rows, now=now)
        placed = self.placements.with_rows(verdict.accepted)
        return Submission(self.with_placements(placed), verdict.accepted, verdict.refused)

    def judge(self, rows: Rows, *, now: datetime | None = None) -> api.Verdict:
        """What :meth:`submit` would take and refuse; nothing is placed."""
        if now is not None and now.tzinfo is None:
            raise ValueError(f"now={now!r} has no time zone")
        now_s = None if now is None else (now - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(seconds=1)
        return api.judge(self._demand, placement_rows(rows), now_s)

    def workloads(self) -> pa.Table:
        """The catalogue: one row per workload (``workloads.WORKLOAD_SCHEMA``)."""
        return catalogue_table(self.catalogue)

    def metrics(self) -> pa.Table:
        """What monitoring sees: ``workload_id, utilisation_p95`` (``workloads.metrics_table``)."""
        return metrics_table(self.seed, self.catalogue)

    def jobs(self, start: datetime, end: datetime) -> pa.Table:
        """Jobs REQUESTED in ``[start, end)``, sorted by (requested_at, job_id); whole UTC hours.

        Columns: ``job_id, workload_id, service_name, team_id, owner, job_type, service_tier, workload_category,
        cloud_provider, home_region, region, requested_at, started_at, ended_at, duration_hours, vcpus, gpus,
        instance_type, memory_gib, data_gb, cost_usd`` (compute of the whole run), ``egress_usd, spot, status``
        (``succeeded``, or ``restarted`` after interruptions).
        """
        runs = self._scheduler.runs(*hour_bounds(start, end))
        per, kind, instance = self.catalogue, runs.requests.workload, runs.instance
        run_s = runs.ended_s - runs.started_s
        table = pa.table(
            {
                "job_id": job_ids(runs.requests, per),
                "workload_id": pick([w.workload_id for w in per], kind),
                "service_name": pick([w.service_name for w in per], kind),
                "team_id": pick([w.team_id for w in per], kind),
                "owner": pick(list(DEVELOPERS), runs.requests.owner),
                "job_type": pick([w.job_type for w in per], kind),
                "service_tier": pick([w.service_tier for w in per], kind),
                "workload_category": pick([w.workload_category for w in per], kind),
                "cloud_provider": constant("aws", len(runs)),
                "home_region": pick(REGION_IDS, runs.home),
                "region": pick(REGION_IDS, runs.region),
                "requested_at": timestamps(runs.requests.requested_s),
                "started_at": timestamps(runs.started_s),
                "ended_at": timestamps(runs.ended_s),
                "duration_hours": run_s / HOUR_S,
                "vcpus": np.array([float(x.vcpus) for x in INSTANCES])[instance],
                "gpus": np.array([float(x.gpus) for x in INSTANCES])[instance],
                "instance_type": pick([x.instance_type for x in INSTANCES], instance),
                "memory_gib": np.array([float(x.memory_gib) for x in INSTANCES])[instance],
                "data_gb": np.array([w.data_gb for w in per])[kind],
                "cost_usd": self._scheduler.cost_usd(runs),
                "egress_usd": runs.egress_usd,
                "spot": runs.spot,
                "status": pick(["succeeded", "restarted"], (runs.interruptions > 0).astype(np.int64)),
            }
        )
        return table.take(pc.sort_indices(table, [("requested_at", "ascending"), ("job_id", "ascending")]))

    def health(self, workload_id: str, start: datetime, end: datetime) -> Seen | None:
        """What monitoring saw of a workload in the whole hours within ``[start, end)``; None where it did not run."""
        first, last = -int(-start.timestamp() // HOUR_S), int(end.timestamp() // HOUR_S)
        number = next((k for k, w in enumerate(self.catalogue) if w.workload_id == workload_id), None)
        if number is None or last <= first:
            return None
        runs = self._scheduler.runs(first - self._scheduler.lookback_hours, last)
        cut = slices_of(runs, first, last)
        own = np.flatnonzero(runs.requests.workload[cut.job] == number)
        return seen(self.seed, self.catalogue[number], runs, Slices(cut.job[own], cut.hour[own], cut.seconds[own]))

    def slices(self, start: datetime, end: datetime) -> pa.Table:
        """Job-hours that RAN in ``[start, end)``, sorted by (hour, job_id).

        Columns: ``hour, job_id, workload_id, job_type, region, usage_hours, vcpus, gpus, vcpu_hours, gpu_hours,
        spot, cost_usd``.
        """
        first, last = hour_bounds(start, end)
        runs = self._scheduler.runs(first - self._scheduler.lookback_hours, last)
        cut = slices_of(runs, first, last)
        paid, _ = self._scheduler.hourly_usd(runs, cut)
        kind, instance = runs.requests.workload[cut.job], runs.instance[cut.job]
        vcpus = np.array([float(x.vcpus) for x in INSTANCES])[instance]
        gpus = np.array([float(x.gpus) for x in INSTANCES])[instance]
        table = pa.table(
            {
                "hour": hour_timestamps(cut.hour),
                "job_id": job_ids(runs.requests, self.catalogue).take(pa.array(cut.job)),
                "workload_id": pick([w.workload_id for w in self.catalogue], kind),
                "job_type": pick([w.job_type for w in self.catalogue], kind),
                "region": pick(REGION_IDS, runs.region[cut.job]),
                "usage_hours": cut.usage_hours,
                "vcpus": vcpus,
                "gpus": gpus,
                "vcpu_hours": vcpus * cut.usage_hours,
                "gpu_hours": gpus * cut.usage_hours,
                "spot": runs.spot[cut.job],
                "cost_usd": paid * cut.usage_hours,
            }
        )
        return table.take(pc.sort_indices(table, [("hour", "ascending"), ("job_id", "ascending")]))

    def focus_rows(self, start: datetime, end: datetime) -> pa.Table:
        """The bill of ``[start, end)``: FOCUS 1.2, sorted by (ChargePeriodStart, ResourceId)."""
        return pa.concat_tables([FOCUS_SCHEMA.empty_table(), *self.focus_batches(start, end)])

    def focus_batches(self, start: datetime, end: datetime, hours: int = BATCH_HOURS) -> Iterator[pa.Table]:
        """The same bill in pieces of ``hours`` hours, for ranges too long to hold."""
        first, last = hour_bounds(start, end)
        for begin in range(first, last, hours):
            yield focus_table(self._scheduler, begin, min(begin + hours, last))

    def grid_signal(self, start: datetime, end: datetime) -> pa.Table:
        """The OBSERVED intensity by hour and region (``carbon.signal_table``)."""
        return signal_table(self.grid, _hours(start, end))

    def true_intensity(self, start: datetime, end: datetime) -> pa.Table:
        """The hidden TRUE intensity: ``ts, region, intensity_g_per_kwh``. For scoring only."""
        return truth_table(self.grid, _hours(start, end))

    def prices(self, start: datetime, end: datetime) -> pa.Table:
        """On-demand and spot prices by hour, region and instance type (``prices.price_table``)."""
        return price_table(self.seed, _hours(start, end))

    def latency(self) -> pa.Table:
        """``from_region, to_region, rtt_ms``."""
        return latency_table()

    def egress_prices(self) -> pa.Table:
        """``from_region, to_region, usd_per_gb``."""
        return egress_table()

    def outages(self, start: datetime, end: datetime) -> pa.Table:
        """Hours in which a region takes no new placements: ``ts, region``."""
        return outage_table(self.seed, _hours(start, end))

    def true_emissions(self, start: datetime, end: datetime) -> pa.Table:
        """What each job REQUESTED in ``[start, end)`` emitted over its whole run. For scoring only.

        Columns: ``job_id, workload_id, job_type, team_id, home_region, region, stated_kwh, stated_kg`` (simple/v1
        on the observed signal), ``true_kwh, true_kg`` (with the hidden errors, on the true intensity); kWh are at
        the facility meter. Sorted as :meth:`jobs`. A replayed trace must reach past ``end`` to the last run's end.
        """
        runs = self._scheduler.runs(*hour_bounds(start, end))
        stated_kwh, stated_kg = per_job(runs, self.grid, None, observed=True)
        true_kwh, true_kg = per_job(runs, self.grid, self.errors, observed=False)
        return self._emissions(
            runs, {"stated_kwh": stated_kwh, "stated_kg": stated_kg, "true_kwh": true_kwh, "true_kg": true_kg}
        )

    def hourly(self, start: datetime, end: datetime) -> pa.Table:
        """What ran in each hour: ``ts, stated_kg, true_kg, cost_usd`` (compute, and egress at the start of a run)."""
        first, last = hour_bounds(start, end)
        runs = self._scheduler.runs(first - self._scheduler.lookback_hours, last)
        stated, true = by_hour(runs, self.grid, self.errors, first, last)
        cut = slices_of(runs, first, last)
        paid, _ = self._scheduler.hourly_usd(runs, cut)
        usd = np.bincount(cut.hour - first, paid * cut.usage_hours, minlength=last - first)
        begins = runs.started_s // HOUR_S - first
        inside = (begins >= 0) & (begins < last - first)
        usd += np.bincount(begins[inside], runs.egress_usd[inside], minlength=last - first)
        hours = hour_timestamps(np.arange(first, last, dtype=np.int64))
        return pa.table({"ts": hours, "stated_kg": stated, "true_kg": true, "cost_usd": usd})

    def baseline_emissions(self, start: datetime, end: datetime) -> pa.Table:
        """Jobs as :meth:`true_emissions`, with ``kwh, kg`` of simple/v1 on the TRUE intensity: no power or PUE
        error, no signal error. What the founding design's formula should give (baseline.py).
        """
        runs = self._scheduler.runs(*hour_bounds(start, end))
        kwh, kg = per_job(runs, self.grid, None, observed=False)
        return self._emissions(runs, {"kwh": kwh, "kg": kg})

    def _emissions(self, runs: Runs, figures: dict[str, np.ndarray]) -> pa.Table:
        per, kind = self.catalogue, runs.requests.workload
        table = pa.table(
            {
                "job_id": job_ids(runs.requests, per),
                "workload_id": pick([w.workload_id for w in per], kind),
                "job_type": pick([w.job_type for w in per], kind),
                "team_id": pick([w.team_id for w in per], kind),
                "home_region": pick(REGION_IDS, runs.home),
                "region": pick(REGION_IDS, runs.region),
                "requested_at": timestamps(runs.requests.requested_s),
                **figures,
            }
        )
        table = table.take(pc.sort_indices(table, [("requested_at", "ascending"), ("job_id", "ascending")]))
        return table.drop_columns(["requested_at"])


def _hours(start: datetime, end: datetime) -> Hours:
    return np.arange(*hour_bounds(start, end), dtype=np.int64)

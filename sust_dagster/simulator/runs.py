"""What the jobs did: where and when each ran, on what, for how long and at what price.

Belongs here: the effect of a placement on a run, and the cut of runs into clock hours. A placement changes the
region, the start, the instance or the market of the jobs it names, and nothing of any other job:

* a delay moves the start; a region moves the run and its price, and bills egress for the workload's data once;
* right-sizing below the share of vCPUs the workload needs stretches the run by ``needed_share / scale`` (but not
  a service that runs round the clock);
* on spot each clock hour of the run may be interrupted; each interruption costs a quarter of an hour more
  (restart and lost work), at the same keyed draws in every world.

No placement may stretch a run beyond twice its own length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sust_dagster.simulator.arrivals import MAX_RUN_HOURS, Demand, Ints, Requests
from sust_dagster.simulator.clock import HOUR_S
from sust_dagster.simulator.instances import INSTANCE_INDEX
from sust_dagster.simulator.network import egress_usd_per_gb
from sust_dagster.simulator.placements import MAX_DELAY_HOURS, PlacementIndex
from sust_dagster.simulator.prices import SpotMarket, on_demand_usd_per_hour
from sust_dagster.simulator.regions import region_index
from sust_dagster.simulator.streams import Floats, Stream

MAX_STRETCH = 2
RESTART_S = 900
#: How far before an hour a job that still runs in it may have been asked for (the request's hour included).
LOOKBACK_HOURS = MAX_DELAY_HOURS + MAX_STRETCH * MAX_RUN_HOURS + 1
#: The same where nothing is placed.
LOOKBACK_UNPLACED_HOURS = MAX_RUN_HOURS + 1

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Runs:
    """Jobs with how they ran, as parallel arrays in the order of ``requests``.

    ``home``, ``region`` and ``instance`` are positions in REGIONS and INSTANCES.
    """

    requests: Requests
    home: Ints
    region: Ints
    instance: Ints
    spot: Flags
    interruptions: Ints
    started_s: Ints
    ended_s: Ints
    egress_gb: Floats
    egress_usd: Floats

    def __len__(self) -> int:
        return len(self.requests)


@dataclass(frozen=True)
class Slices:
    """Job-hours: ``job`` is a position in the runs, ``hour`` an hour index, ``seconds`` the time run in it."""

    job: Ints
    hour: Ints
    seconds: Ints

    @property
    def usage_hours(self) -> Floats:
        return self.seconds / HOUR_S


def spread(first: Ints, last: Ints) -> tuple[Ints, Ints]:
    """For each item the whole numbers ``first .. last`` inclusive: ``(item, number)``, items in order."""
    count = np.maximum(last - first + 1, 0)
    item = np.repeat(np.arange(count.size), count)
    return item, np.arange(item.size) - np.repeat(np.cumsum(count) - count, count) + first[item]


def slices_of(runs: Runs, first: int, last: int) -> Slices:
    """The job-hours of ``runs`` in hours ``[first, last)``, in the order (job, hour)."""
    begin = np.maximum(runs.started_s // HOUR_S, first)
    end = np.minimum((runs.ended_s - 1) // HOUR_S, last - 1)
    job, hour = spread(begin, end)
    seconds = np.minimum(runs.ended_s[job], (hour + 1) * HOUR_S) - np.maximum(runs.started_s[job], hour * HOUR_S)
    return Slices(job, hour, seconds)


@dataclass(frozen=True)
class Scheduler:
    """Turns requests into runs for one seed and set of placements."""

    demand: Demand
    placements: PlacementIndex

    @property
    def lookback_hours(self) -> int:
        return LOOKBACK_HOURS if len(self.placements) else LOOKBACK_UNPLACED_HOURS

    def runs(self, first: int, last: int) -> Runs:
        """The jobs asked for in hours ``[first, last)``, with how they ran."""
        requests = self.demand.requests(first, last)
        workloads = self.demand.workloads
        kind = requests.workload
        home = np.array([region_index(w.home_region) for w in workloads], np.int64)[kind]
        own = np.array([INSTANCE_INDEX[w.instance.instance_type] for w in workloads], np.int64)[kind]
        region, instance, spot = home, own, np.zeros(len(requests), bool)
        started_s, run_s = requests.requested_s, requests.run_s
        rows = self.placements.rows_for(requests)
        placed = np.flatnonzero(rows >= 0)
        interruptions = np.zeros(len(requests), np.int64)
        if placed.size:
            orders = self.placements.orders
            row = rows[placed]
            region, instance, spot = region.copy(), instance.copy(), spot.copy()
            started_s, run_s = started_s.copy(), run_s.copy()
            region[placed], instance[placed], spot[placed] = orders.region[row], orders.instance[row], orders.spot[row]
            started_s[placed] += np.rint(orders.delay_hours[row] * HOUR_S).astype(np.int64)
            run_s[placed] = np.ceil(run_s[placed] * orders.stretch[row]).astype(np.int64)
            interruptions = self._interruptions(requests, region, started_s, run_s, spot)
            longest = MAX_STRETCH * requests.run_s
            run_s = np.minimum(run_s + interruptions * RESTART_S, longest)
        moved = region != home
        egress_gb = np.where(moved, np.array([w.data_gb for w in workloads])[kind], 0.0)
        egress_usd = egress_gb * egress_usd_per_gb()[home, region]
        return Runs(
            requests,
            home,
            region,
            instance,
            spot,
            interruptions,
            started_s,
            started_s + run_s,
            egress_gb,
            egress_usd,
        )

    def _interruptions(self, requests: Requests, region: Ints, started_s: Ints, run_s: Ints, spot: Flags) -> Ints:
        """Interruptions of each job: one keyed draw per job and hour of its run, against that hour's hazard."""
        count = np.zeros(len(requests), np.int64)
        on_spot = np.flatnonzero(spot)
        if on_spot.size == 0:
            return count
        begin = started_s[on_spot] // HOUR_S
        item, hour = spread(begin, (started_s[on_spot] + run_s[on_spot] - 1) // HOUR_S)
        job = on_spot[item]
        addresses = np.array([w.address for w in self.demand.workloads], np.int64)[requests.workload[job]]
        stream = Stream.of(self.demand.seed, "interruptions")
        u = stream.uniforms(requests.hour[job], addresses, requests.ordinal[job], hour - begin[item])[:, 0]
        first = int(hour.min())
        hazard = SpotMarket(self.demand.seed).hazard_per_hour(np.arange(first, int(hour.max()) + 1))
        np.add.at(count, job, u < hazard[hour - first, region[job]])
        return count

    def hourly_usd(self, runs: Runs, slices: Slices) -> tuple[Floats, Floats]:
        """Price per hour of each slice: ``(paid, list)``; they differ on spot."""
        listed = on_demand_usd_per_hour()[runs.region[slices.job], runs.instance[slices.job]]
        on_spot = runs.spot[slices.job]
        if not on_spot.any():
            return listed, listed
        first = int(slices.hour.min())
        share = SpotMarket(self.demand.seed).price_share(np.arange(first, int(slices.hour.max()) + 1))
        return np.where(on_spot, listed * share[slices.hour - first, runs.region[slices.job]], listed), listed

    def cost_usd(self, runs: Runs) -> Floats:
        """Compute cost of each whole run, egress not included."""
        if len(runs) == 0:
            return np.zeros(0)
        cut = slices_of(runs, int(runs.started_s.min()) // HOUR_S, int(runs.ended_s.max()) // HOUR_S + 1)
        paid, _ = self.hourly_usd(runs, cut)
        # bincount adds in the order of the hours, so the sum is the same whatever range was asked for.
        return np.bincount(cut.job, paid * cut.usage_hours, minlength=len(runs)).astype(np.float64, copy=False)

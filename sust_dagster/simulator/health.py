"""What monitoring sees of a service: its slowest answers and its errors, hour by hour.

Belongs here: the 99 % quantile of latency as its users at home see it, and the share of failed requests, of the hours a
workload ran. A service far from home answers later by the round trip; one with fewer vCPUs than it needs answers slower
and fails more. Does not belong here: whether that is good enough (the executor's canary).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.simulator.instances import INSTANCES
from sust_dagster.simulator.network import round_trip_ms
from sust_dagster.simulator.regions import region_index
from sust_dagster.simulator.runs import Runs, Slices
from sust_dagster.simulator.streams import Floats, Stream
from sust_dagster.simulator.workloads import Workload

#: Own 99 % quantile of a service at home, ms: between these, by workload.
OWN_MS = (15.0, 60.0)
#: Above this use of its vCPUs a service slows down, and by how much for each further tenth.
BUSY, SLOWER_PER_TENTH = 0.8, 0.15
#: Relative noise of an hour's quantile, and its base error rate.
NOISE, BASE_ERRORS = 0.02, 0.0005
REQUESTS_PER_HOUR = 3_600


@dataclass(frozen=True)
class Seen:
    """Of one workload in a span of time: weighted by hours run."""

    p99_ms: float
    error_rate: float
    samples: int


def seen(seed: int, workload: Workload, runs: Runs, cut: Slices) -> Seen | None:
    """What was seen of ``workload`` in the slices of its runs; None where it did not run."""
    hours = cut.usage_hours
    if not len(hours) or hours.sum() <= 0:
        return None
    home, trips = region_index(workload.home_region), round_trip_ms()
    used = _use(workload, runs, cut)
    own = OWN_MS[0] + (OWN_MS[1] - OWN_MS[0]) * float(Stream.of(seed, "p99").uniforms(workload.address)[0, 0])
    slow = 1.0 + SLOWER_PER_TENTH * np.maximum(used - BUSY, 0.0) / 0.1
    noise = 1.0 + NOISE * Stream.of(seed, "p99 noise").normals(workload.address, cut.hour)
    away = trips[home, runs.region[cut.job]] - trips[home, home]
    p99 = own * slow * noise + away
    errors = BASE_ERRORS + 0.05 * np.maximum(used - 1.0, 0.0)
    weight = hours / hours.sum()
    return Seen(float(p99 @ weight), float(errors @ weight), int(hours.sum() * REQUESTS_PER_HOUR))


def _use(workload: Workload, runs: Runs, cut: Slices) -> Floats:
    """Share of its vCPUs that each slice needs."""
    size = np.array([float(x.vcpus) for x in INSTANCES])[runs.instance[cut.job]]
    return workload.needed_share * workload.instance.vcpus / size

"""Which jobs are asked for, when, by whom and for how long: the demand side, before any placement.

Belongs here: arrival rhythms, Poisson counts, run times, job ids. A job's identity and all its draws depend on
(seed, workload, requested hour, ordinal) only, so worlds that differ in placements share them. Does not belong
here: where, when and at what price a job runs (runs.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.simulator.clock import (
    DAY_HOURS,
    HOUR_S,
    TIMESTAMP,
    WEEK_HOURS,
    Hours,
    hour_of_week,
    local_hour_of_week,
)
from sust_dagster.simulator.columns import join, per_hour, pick
from sust_dagster.simulator.organisation import DEVELOPERS, Rhythm, developer_range
from sust_dagster.simulator.regions import REGIONS, region_index
from sust_dagster.simulator.streams import Stream, normal, poisson
from sust_dagster.simulator.workloads import Workload

#: No job runs longer on its own; the platform stops it there.
MAX_RUN_HOURS = 36
#: Shortest billed run, as on EC2.
MIN_RUN_S = 60
#: Job ids carry a three-digit ordinal.
MAX_ORDINAL = 999
_STAMP = "%Y%m%d%H"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Requests:
    """Jobs asked for, as parallel arrays in the order (hour, workload, ordinal).

    ``workload`` and ``owner`` are positions in the catalogue and in ``DEVELOPERS``; ``hour`` is the hour index
    of the request, ``requested_s`` its second since the epoch, ``run_s`` the seconds it runs when left alone.
    """

    workload: Ints
    hour: Hours
    ordinal: Ints
    owner: Ints
    requested_s: Ints
    run_s: Ints

    def __len__(self) -> int:
        return int(self.hour.size)


def _bell(hour_of_day: NDArray[np.float64], centre: float, width: float) -> NDArray[np.float64]:
    distance = (hour_of_day - centre + 12.0) % 24.0 - 12.0
    return np.exp(-0.5 * (distance / width) ** 2)


@lru_cache(maxsize=64)
def rhythm_profile(rhythm: Rhythm, utc_offset_hours: float) -> NDArray[np.float64]:
    """Arrival rate by UTC hour of the week relative to its mean: 168 factors whose mean is 1.

    ``work`` peaks at 13:30 local time on weekdays and has 35 % on weekends; ``morning`` (environments people
    start for the day) peaks at 09:30 and has 25 %; ``night`` peaks at 02:30 every day; ``steady`` is flat with
    70 % on weekends; ``always`` is one job at 00:00 UTC every day.
    """
    local = local_hour_of_week(utc_offset_hours)
    of_day = local % 24.0
    weekend = local >= 5 * 24.0
    if rhythm == "always":
        rate = (np.arange(WEEK_HOURS) % DAY_HOURS == 0).astype(np.float64)
    elif rhythm == "work":
        rate = (0.12 + _bell(of_day, 13.5, 3.0)) * np.where(weekend, 0.35, 1.0)
    elif rhythm == "morning":
        rate = (0.05 + _bell(of_day, 9.5, 1.5)) * np.where(weekend, 0.25, 1.0)
    elif rhythm == "night":
        rate = 0.05 + _bell(of_day, 2.5, 1.5)
    else:
        rate = np.where(weekend, 0.7, 1.0)
    return rate / rate.mean()


def _phi(x: float) -> float:
    return 0.5 * (1.0 + math.erf(x / math.sqrt(2.0)))


@lru_cache(maxsize=16)
def lognormal_location(mean_hours: float, cv: float) -> float:
    """Location ``mu`` of the log-normal whose mean, after clipping, is ``mean_hours``.

    Run times are clipped to [60 s, 36 h]. With ``s2 = ln(1 + cv^2)`` the clipped mean is
    ``a P(X<a) + E[X; a<X<b] + b P(X>b)``, each term in closed form; ``mu`` is found by bisection.
    """
    s = math.sqrt(math.log1p(cv * cv))
    lo_h, hi_h = MIN_RUN_S / HOUR_S, float(MAX_RUN_HOURS)

    def clipped_mean(mu: float) -> float:
        a, b = (math.log(lo_h) - mu) / s, (math.log(hi_h) - mu) / s
        inside = math.exp(mu + 0.5 * s * s) * (_phi(b - s) - _phi(a - s))
        return lo_h * _phi(a) + inside + hi_h * (1.0 - _phi(b))

    low, high = math.log(mean_hours) - 2.0, math.log(mean_hours) + 2.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if clipped_mean(middle) < mean_hours else (low, middle)
    return 0.5 * (low + high)


@dataclass(frozen=True)
class Demand:
    """The demand of one seed: counts and jobs of any hours."""

    seed: int
    workloads: tuple[Workload, ...]

    def counts(self, hours: Hours) -> Ints:
        """Jobs asked for: shape ``(hours, workloads)``. Poisson, but production is exactly one at 00:00 UTC."""
        rate = _weekly_rates(self.workloads)[hour_of_week(hours)]
        addresses = np.array([w.address for w in self.workloads], np.int64)
        u = Stream.of(self.seed, "arrivals").uniforms(hours[:, None], addresses[None, :])[..., 0]
        exact = np.array([w.rhythm == "always" for w in self.workloads])
        drawn = poisson(u, np.where(exact, 0.0, rate))
        return np.where(exact, np.rint(rate).astype(np.int64), drawn)

    def requests(self, first: int, last: int) -> Requests:
        """The jobs asked for in hours ``[first, last)``; not to be written into, worlds share it."""
        return _requests(self, first, last)

    def _draw(self, workload: Ints, hour: Hours, ordinal: Ints) -> Requests:
        per = self.workloads
        addresses = np.array([w.address for w in per], np.int64)
        u = Stream.of(self.seed, "jobs").uniforms(hour, addresses[workload], ordinal)
        mu, s = _duration_parameters(per)
        hours_run = np.exp(mu[workload] + s[workload] * normal(u[:, 1], u[:, 2]))
        run_s = np.clip(np.rint(hours_run * HOUR_S), MIN_RUN_S, MAX_RUN_HOURS * HOUR_S).astype(np.int64)
        always = np.array([w.rhythm == "always" for w in per])
        second = np.where(always[workload], 0, np.floor(u[:, 0] * HOUR_S)).astype(np.int64)
        # Whoever of the team pushed or started it owns a build or an environment; the rest has a standing owner.
        standing = np.array([DEVELOPERS.index(w.owner) for w in per], np.int64)
        personal = np.array([w.job_type in {"ci_cd", "dev_test"} for w in per])
        team = np.array([developer_range(w.team_id) for w in per], np.int64)
        drawn = team[workload, 0] + np.floor(u[:, 3] * (team[:, 1] - team[:, 0])[workload]).astype(np.int64)
        owner = np.where(personal[workload], drawn, standing[workload])
        return Requests(workload, hour, ordinal, owner, hour * HOUR_S + second, run_s)


@lru_cache(maxsize=4)
def _requests(demand: Demand, first: int, last: int) -> Requests:
    """Twin worlds, and everything that looks at one span, ask for the same jobs."""
    hours = np.arange(first, last, dtype=np.int64)
    counts = demand.counts(hours)
    if counts.size and counts.max() > MAX_ORDINAL:
        raise ValueError(f"more than {MAX_ORDINAL} jobs of one workload in one hour")
    flat = counts.reshape(-1)
    cell = np.repeat(np.arange(flat.size), flat)
    ordinal = np.arange(cell.size) - np.repeat(np.cumsum(flat) - flat, flat)
    row, workload = np.divmod(cell, max(1, len(demand.workloads)))
    hour = hours[row]
    return demand._draw(workload, hour, ordinal)


@lru_cache(maxsize=16)
def _weekly_rates(workloads: tuple[Workload, ...]) -> NDArray[np.float64]:
    """Expected jobs per hour: shape ``(168, workloads)``."""
    columns = [
        rhythm_profile(w.rhythm, REGIONS[region_index(w.home_region)].utc_offset_hours) * (w.jobs_per_day / DAY_HOURS)
        for w in workloads
    ]
    return np.column_stack(columns)


@lru_cache(maxsize=16)
def _duration_parameters(workloads: tuple[Workload, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Location and scale of each workload's log run time in hours."""
    types = [w.type for w in workloads]
    mu = [math.log(t.mean_hours) if t.cv == 0 else lognormal_location(t.mean_hours, t.cv) for t in types]
    return np.array(mu), np.array([math.sqrt(math.log1p(t.cv * t.cv)) for t in types])


def job_ids(requests: Requests, workloads: tuple[Workload, ...]) -> pa.Array:
    """Job ids ``<workload>-<yyyymmddhh>-<ordinal>``."""
    names = pick([f"{w.workload_id}-" for w in workloads], requests.workload)
    ordinals = pick([f"-{k:03d}" for k in range(int(requests.ordinal.max(initial=0)) + 1)], requests.ordinal)
    return join(names, per_hour(requests.hour, _STAMP), ordinals)


def parse_job_ids(ids: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Workload id, requested hour (timestamp) and ordinal of job ids; null where an id has not that form."""
    ids = pc.cast(ids, pa.string())
    valid = pc.match_substring_regex(ids, r"^.+-\d{10}-\d{3}$")
    ids = pc.if_else(valid, ids, pa.scalar(None, pa.string()))
    stamp = pc.utf8_slice_codeunits(ids, -14, -4)
    # Arrow's strptime has no hour alone; minutes are added to the stamp.
    hour = pc.cast(pc.strptime(pc.binary_join_element_wise(stamp, "00", ""), "%Y%m%d%H%M", "us", True), TIMESTAMP)
    ordinal = pc.cast(pc.utf8_slice_codeunits(ids, -3, None), pa.int64())
    return pc.utf8_slice_codeunits(ids, 0, -15), hour, ordinal

"""What is left to decide once everything that cannot move has its place: the coupled core of a problem.

Belongs here: which jobs are pinned to their status quo and why, the room they leave, the windows that precedence
leaves, the names of limits that cannot be kept. Does not belong here: how the core is solved (``scale``, ``coupled``).

Status quo is the only place that may break a limit: a job that finds no place within the limits stays where it is, and
the hours it overloads take nobody else. All other jobs keep every limit against the room that is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.planner.openings import openings
from sust_dagster.agents.planner.problem import (
    HOUR_TOLERANCE,
    REASONS,
    Flags,
    Floats,
    Ints,
    Limits,
    Objective,
    Problem,
    load,
)
from sust_dagster.agents.planner.rules import StatusQuo, status_quo

Reasons = NDArray[np.uint8]

#: What rounding of sums may add to a load before it counts as an overload.
LOAD_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Rooms:
    """What the core's jobs may use together; inf = no limit."""

    cost_usd: float
    """Compute and egress. Below 0 where what is pinned costs more than is allowed."""
    egress_usd: float
    share: float
    """vCPU-hours that may move into any one region."""


@dataclass(frozen=True)
class Core:
    """The jobs to place, m of n, and the room for them. Delays in here count from ``earliest``."""

    problem: Problem
    """m jobs: starts moved to their earliest, windows narrowed by precedence, capacity less what is pinned."""
    jobs: Ints
    """m: their positions in the whole problem."""
    earliest: Ints
    """m: delay of the earliest start."""
    pairs: Ints
    """k x 2, positions in here: ``delay[after] - delay[before] >= least``."""
    least: Ints
    """k."""
    rooms: Rooms
    usd: Floats
    """m: USD of the status quo."""
    score: Floats
    """m: the objective of the status quo."""
    now: StatusQuo
    """Of the whole problem."""
    pinned: Flags
    """n: jobs that keep their status quo."""
    reason: Reasons
    """n: why they keep it; 0 where that is no loss."""

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def pinned_score(self) -> float:
        """Score of the planned jobs that are not in here."""
        return float(np.sum(self.now.score, where=self.pinned & self.now.planned))

    def whole(self, region: Ints, delay: Ints) -> tuple[Ints, Ints]:
        """A choice for all n jobs from one for these m."""
        regions, delays = self.now.region.copy(), self.now.delay.copy()
        regions[self.jobs] = region
        delays[self.jobs] = delay + self.earliest
        return regions, delays


def core_of(problem: Problem, objective: Objective, kept: Reasons | None = None) -> Core:
    """The core of a problem; ``kept`` (n) pins further jobs for the reason it holds (0 = not kept).

    Pinned are, in turn: jobs without a status quo to compare with; jobs whose windows cannot keep an order (both ends);
    jobs that no open hour takes; jobs whose only place is the status quo; jobs that fit nowhere beside the pinned ones.
    """
    now = status_quo(problem, objective)
    reason = np.where(now.reason > 0, now.reason, 0 if kept is None else kept).astype(np.uint8)
    pinned = ~now.planned | (reason > 0)
    gaps = _gaps(problem)
    _pin(pinned, reason, _shut_out(problem, np.flatnonzero(~pinned)), "no_open_hour")
    while True:
        earliest, latest = _windows(problem, gaps, pinned)
        impossible = earliest > latest
        if impossible.any():
            _pin(pinned, reason, np.flatnonzero(impossible), "precedence")
            continue
        jobs = np.flatnonzero(~pinned)
        part = _within(problem, jobs, earliest[jobs], latest[jobs])
        found = openings(part)
        none = found.count == 0
        if none.any():
            _pin(pinned, reason, jobs[none], "precedence")
            continue
        fixed = (found.count == 1) & (found.region == part.home) & (found.delay + earliest[jobs] == 0)
        if fixed.any():
            pinned[jobs[fixed]] = True
            continue
        part = replace(part, capacity=_room(problem, now, pinned))
        stuck = openings(part).count == 0
        if not stuck.any():
            break
        _pin(pinned, reason, jobs[stuck], "capacity")
    reason = _overloading(problem, now, pinned, reason)
    pairs, least = _inner_pairs(problem, gaps, pinned, earliest)
    part = replace(part, available=_usable(part))
    return Core(
        part, jobs, earliest[jobs], pairs, least, _rooms(problem, now, pinned), now.figures.cost_usd[jobs],
        now.score[jobs], now, pinned, reason,
    )  # fmt: skip


def _shut_out(problem: Problem, jobs: Ints) -> Ints:
    """Those of ``jobs`` that no open hour takes, whatever the others do."""
    part = _within(problem, jobs, np.zeros(len(jobs), np.int64), problem.max_delay[jobs])
    return jobs[openings(part).count == 0]


def some_jobs(problem: Problem, jobs: Ints) -> Problem:
    """The same hours and limits with some of the jobs; ``precedence`` must not name the others."""
    return replace(
        problem,
        place=problem.place[jobs],
        home=problem.home[jobs],
        start_hours=problem.start_hours[jobs],
        duration_hours=problem.duration_hours[jobs],
        kw=problem.kw[jobs],
        vcpus=problem.vcpus[jobs],
        money=problem.money[jobs],
        data_gb=problem.data_gb[jobs],
        max_delay=problem.max_delay[jobs],
    )


def _within(problem: Problem, jobs: Ints, earliest: Ints, latest: Ints) -> Problem:
    """Some jobs without the limits that couple them, from their earliest to their latest delay."""
    part = some_jobs(replace(problem, limits=Limits(), capacity=np.full_like(problem.capacity, np.inf)), jobs)
    return replace(part, start_hours=part.start_hours + earliest, max_delay=latest - earliest)


def _pin(pinned: Flags, reason: Reasons, jobs: Ints, why: str) -> None:
    """Pin jobs; a reason that is already there stays."""
    pinned[jobs] = True
    reason[jobs] = np.where(reason[jobs] > 0, reason[jobs], REASONS.index(why))


def _gaps(problem: Problem) -> Ints:
    """By pair, whole hours by which the delay of ``after`` must exceed that of ``before``; negative is slack."""
    before, after = problem.limits.precedence.T
    early = problem.start_hours[before] + problem.duration_hours[before] - problem.start_hours[after]
    return np.ceil(early - HOUR_TOLERANCE).astype(np.int64)


def _windows(problem: Problem, gaps: Ints, pinned: Flags) -> tuple[Ints, Ints]:
    """Earliest and latest delay by job; reversed for the first jobs that cannot keep their order."""
    pairs = problem.limits.precedence
    earliest = np.zeros(len(problem), np.int64)
    room = np.floor(problem.hours - problem.start_hours - problem.duration_hours + HOUR_TOLERANCE).astype(np.int64)
    latest = np.where(pinned, 0, np.clip(room, 0, problem.max_delay))
    free = ~pinned[pairs].all(1)
    before, after = pairs[free].T
    gap = gaps[free]
    changed = len(gap) > 0
    while changed and not (earliest > latest).any():
        later, sooner = earliest.copy(), latest.copy()
        np.maximum.at(later, after, earliest[before] + gap)
        np.minimum.at(sooner, before, latest[after] - gap)
        changed = bool((later > earliest).any() or (sooner < latest).any())
        earliest, latest = later, sooner
    return earliest, latest


def _room(problem: Problem, now: StatusQuo, pinned: Flags) -> Floats:
    """R x H: capacity less what pinned jobs hold, from 0 up."""
    if np.isinf(problem.capacity).all():
        return problem.capacity
    return np.maximum(problem.capacity - load(problem, now.region, now.delay, pinned), 0.0)


def _usable(part: Problem) -> Flags:
    """Hours that have any room at all: the others are closed to jobs that hold something."""
    if len(part) == 0 or (part.vcpus * part.duration_hours).min() <= 0:
        return part.available
    return part.available & (part.capacity > LOAD_TOLERANCE)


def _rooms(problem: Problem, now: StatusQuo, pinned: Flags) -> Rooms:
    limits, usd = problem.limits, now.figures.cost_usd
    cost = egress = np.inf
    if limits.max_cost_increase is not None:
        total = float(np.sum(usd, where=now.planned)) * (1.0 + limits.max_cost_increase)
        cost = total - float(np.sum(usd, where=now.planned & pinned))
    if limits.egress_budget_usd is not None:
        egress = limits.egress_budget_usd
    return Rooms(cost, egress, share_room(problem))


def share_room(problem: Problem) -> float:
    """vCPU-hours that may move into any one region; inf without a cap."""
    if problem.limits.share_cap is None:
        return np.inf
    return problem.limits.share_cap * float((problem.vcpus * problem.duration_hours)[problem.movable].sum())


def _inner_pairs(problem: Problem, gaps: Ints, pinned: Flags, earliest: Ints) -> tuple[Ints, Ints]:
    pairs = problem.limits.precedence
    if not len(pairs):
        return pairs, gaps
    inner = ~pinned[pairs].any(1)
    position = np.cumsum(~pinned) - 1
    before, after = pairs[inner].T
    return position[pairs[inner]], gaps[inner] - earliest[after] + earliest[before]


def overloads(problem: Problem, held: Floats) -> Flags:
    """R x H: hours whose load is above their capacity by more than rounding."""
    return held > problem.capacity * (1.0 + LOAD_TOLERANCE) + LOAD_TOLERANCE


def touching(problem: Problem, region: Ints, delay: Ints, cells: Flags) -> Flags:
    """Per job: whether its run touches any of ``cells`` (R x H)."""
    sums = np.concatenate([np.zeros((len(cells), 1), np.int64), np.cumsum(cells, axis=1)], axis=1)
    start = problem.start_hours + delay
    first = np.clip(np.floor(start + HOUR_TOLERANCE), 0, problem.hours).astype(np.int64)
    last = np.ceil(start + problem.duration_hours - HOUR_TOLERANCE)
    last = np.clip(last, first, problem.hours).astype(np.int64)
    return sums[region, last] > sums[region, first]


def _overloading(problem: Problem, now: StatusQuo, pinned: Flags, reason: Reasons) -> Reasons:
    """Pinned jobs without a reason that hold an hour which pinned jobs alone overload: ``capacity``."""
    if np.isinf(problem.capacity).all():
        return reason
    over = overloads(problem, load(problem, now.region, now.delay, pinned))
    if not over.any():
        return reason
    touches = touching(problem, now.region, now.delay, over)
    return np.where(pinned & (reason == 0) & touches, REASONS.index("capacity"), reason).astype(np.uint8)

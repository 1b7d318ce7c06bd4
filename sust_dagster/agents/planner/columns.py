"""The places a few thousand jobs may take, written out one by one with what each uses.

Belongs here: explicit places by job, cheapest first at given prices, and their use of each resource. Does not belong
here: choosing among them (``anneal``, ``coupled``); a million jobs, whose places are never written out (``moves``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.planner.core import Core, some_jobs
from sust_dagster.agents.planner.duals import Resources
from sust_dagster.agents.planner.problem import (
    HOUR_TOLERANCE,
    Figures,
    Floats,
    Ints,
    Objective,
    Problem,
    evaluate,
    feasible,
)

#: Places written out at once.
_AT_ONCE = 300_000
#: vCPU-hours that a place may lack alone and still be one: rounding.
_FIT = 1e-9


@dataclass(frozen=True)
class Uses:
    """What places use of the limited resources, in the order of ``Resources``."""

    first: Ints
    """c + 1: where each place's uses begin."""
    resource: Ints
    amount: Floats


@dataclass(frozen=True)
class Columns:
    """c places of m jobs, by job and reduced score: ``score`` with the prices of all it uses."""

    first: Ints
    """m + 1: where each job's places begin."""
    region: Ints
    delay: Ints
    score: Floats
    reduced: Floats
    uses: Uses

    @property
    def job(self) -> Ints:
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    def __len__(self) -> int:
        return len(self.region)


@dataclass(frozen=True)
class _Uses:
    """What places use: one entry per place and resource, by place."""

    column: Ints
    resource: Ints
    amount: Floats


def columns_of(
    core: Core, objective: Objective, x: Floats, *, most: int | None = None, slack: float = np.inf
) -> Columns:
    """Places of each job: at most ``most``, and none whose reduced score is more than ``slack`` above the job's least.

    A place that finds no room even for its job alone is none.
    """
    wide = len(core.problem.regions) * (int(core.problem.max_delay.max(initial=0)) + 1)
    step = max(_AT_ONCE // wide, 1)
    parts = [
        _part(core, objective, x, np.arange(low, min(low + step, len(core))), most, slack)
        for low in range(0, len(core), step)
    ]
    job, region, delay, score, reduced = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("job", "region", "delay", "score", "reduced")
    )
    counts = np.concatenate([np.bincount(p.uses.column, minlength=len(p.job)) for p in parts])
    return Columns(
        np.searchsorted(job, np.arange(len(core) + 1)),
        region,
        delay,
        score,
        reduced,
        Uses(
            np.concatenate([[0], np.cumsum(counts)]),
            np.concatenate([p.uses.resource for p in parts]),
            np.concatenate([p.uses.amount for p in parts]),
        ),
    )


def uses_of(problem: Problem, region: Ints, delay: Ints, resources: Resources) -> Uses:
    """What each job uses in one given place."""
    uses = _figures(problem, region, delay, resources)[1]
    order = np.argsort(uses.column, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(uses.column, minlength=len(region)))])
    return Uses(first, uses.resource[order], uses.amount[order])


@dataclass(frozen=True)
class _Part:
    """The places of some jobs, sorted by job and reduced score."""

    job: Ints
    region: Ints
    delay: Ints
    score: Floats
    reduced: Floats
    uses: _Uses


def _part(core: Core, objective: Objective, x: Floats, jobs: Ints, most: int | None, slack: float) -> _Part:
    problem, resources = some_jobs(core.problem, jobs), Resources.of(core.problem.capacity, core.rooms)
    delays = int(problem.max_delay.max()) + 1
    job, region, delay = (v.ravel() for v in np.indices((len(jobs), len(problem.regions), delays)))
    good = feasible(some_jobs(problem, job), region, delay)
    job, region, delay = job[good], region[good], delay[good]
    each = some_jobs(problem, job)
    figures, uses = _figures(each, region, delay, resources)
    score = figures.score(objective)
    lacks = np.zeros(len(job), np.bool_)
    lacks[uses.column[(uses.amount > resources.room[uses.resource] + _FIT) & (uses.resource < resources.cells)]] = True
    reduced = score + np.bincount(uses.column, x[uses.resource] * uses.amount, minlength=len(job))
    order = np.lexsort((reduced, job))
    order = order[~lacks[order]]
    first = np.searchsorted(job[order], np.arange(len(jobs)))
    rank = np.arange(len(order)) - first[job[order]]
    near = reduced[order] <= reduced[order][first[job[order]]] + slack
    order = order[near & (rank < (len(order) if most is None else most))]
    place = np.full(len(job), -1)
    place[order] = np.arange(len(order))
    kept = place[uses.column] >= 0
    column = place[uses.column[kept]]
    by_column = np.argsort(column, kind="stable")
    uses = _Uses(column[by_column], uses.resource[kept][by_column], uses.amount[kept][by_column])
    return _Part(job[order] + jobs[0], region[order], delay[order], score[order], reduced[order], uses)


def _figures(problem: Problem, region: Ints, delay: Ints, resources: Resources) -> tuple[Figures, _Uses]:
    """Figures of each place, and what it uses of the limited resources."""
    figures = evaluate(problem, region, delay)
    start = problem.start_hours + delay
    end = start + problem.duration_hours
    first = np.floor(start).astype(np.int64)
    count = np.maximum(np.ceil(end - HOUR_TOLERANCE).astype(np.int64) - first, 0)
    run = np.repeat(np.arange(len(region)), count)
    hour = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    held = problem.vcpus[run] * (np.minimum(end[run], hour + 1) - np.maximum(start[run], hour))
    work = np.where(region != problem.home, problem.vcpus * problem.duration_hours, 0.0)
    every, none, cells = np.arange(len(region)), np.zeros(len(region), np.int64), resources.cells
    column = np.concatenate([run, every, every, every])
    resource = np.concatenate(
        [region[run] * resources.shape[1] + hour, none + cells, none + cells + 1, cells + 2 + region]
    )
    amount = np.concatenate([held, figures.cost_usd, figures.egress_usd, work])
    counts = (amount != 0) & np.isfinite(resources.room[resource])
    return figures, _Uses(column[counts], resource[counts], amount[counts])

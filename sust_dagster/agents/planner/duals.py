"""What a shared limit is worth: prices of capacity, cost, egress and share, and the lower bound they prove.

Belongs here: the Lagrangian bound of a core at any prices, and the ascent that finds good ones. Does not belong here:
plans (``moves``, ``anneal``), the linear programs (``linear``).

For any prices from 0 up, ``sum over jobs of the least priced score - sum of prices x room`` is no higher than the score
of any plan that keeps the limits (weak duality). The ascent follows the overload of the jobs' answers with Adam's
steps (Kingma and Ba, 2015), which fall geometrically; its budget is a number of rounds, never a time.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba as nb
import numpy as np

from sust_dagster.agents.planner.classes import Classes
from sust_dagster.agents.planner.core import Core, Rooms, some_jobs
from sust_dagster.agents.planner.kernels import CHUNK, Best, Prices, best_places
from sust_dagster.agents.planner.problem import Floats, Ints, Objective, Problem, evaluate, prefix

#: Parts the sums over jobs are made in, whatever the number of cores: the same bytes everywhere.
_PARTS = 8
#: Relative rounding a bound allows for: sums of prefix sums in double precision, with a wide margin.
ROUNDING = 1e-10
#: Steps of the ascent, in units of the mean price scale: first, and last.
_FIRST_STEP, _LAST_STEP = 0.1, 2e-5
_LAST_STEP_OF_MANY = 3e-4
#: Prices kept for the mean answer, and numbers kept in all.
_PATH, _PATH_SIZE = 200, 20_000_000
_GOLDEN = 0.6180339887498949
#: First step where the ascent goes on from prices of a sample.
_NEXT_STEP = 4e-3
#: Saving to reckon with where there is none, as a share of the score.
_LEAST_SAVING = 1e-3
#: Jobs of the sample the first prices are found on.
_SAMPLE = 16_384
#: Part of the rounds in which all jobs are asked after the sample, and the fewest.
_ROUNDS_OF_ALL, _FEWEST_OF_ALL = 8, 30
#: Most rounds: a number, and some for each job; few jobs have few answers.
_ROUNDS, _ROUNDS_BY_JOB = 100, 2
_MOMENT, _SPREAD = 0.9, 0.99


@dataclass(frozen=True)
class Resources:
    """What the limits of a core share out, in one vector: R x H hours of capacity, cost, egress, R shares."""

    shape: tuple[int, int]
    room: Floats
    """inf = no limit."""

    @classmethod
    def of(cls, capacity: Floats, rooms: Rooms) -> Resources:
        shares = np.full(len(capacity), rooms.share)
        room = np.concatenate([capacity.ravel(), [rooms.cost_usd, rooms.egress_usd], shares])
        return cls((capacity.shape[0], capacity.shape[1]), room)

    @property
    def cells(self) -> int:
        """Hours of capacity, R x H; cost is at this position, egress at the next, shares from the one after."""
        return self.shape[0] * self.shape[1]

    def prices(self, x: Floats) -> Prices:
        cells = self.cells
        capacity = x[:cells].reshape(self.shape)
        share = x[cells + 2 :]
        return Prices(
            capacity=capacity if capacity.any() else None,
            cost_usd=float(x[cells]),
            egress_usd=float(x[cells + 1]),
            share=share if share.any() else None,
        )


@dataclass(frozen=True)
class Sizes:
    """How large savings and prices are likely to be; only the pace of a search depends on it."""

    saving: float
    """What the best plan without limits saves, in units of the objective; above 0."""
    price: Floats
    """By resource: that saving per unit used; 0 where there is no limit."""


@dataclass(frozen=True)
class Dual:
    """Prices (one vector, see ``Resources``) and the bound they prove on the core's score."""

    x: Floats
    bound: float
    path: Floats
    """k x resources: the last prices of the ascent. The jobs' mean answer to them nearly keeps the limits."""
    sizes: Sizes


@dataclass(frozen=True)
class _Answer:
    bound: float
    use: Floats
    best: Best


@dataclass(frozen=True)
class _Asked:
    """Jobs, their room and the objective: all that the ascent looks at."""

    problem: Problem
    objective: Objective
    resources: Resources

    @classmethod
    def of(cls, core: Core, objective: Objective) -> _Asked:
        return cls(core.problem, objective, Resources.of(core.problem.capacity, core.rooms))

    def sample(self, jobs: Ints, usd: Floats) -> _Asked:
        """Some of the jobs with their share of the room; ``usd`` (by job) is what the status quo costs."""
        work = self.problem.vcpus * self.problem.duration_hours
        whole = float(work.sum())
        part = float(work[jobs].sum()) / whole if whole > 0 else len(jobs) / len(self.problem)
        room, cells = self.resources.room * part, self.resources.cells
        # A cost limit leaves a small part of a large sum free: that part is shared out, not the sum.
        room[cells] = float(usd[jobs].sum()) + part * (self.resources.room[cells] - float(usd.sum()))
        return _Asked(some_jobs(self.problem, jobs), self.objective, Resources(self.resources.shape, room))

    def answer(self, x: Floats) -> _Answer:
        """The best places at prices ``x``, what they use, and the bound."""
        best = best_places(self.problem, self.objective, self.resources.prices(x))
        room = np.where(np.isfinite(self.resources.room), self.resources.room, 0.0)
        magnitude = float(np.abs(best.score).sum()) + float(x @ np.abs(room))
        bound = float(best.score.sum()) - float(x @ room) - ROUNDING * magnitude
        return _Answer(bound, used(self.problem, best.region, best.delay, self.resources), best)


def lagrangian(core: Core, objective: Objective, x: Floats) -> Dual:
    """The bound that any prices ``x`` (from 0 up) prove on the score of the core's jobs, less rounding."""
    asked = _Asked.of(core, objective)
    free = asked.answer(np.zeros(len(x)))
    return Dual(x, asked.answer(x).bound, x[None, :], _sizes(core, asked, free))


def ascend(core: Core, objective: Objective, rounds: int) -> Dual:
    """Prices whose bound is as high as the rounds allow.

    Many jobs are asked by a sample of them first; then all of them, an eighth as often.
    """
    asked = _Asked.of(core, objective)
    start = np.zeros(len(asked.resources.room))
    free = asked.answer(start)
    sizes = _sizes(core, asked, free)
    if (free.use <= asked.resources.room).all():
        return Dual(start, free.bound, start[None, :], sizes)
    rounds = min(rounds, _ROUNDS + _ROUNDS_BY_JOB * len(core))
    if len(core) <= 2 * _SAMPLE:
        return _climb(asked, start, sizes, rounds, (_FIRST_STEP, _LAST_STEP))
    few = asked.sample(_stratified(core.problem), core.usd)
    first = _climb(few, start, sizes, rounds, (_FIRST_STEP, _NEXT_STEP))
    return _climb(
        asked, first.x, sizes, max(rounds // _ROUNDS_OF_ALL, _FEWEST_OF_ALL), (_NEXT_STEP, _LAST_STEP_OF_MANY)
    )


def _stratified(problem: Problem) -> Ints:
    """A sample that takes every k-th job in the order of place, window, power per vCPU and start."""
    ratio = problem.kw / np.maximum(problem.vcpus, 1e-9)
    order = np.lexsort((problem.start_hours.astype(np.int16), ratio, problem.max_delay, problem.place))
    step = len(problem) / _SAMPLE
    return np.sort(order[(np.arange(_SAMPLE) * step + step / 2).astype(np.int64)])


def _sizes(core: Core, asked: _Asked, free: _Answer) -> Sizes:
    problem, room = asked.problem, asked.resources.room
    saving = float(core.score.sum() - free.best.score.sum())
    saving = max(saving, _LEAST_SAVING * float(np.abs(free.best.score).sum()), 1e-12)
    cells = asked.resources.cells
    price = np.full(len(room), saving / max(float((problem.vcpus * problem.duration_hours).sum()), 1e-12))
    # Money is scarce by what the moves change, not by what the jobs cost.
    usd = evaluate(problem, free.best.region, free.best.delay).cost_usd
    price[cells] = saving / max(float(np.abs(usd - core.usd).sum()), 1e-12)
    price[cells + 1] = saving / max(float(free.use[cells + 1]), 1e-12)
    return Sizes(saving, np.where(np.isfinite(room), price, 0.0))


def _climb(asked: _Asked, x: Floats, sizes: Sizes, rounds: int, steps: tuple[float, float]) -> Dual:
    room = np.where(np.isfinite(asked.resources.room), asked.resources.room, 0.0)
    mean, spread = np.zeros_like(x), np.zeros_like(x)
    best, high = x, -np.inf
    kept = min(max(_PATH_SIZE // len(x), 8), _PATH, max(rounds * 2 // 3, 1))
    path = np.empty((kept, len(x)))
    for turn in range(rounds):
        answer = asked.answer(x)
        path[turn % kept] = x
        if answer.bound > high:
            best, high = x, answer.bound
        slope = answer.use - room
        mean = _MOMENT * mean + (1 - _MOMENT) * slope
        spread = _SPREAD * spread + (1 - _SPREAD) * slope * slope
        ahead = mean / (1 - _MOMENT ** (turn + 1))
        size = np.sqrt(spread / (1 - _SPREAD ** (turn + 1)))
        step = steps[0] * (steps[1] / steps[0]) ** (turn / rounds) * sizes.price
        x = np.maximum(x + step * np.divide(ahead, size, out=np.zeros_like(x), where=size > 0), 0.0)
    return Dual(best, high, path, sizes)


def mean_answer(core: Core, objective: Objective, path: Floats, classes: Classes | None = None) -> tuple[Ints, Ints]:
    """Each job's best place at one of the path's prices, evenly spread over them: region (``NOWHERE``: none), delay.

    Where a price is right, jobs are torn between places, and answers to one vector of prices all go the same way.
    Answers spread over the path go each way as often as the ascent swung there (the primal average of the dual
    ascent; Sherali and Choi, 1996). The members of a class are spread over the whole path.
    """
    resources = Resources.of(core.problem.capacity, core.rooms)
    region, delay = np.empty(len(core), np.int64), np.empty(len(core), np.int64)
    phase = np.arange(len(core)) * _GOLDEN % 1.0 if classes is None else classes.phase(_GOLDEN)
    turn = (phase * len(path)).astype(np.int16)
    order = np.argsort(turn, kind="stable")
    for x, jobs in zip(path, np.split(order, np.searchsorted(turn[order], np.arange(1, len(path)))), strict=True):
        if not len(jobs):
            continue
        best = best_places(some_jobs(core.problem, jobs), objective, resources.prices(x))
        region[jobs], delay[jobs] = best.region, best.delay
    return region, delay


def used(problem: Problem, region: Ints, delay: Ints, resources: Resources) -> Floats:
    """What a choice uses of each resource, in the order of ``resources``; cost only where cost is limited."""
    n, (regions, hours) = len(problem), resources.shape
    edges = np.zeros((_PARTS, regions, hours + 2))
    sums = np.zeros((_PARTS, 2 + regions))
    varies = problem.price.shape[1] > 1
    price = prefix(problem.price) if varies else np.nan_to_num(problem.price)
    limited = bool(np.isfinite(resources.room[resources.cells]))
    borders = np.linspace(0, n, _PARTS + 1).astype(np.int64) if n > CHUNK else np.array([0, n])

    def part(k: int) -> None:
        _use(
            borders[k], borders[k + 1], region, delay, problem.place, problem.home, problem.start_hours,
            problem.duration_hours, problem.vcpus, problem.money, problem.data_gb, problem.places.egress_usd_per_gb,
            price, varies, limited, edges[k], sums[k],
        )  # fmt: skip

    if len(borders) == 2:
        part(0)
    else:
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            list(pool.map(part, range(_PARTS)))
    load = np.cumsum(edges.sum(0), axis=1)[:, :hours]
    return np.concatenate([load.ravel(), sums.sum(0)])


@nb.njit(nogil=True, cache=True)
def _use(
    low: int, high: int, region: Ints, delay: Ints, place: Ints, home: Ints, start_hours: Floats,
    duration_hours: Floats, vcpus: Floats, money: Floats, data_gb: Floats, per_gb: Floats, price: Floats, varies: bool,
    limited: bool, edges: Floats, sums: Floats,
) -> None:  # fmt: skip  # pragma: no cover
    for j in range(low, high):
        r = region[j]
        start = start_hours[j] + delay[j]
        end = start + duration_hours[j]
        first, last = int(np.floor(start)), int(np.floor(end))
        a, b = start - first, end - last
        held = vcpus[j]
        edges[r, first] += held * (1.0 - a)
        edges[r, first + 1] += held * a
        edges[r, last] -= held * (1.0 - b)
        edges[r, min(last + 1, edges.shape[1] - 1)] -= held * b
        egress = data_gb[j] * per_gb[place[j], r]
        sums[1] += egress
        if r != home[j]:
            sums[2 + r] += held * duration_hours[j]
        if limited:
            if varies:
                until = price[r, last] + (b * (price[r, last + 1] - price[r, last]) if b > 0 else 0.0)
                since = price[r, first] + a * (price[r, first + 1] - price[r, first])
                sums[0] += egress + money[j] * (until - since)
            else:
                sums[0] += egress + money[j] * duration_hours[j] * price[r, 0]

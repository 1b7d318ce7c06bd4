"""The best plan of a small coupled problem, by trying every combination of places.

Nothing here shares code with the planner but the classes that hold its arrays. Numbers are those of ``small_problems``:
exact in binary, so that a run that fits exactly does fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from small_problems import Shape, figures, is_open, overlaps, problem_of, score

from sust_dagster.agents.planner.problem import Limits, Objective, Problem

#: What a sum of money may exceed its limit by: (1 + x) is not exact in binary.
_CENT = 1e-9


def coupled_problem(seed: int, shape: Shape, tight: int, kinds: frozenset[str]) -> Problem:
    """A small problem under the named limits; ``tight`` is how many vCPUs a region-hour may hold (at most)."""
    random = np.random.default_rng([seed, 7])
    plain = problem_of(seed, shape)
    n, size = len(plain), plain.carbon.shape
    capacity = np.full(size, np.inf)
    if "capacity" in kinds:
        capacity = random.integers(tight // 2, 2 * tight + 1, size) * 0.5
        capacity[random.random(size) < 0.2] = np.inf
    pairs = np.empty((0, 2), np.int64)
    if "precedence" in kinds and n > 1:
        order = random.permutation(n)
        at = np.sort(random.choice(n, 2, replace=False))
        pairs = np.array([order[at]], np.int64)
        if n > 2 and random.random() < 0.4:
            pairs = np.concatenate([pairs, [order[[0, n - 1]]]]).astype(np.int64)
            pairs = np.unique(pairs, axis=0)
    limits = Limits(
        max_cost_increase=float(random.integers(0, 5)) / 8 if "cost" in kinds else None,
        egress_budget_usd=float(random.integers(0, 7)) / 4 if "egress" in kinds else None,
        share_cap=float(random.integers(1, 5)) / 8 if "share" in kinds else None,
        precedence=pairs,
    )
    return replace(
        plain,
        capacity=capacity,
        start_hours=random.integers(0, 2 * shape.hours + 1, n) / 4,
        duration_hours=random.integers(1, 11, n) / 4,
        limits=limits,
    )


@dataclass(frozen=True)
class Place:
    region: int
    delay: int
    score: float
    usd: float
    egress: float
    held: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Best:
    """``score`` of all planned jobs; +inf where no plan keeps every limit."""

    score: float
    choice: tuple[tuple[int, int], ...] | None


def places(problem: Problem, objective: Objective, job: int) -> list[Place] | None:
    """Places a job may take, cheapest first; None where its status quo has no figures or no hour is open to it."""
    home = int(problem.home[job])
    if figures(problem, job, home, 0) is None:
        return None
    found = []
    for region in range(len(problem.regions)):
        for delay in range(int(problem.max_delay[job]) + 1):
            if problem.places.allowed[problem.place[job], region] and is_open(problem, job, region, delay):
                there = place_at(problem, objective, job, region, delay)
                if there is not None:
                    found.append(there)
    return sorted(found, key=lambda p: (p.score, p.delay)) or None


def place_at(problem: Problem, objective: Objective, job: int, region: int, delay: int) -> Place | None:
    """One place with its figures; None where an hour has none."""
    there = figures(problem, job, region, delay)
    if there is None:
        return None
    egress = float(problem.data_gb[job]) * float(problem.places.egress_usd_per_gb[problem.place[job], region])
    return Place(
        region, delay, float(score(objective, *there)), float(there[1]), egress, held(problem, job, region, delay)
    )


def held(problem: Problem, job: int, region: int, delay: int) -> tuple[tuple[int, int, float], ...]:
    """Region, hour and vCPU-hours of a run."""
    vcpus = float(problem.vcpus[job])
    hours = problem.carbon.shape[1]
    return tuple((region, h, vcpus * float(part)) for h, part in overlaps(problem, job, delay) if h < hours)


@dataclass(frozen=True)
class Stakes:
    """What a small problem allows in sums, and what it holds before any choice."""

    options: list[list[Place] | None]
    load: np.ndarray
    score: float
    """Of the jobs that stay and have figures."""
    usd: float
    most_usd: float
    most_egress: float
    most_share: float

    @classmethod
    def of(cls, problem: Problem, objective: Objective) -> Stakes:
        n, limits = len(problem), problem.limits
        options = [places(problem, objective, j) for j in range(n)]
        now = [place_at(problem, objective, j, int(problem.home[j]), 0) for j in range(n)]
        load = np.zeros(problem.capacity.shape)
        for j in range(n):
            for region, hour, amount in () if options[j] else held(problem, j, int(problem.home[j]), 0):
                load[region, hour] += amount
        stay = [p for p, option in zip(now, options, strict=True) if p is not None and option is None]
        before = sum(p.usd for p in now if p is not None)
        movable = [problem.max_delay[j] > 0 or problem.places.allowed[problem.place[j]].sum() > 1 for j in range(n)]
        work = float((problem.vcpus * problem.duration_hours)[movable].sum())
        cost, egress, share = limits.max_cost_increase, limits.egress_budget_usd, limits.share_cap
        return cls(
            options,
            load,
            sum(p.score for p in stay),
            sum(p.usd for p in stay),
            np.inf if cost is None else before * (1 + cost) + _CENT,
            np.inf if egress is None else egress + _CENT,
            np.inf if share is None else share * work + _CENT,
        )


class _Search:
    """Depth first over the jobs that have a choice; a branch ends where it cannot be better or breaks a limit."""

    def __init__(self, problem: Problem, objective: Objective) -> None:
        self.problem = problem
        self.stakes = Stakes.of(problem, objective)
        self.options = {j: option for j, option in enumerate(self.stakes.options) if option is not None}
        self.free = list(self.options)
        self.load = self.stakes.load.copy()
        self.chosen = [(int(home), 0) for home in problem.home]
        self.into = np.zeros(len(problem.regions))
        self.work = problem.vcpus * problem.duration_hours
        rest = [self.options[j][0].score for j in self.free]
        self.least = [sum(rest[k:]) for k in range(len(rest) + 1)]
        self.best = Best(np.inf, None)

    def run(self) -> Best:
        stay = set(range(len(self.problem))) - set(self.free)
        if (self.load <= self.problem.capacity).all() and self.in_order(stay):
            self.step(0, self.stakes.score, self.stakes.usd, 0.0)
        return self.best

    def in_order(self, decided: set[int]) -> bool:
        start, length = self.problem.start_hours, self.problem.duration_hours
        return all(
            start[b] + self.chosen[b][1] + length[b] <= start[a] + self.chosen[a][1]
            for b, a in self.problem.limits.precedence.tolist()
            if {a, b} <= decided
        )

    def step(self, k: int, total: float, usd: float, egress: float) -> None:
        if total + self.least[k] >= self.best.score or egress > self.stakes.most_egress:
            return
        if k == len(self.free):
            if usd <= self.stakes.most_usd:
                self.best = Best(total, tuple(self.chosen))
            return
        j = self.free[k]
        decided = set(range(len(self.problem))) - set(self.free[k + 1 :])
        for place in self.options[j]:
            self.chosen[j] = (place.region, place.delay)
            if self.fits(j, place) and self.in_order(decided):
                self.put(j, place, 1.0)
                self.step(k + 1, total + place.score, usd + place.usd, egress + place.egress)
                self.put(j, place, -1.0)
        self.chosen[j] = (int(self.problem.home[j]), 0)

    def fits(self, j: int, place: Place) -> bool:
        moved = place.region != int(self.problem.home[j])
        if moved and self.into[place.region] + self.work[j] > self.stakes.most_share:
            return False
        return all(self.load[r, h] + amount <= self.problem.capacity[r, h] for r, h, amount in place.held)

    def put(self, j: int, place: Place, sign: float) -> None:
        for r, h, amount in place.held:
            self.load[r, h] += sign * amount
        self.into[place.region] += sign * self.work[j] * (place.region != int(self.problem.home[j]))


def best_of_all(problem: Problem, objective: Objective) -> Best:
    """The least score of any plan that keeps capacity, cost, egress, share and order."""
    return _Search(problem, objective).run()

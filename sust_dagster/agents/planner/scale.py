"""Formulation B at any size: prices first, then places that fit, with the bound the prices prove.

Belongs here: the order of the steps from a problem to a plan, and what becomes of jobs that find no place. Does not
belong here: the steps (``core``, ``duals``, ``moves``, ``anneal``), proofs of optimality (``coupled``).

1. Everything that cannot move is pinned; the core is what is left (``core``).
2. Prices of the limits, by dual ascent; they prove the lower bound and are the explanation (``duals``). Equal jobs are
   asked as one.
3. Each job takes the place it would have on average at the last prices, big runs first, where it fits; the others
   their best place that has room; then all again, several times over, at prices damped by the room left (``moves``).
4. Small days are annealed from there (``anneal``).
5. A job without a place goes home and pushes others out; if that overloads home all the same, it is pinned there with
   the limit as its reason, and the rest is planned anew.

All budgets are counts, none is a time: the same problem gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sust_dagster.agents.planner.anneal import anneal
from sust_dagster.agents.planner.classes import bundled, classes_of
from sust_dagster.agents.planner.columns import columns_of
from sust_dagster.agents.planner.core import LOAD_TOLERANCE, Core, Reasons, core_of, some_jobs, touching
from sust_dagster.agents.planner.duals import Dual, Resources, ascend, mean_answer
from sust_dagster.agents.planner.moves import Jobs, State, Tables, earlier, jobs_of, sweep, tables_of
from sust_dagster.agents.planner.openings import openings
from sust_dagster.agents.planner.problem import (
    REASONS,
    Flags,
    Floats,
    Ints,
    Objective,
    Plan,
    Problem,
    evaluate,
    feasible,
    load,
)
from sust_dagster.agents.planner.relaxed import relaxed

FORMULATION = "scale"
#: Relative difference of plan and bound below which the plan is proven best.
PROVEN = 1e-9


@dataclass(frozen=True)
class Effort:
    """Budgets, all of them counts."""

    rounds: int
    """Of the dual ascent."""
    rounds_of_classes: int
    """The same where equal jobs make few classes."""
    sweeps: int
    steps: int
    """Of one annealing chain."""
    chains: int
    again: int
    """Rounds of chains that go on from the best."""
    annealed: int
    """Most jobs that are annealed."""
    enough: float
    """Gap below which many jobs are not swept again: a second a sweep for what the bound no longer tells apart."""


EFFORTS = {
    "quick": Effort(200, 400, 3, 500_000, 2, 0, 2_000, 1e-3),
    "normal": Effort(400, 1_500, 6, 4_000_000, 4, 3, 5_000, 5e-4),
    "thorough": Effort(1_000, 4_000, 12, 10_000_000, 4, 12, 10_000, 0.0),
}
#: Places written out by job for annealing, and steps of a chain by job.
_COLUMNS, _STEPS_OF_A_JOB = 130, 5_000
#: Above this share of classes by job, jobs are asked one by one.
_FEW_CLASSES = 0.3
#: Up to here the dual ascent of single jobs has the rounds of classes: each is quick.
_MANY_ROUNDS = 5_000
#: Passes of the last descent, one where there are many jobs; passes that push jobs out.
_POLISHES, _MANY, _PUSHES = 4, 200_000, 6
#: Damping of the sweeps, first to last.
_DAMPING = 0.1, 0.02
#: Times the pinned jobs may grow before all others are pinned too.
_TURNS = 12
_SEED = 20_220_701


@dataclass(frozen=True)
class Solved:
    """A core with every job in a place that keeps every limit, and the prices and bound of that core."""

    core: Core
    dual: Dual
    state: State

    @property
    def bound(self) -> float:
        """On the score of all planned jobs."""
        return self.dual.bound + self.core.pinned_score


def plan_scale(problem: Problem, objective: Objective, why: str = "many jobs", effort: str = "normal") -> Plan:
    """A plan that keeps every limit, its proven lower bound and the prices of capacity."""
    solved = solve(problem, objective, EFFORTS[effort])
    return as_plan(problem, objective, solved, FORMULATION, why)


def solve(problem: Problem, objective: Objective, effort: Effort) -> Solved:
    """Pin, price and place until every job that is not pinned has a place within the limits.

    A cost limit below the status quo's cost that no plan found keeps gives way to the status quo's cost.
    """
    solved = _solve(problem, objective, effort)
    limit = problem.limits.max_cost_increase
    if limit is not None and limit < 0 and solved.state.rest[0] < -PROVEN * float(solved.core.usd.sum()):
        limits = replace(problem.limits, max_cost_increase=0.0)
        return _solve(replace(problem, limits=limits), objective, effort)
    return solved


def _solve(problem: Problem, objective: Objective, effort: Effort) -> Solved:
    kept: Reasons | None = None
    for turn in range(_TURNS + 1):
        core = core_of(problem, objective, kept)
        run = Run.of(core, objective, effort)
        state = run.place()
        stuck = run.push_in(state)
        if not stuck.any():
            return Solved(core, run.dual, run.settled(state))
        kept = core.reason.copy()
        if turn < _TURNS - 1:
            kept[core.jobs[stuck]] = reasons_of(core, state.room, stuck)
        else:
            kept[core.jobs] = REASONS.index("capacity")
    raise AssertionError("a core without jobs has none that are stuck")


@dataclass(frozen=True)
class Run:
    """One core being solved."""

    core: Core
    objective: Objective
    effort: Effort
    dual: Dual
    wanted: tuple[Ints, Ints]
    jobs: Jobs
    tables: Tables

    @classmethod
    def of(cls, core: Core, objective: Objective, effort: Effort) -> Run:
        dual, wanted = _priced(core, objective, effort)
        return cls(core, objective, effort, dual, wanted, jobs_of(core), tables_of(core, objective, dual.x))

    def place(self) -> State:
        """Places for as many jobs as the limits allow."""
        core, problem = self.core, self.core.problem
        work = problem.vcpus * problem.duration_hours
        state = State.empty(core)
        self.sweep(state, np.argsort(-work, kind="stable"), wanted=self.wanted)
        left = np.flatnonzero(~state.placed)
        ratio = problem.kw[left] / np.maximum(problem.vcpus[left], 1e-9)
        self.sweep(state, left[np.lexsort((-problem.duration_hours[left], problem.max_delay[left], -ratio))])
        state = self.swept(state)
        if len(core) <= self.effort.annealed and not self.proven(state):
            state = self.annealed(state)
        return self.polished(state)

    def sweep(self, state: State, order: Ints, damping: float = 0.0, wanted: tuple[Ints, Ints] | None = None) -> None:
        sweep(self.core, self.jobs, self.tables, state, order, damping, wanted)

    def proven(self, state: State, within: float = PROVEN) -> bool:
        """Whether the state is as good as the bound, within a share of the score."""
        score = float(state.score.sum())
        return bool(state.placed.all()) and score - self.dual.bound <= within * abs(score)

    def swept(self, state: State) -> State:
        """The best of several sweeps in different orders at ever less damped prices."""
        random = np.random.default_rng(_SEED)
        best = state.copy()
        for turn in range(self.effort.sweeps):
            damping = _DAMPING[0] * (_DAMPING[1] / _DAMPING[0]) ** (turn / max(self.effort.sweeps - 1, 1))
            self.sweep(state, random.permutation(len(self.core)), damping)
            if _better(state, best):
                best = state.copy()
            if len(self.core) > _MANY and self.proven(best, self.effort.enough):
                break
        return best

    def annealed(self, state: State) -> State:
        """The state or, where annealing finds a better one, that."""
        core = self.core
        columns = columns_of(core, self.objective, self.dual.x, most=_COLUMNS)
        start = columns.first[:-1].copy()
        here = (columns.region == state.region[columns.job]) & (columns.delay == state.delay[columns.job])
        start[columns.job[here]] = np.flatnonzero(here)
        steps = min(self.effort.steps, _STEPS_OF_A_JOB * len(core))
        effort = self.effort
        found = anneal(
            core, self.jobs, columns, self.dual, steps=steps, chains=effort.chains, rounds=effort.again, start=start
        )
        if not np.isfinite(found.score):
            return state
        new = State.of(core, self.objective, columns.region[found.column], columns.delay[found.column])
        return new if new.fits(core) and _better(new, state) else state

    def polished(self, state: State) -> State:
        """Each job in turn to the best place that has room, at no prices: never worse."""
        free = tables_of(self.core, self.objective, np.zeros_like(self.dual.x))
        for _ in range(_POLISHES if len(self.core) <= _MANY else 1):
            before = float(state.score.sum())
            sweep(self.core, self.jobs, free, state, np.arange(len(self.core)))
            if float(state.score.sum()) >= before:
                break
        return state

    def push_in(self, state: State) -> Flags:
        """Send jobs without a place home and others out of their way; those that are stuck all the same."""
        core, problem = self.core, self.core.problem
        lost = ~state.placed
        if not lost.any():
            return lost
        zero = np.zeros(len(core), np.int64)
        can = lost & (core.earliest == 0) & feasible(problem, problem.home, zero)
        state.region[can], state.delay[can], state.score[can] = problem.home[can], 0, core.score[can]
        state.room -= load(problem, problem.home, zero, can)
        work = problem.vcpus * problem.duration_hours
        for _ in range(_PUSHES):
            over = state.room < -LOAD_TOLERANCE
            if not over.any():
                break
            before = float(state.score.sum())
            there = touching(problem, state.region.clip(0), state.delay, over) & state.placed & ~can
            order = np.flatnonzero(there)
            self.sweep(state, order[np.argsort(work[order], kind="stable")])
            if float(state.score.sum()) == before:
                break
        over = state.room < -LOAD_TOLERANCE
        return (lost & ~can) | (can & touching(problem, problem.home, zero, over))

    def settled(self, state: State) -> State:
        """Jobs that gain nothing by their place go home where there is room, and none waits in vain.

        No worse than the status quo.
        """
        core, problem = self.core, self.core.problem
        zero = np.zeros(len(core), np.int64)
        if float(core.score.sum()) < float(state.score.sum()) and (core.earliest == 0).all():
            home = State.of(core, self.objective, problem.home, zero)
            if home.fits(core):
                return home
        idle = state.score >= core.score - PROVEN * np.abs(core.score)
        idle &= (core.earliest == 0) & ((state.region != problem.home) | (state.delay > 0))
        self.sweep(state, np.flatnonzero(idle), wanted=(problem.home, zero))
        earlier(core, self.objective, self.jobs, state)
        return state


def reasons_of(core: Core, room: Floats, stuck: Flags) -> Reasons:
    """Why jobs are stuck: ``capacity`` where no place has ``room``, else the limit of money or share that there is."""
    part = replace(some_jobs(core.problem, np.flatnonzero(stuck)), capacity=np.maximum(room, 0.0))
    rooms = {"egress_budget": core.rooms.egress_usd, "share_cap": core.rooms.share, "cost_limit": core.rooms.cost_usd}
    other = next((name for name, left in rooms.items() if np.isfinite(left)), "capacity")
    return np.where(openings(part).count > 0, REASONS.index(other), REASONS.index("capacity")).astype(np.uint8)


def _better(new: State, old: State) -> bool:
    lost, had = int((~new.placed).sum()), int((~old.placed).sum())
    return lost < had or (lost == had and float(new.score.sum()) < float(old.score.sum()))


def _priced(core: Core, objective: Objective, effort: Effort) -> tuple[Dual, tuple[Ints, Ints]]:
    """Prices, and the place each job has on average at the last of them; equal jobs are asked as one."""
    classes = classes_of(core)
    if len(classes) > _FEW_CLASSES * len(core):
        dual = ascend(core, objective, effort.rounds if len(core) > _MANY_ROUNDS else effort.rounds_of_classes)
        return dual, mean_answer(core, objective, dual.path)
    dual = ascend(bundled(core, classes), objective, effort.rounds_of_classes)
    return dual, mean_answer(core, objective, dual.path, classes)


def as_plan(problem: Problem, objective: Objective, solved: Solved, formulation: str, why: str) -> Plan:
    """The plan with its figures added up anew."""
    core, now = solved.core, solved.core.now
    region, delay = core.whole(solved.state.region, solved.state.delay)
    figures = evaluate(problem, region, delay)
    score = float(np.sum(figures.score(objective), where=now.planned))
    bound = min(solved.bound, score)
    resources = Resources.of(core.problem.capacity, core.rooms)
    cells = resources.cells
    return Plan(
        region, delay, core.reason, formulation, score, bound, why,
        relaxed=relaxed(problem, now, region, delay, core.pinned, core.reason),
        capacity_price=solved.dual.x[:cells].reshape(resources.shape),
        proven_optimal=score - bound <= PROVEN * abs(score),
        notes=_worth(solved.dual.x, cells, problem.regions, objective),
        carbon=objective.per_kg * float(np.sum(figures.kg, where=now.planned)),
    )  # fmt: skip


def _worth(x: Floats, cells: int, regions: tuple[str, ...], objective: Objective) -> tuple[str, ...]:
    """What one more unit of each scalar limit would save."""
    unit = "kg" if objective.per_usd == 0 else "USD of score"
    found = [("USD of cost", x[cells]), ("USD of egress", x[cells + 1])]
    found += [(f"vCPU-hour moved into {name}", x[cells + 2 + r]) for r, name in enumerate(regions)]
    return tuple(f"one more {what} would save {price:.4g} {unit}" for what, price in found if price > 0)

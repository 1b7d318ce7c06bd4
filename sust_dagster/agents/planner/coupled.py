"""Formulation B for small days: CP-SAT from the scaled plan on, until it is proven or the budget is spent.

Belongs here: the integer program over written-out places and what it proves. Does not belong here: the plan it starts
from (``scale``), the least overload where limits cannot be kept (``overload``).

A place whose reduced score lies further above its job's least than the plan above the bound is in no better plan: only
the others are variables, so nothing is lost. Numbers become integers in the direction that keeps the bound valid:
scores and uses are rounded down, room as well (a sum of integers below the room is below its floor). What the program
finds is placed in real numbers before it counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from ortools.sat.python import cp_model

from sust_dagster.agents.planner.classes import Classes, classes_of
from sust_dagster.agents.planner.columns import Columns, columns_of
from sust_dagster.agents.planner.core import Core, some_jobs
from sust_dagster.agents.planner.duals import Resources
from sust_dagster.agents.planner.moves import State, earlier, jobs_of
from sust_dagster.agents.planner.overload import least_overload
from sust_dagster.agents.planner.problem import Ints, Objective, Plan, Problem
from sust_dagster.agents.planner.program import Variables, add_row, delay_of, rows_of, solver_of
from sust_dagster.agents.planner.scale import EFFORTS, PROVEN, Solved, as_plan, solve

FORMULATION = "cp-sat"


@dataclass(frozen=True)
class Budget:
    """What a proof may cost: places as variables, and CP-SAT's deterministic time, which no clock enters."""

    places: int
    work: float


BUDGETS = {"quick": Budget(2_000, 2.0), "normal": Budget(20_000, 20.0), "thorough": Budget(60_000, 200.0)}
#: Steps of a score, as a share of the plan's: what rounding down may lower the bound by, per class of jobs.
_SCORE_STEP = 1e-12


def plan_coupled(problem: Problem, objective: Objective, why: str = "few jobs", effort: str = "normal") -> Plan:
    """A plan that keeps every limit, with its proven bound; optimal where CP-SAT closed the gap within its budget.

    ``proven_optimal`` means that no plan is better by more than ``PROVEN`` of the score.
    """
    solved = solve(problem, objective, EFFORTS[effort])
    solved = least_overload(problem, objective, solved, EFFORTS[effort], BUDGETS[effort].places, BUDGETS[effort].work)
    solved, note = improved(solved, objective, BUDGETS[effort])
    made = as_plan(problem, objective, solved, FORMULATION, why)
    return replace(made, notes=(*made.notes, *note))


def improved(solved: Solved, objective: Objective, budget: Budget) -> tuple[Solved, tuple[str, ...]]:
    """The plan CP-SAT makes of a solved core and the bound it proves; unchanged where there is nothing to prove."""
    core, score = solved.core, float(solved.state.score.sum())
    gap = score - solved.dual.bound
    if gap <= PROVEN * abs(score):
        return solved, ()
    classes = classes_of(core)
    few = replace(core, problem=some_jobs(core.problem, classes.first), jobs=core.jobs[classes.first])
    columns = columns_of(few, objective, solved.dual.x, slack=gap * (1 + PROVEN))
    if len(columns) > budget.places:
        return solved, (f"not given to CP-SAT: {len(columns)} places within the gap, at most {budget.places}",)
    model = _Model.of(core, classes, columns, abs(score) * _SCORE_STEP)
    model.hint(solved.state)
    counts, bound = model.solve(budget.work)
    bound = min(max(bound, solved.dual.bound), score)
    state = solved.state
    if counts is not None:
        new = _placed(core, objective, classes, columns, counts)
        if new.fits(core) and float(new.score.sum()) < score:
            earlier(core, objective, jobs_of(core), new)
            state = new
    bound = min(bound, float(state.score.sum()))
    return replace(solved, dual=replace(solved.dual, bound=bound), state=state), ()


@dataclass
class _Model:
    """How many of each class take each place."""

    classes: Classes
    columns: Columns
    unit: float
    base: float
    program: cp_model.CpModel
    variables: Variables

    @classmethod
    def of(cls, core: Core, classes: Classes, columns: Columns, unit: float) -> _Model:
        program = cp_model.CpModel()
        count = classes.count[columns.job]
        variables = [program.new_int_var(0, int(k), "") for k in count]
        for c in range(len(classes)):
            program.add(sum(variables[columns.first[c] : columns.first[c + 1]]) == int(classes.count[c]))
        room = Resources.of(core.problem.capacity, core.rooms).room
        for r, places, amounts in rows_of(columns.uses):
            if float(amounts @ count[places]) > room[r]:
                add_row(program, [variables[c] for c in places.tolist()], amounts, float(room[r]))
        for (before, after), least in zip(classes.of[core.pairs].tolist(), core.least.tolist(), strict=True):
            program.add(delay_of(columns, variables, after) - delay_of(columns, variables, before) >= least)
        lowest = np.minimum.reduceat(columns.score, columns.first[:-1])
        above = np.floor((columns.score - lowest[columns.job]) / unit).astype(np.int64)
        program.minimize(cp_model.LinearExpr.weighted_sum(variables, above.tolist()))
        return cls(classes, columns, unit, float(lowest @ classes.count), program, variables)

    def hint(self, state: State) -> None:
        """Begin with the places the jobs have."""
        columns, of = self.columns, self.classes.of
        at = np.full((len(self.classes), int(columns.region.max()) + 1, int(columns.delay.max()) + 1), len(columns))
        at[columns.job, columns.region, columns.delay] = np.arange(len(columns))
        known = (state.region < at.shape[1]) & (state.delay < at.shape[2])
        taken = np.bincount(at[of[known], state.region[known], state.delay[known]], minlength=len(columns) + 1)
        for variable, k in zip(self.variables, taken.tolist(), strict=False):
            self.program.add_hint(variable, k)

    def solve(self, work: float) -> tuple[Ints | None, float]:
        """Jobs by place (None: nothing found) and the bound on the core's score."""
        solver = solver_of(work)
        status = solver.solve(self.program)
        bound = self.base + solver.best_objective_bound * self.unit
        if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return np.array([solver.value(v) for v in self.variables]), bound
        return None, bound if status == cp_model.UNKNOWN else np.inf


def _placed(core: Core, objective: Objective, classes: Classes, columns: Columns, counts: Ints) -> State:
    """The jobs in the places the program gave their classes, in real numbers."""
    members = np.argsort(classes.of, kind="stable")
    place = np.repeat(np.arange(len(columns)), counts)
    region, delay = np.empty(len(core), np.int64), np.empty(len(core), np.int64)
    region[members], delay[members] = columns.region[place], columns.delay[place]
    return State.of(core, objective, region, delay)

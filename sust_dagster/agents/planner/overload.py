"""Days that cannot keep their limits: which jobs stay where they are, so that as little as possible is overloaded.

Belongs here: the least overload of a small day, by CP-SAT. Does not belong here: larger days, where ``scale`` sends
jobs home one by one; the plan that is made once it is known who stays.

A job has a place within the limits or keeps its status quo. An hour that those who stay overload takes nobody else.
"""

from __future__ import annotations

import numpy as np
from ortools.sat.python import cp_model

from sust_dagster.agents.planner.columns import Columns, columns_of, uses_of
from sust_dagster.agents.planner.core import Core, core_of
from sust_dagster.agents.planner.duals import Resources
from sust_dagster.agents.planner.moves import State
from sust_dagster.agents.planner.problem import Flags, Floats, Ints, Objective, Problem
from sust_dagster.agents.planner.program import ROOM_STEPS, Variables, add_row, delay_of, rows_of, solver_of
from sust_dagster.agents.planner.scale import Effort, Run, Solved, reasons_of


def least_overload(
    problem: Problem, objective: Objective, solved: Solved, effort: Effort, places: int, work: float
) -> Solved:
    """The plan whose jobs that stay overload least; ``solved`` itself where it keeps all limits or the day is too big.

    Least vCPU-hours above capacity first, then fewest jobs that stay. ``places`` and ``work`` are the budget.
    """
    core = core_of(problem, objective)
    unchanged = core.pinned.sum() == solved.core.pinned.sum() and core.rooms == solved.core.rooms
    if unchanged or not len(core):
        return solved
    columns = columns_of(core, objective, np.zeros(len(solved.dual.x)))
    found = None if len(columns) > places else _Least(core, columns).solve(work)
    if found is None:
        return solved
    stays, column = found
    region = np.where(stays, core.problem.home, columns.region[column])
    delay = np.where(stays, -core.earliest, columns.delay[column])
    kept = core.reason.copy()
    kept[core.jobs[stays]] = reasons_of(core, State.of(core, objective, region, delay).room, stays)
    regions, delays = core.whole(region, delay)
    core = core_of(problem, objective, kept)
    run = Run.of(core, objective, effort)
    state = run.place()
    other = State.of(core, objective, regions[core.jobs], delays[core.jobs] - core.earliest)
    if other.fits(core) and not (state.fits(core) and state.score.sum() <= other.score.sum()):
        state = other
    return Solved(core, run.dual, run.settled(state)) if state.fits(core) else solved


class _Least:
    """A place or staying for each job of a core."""

    def __init__(self, core: Core, columns: Columns) -> None:
        self.core, self.columns = core, columns
        self.program = cp_model.CpModel()
        self.places = [self.program.new_bool_var("") for _ in range(len(columns))]
        self.stays = [self.program.new_bool_var("") for _ in range(len(core))]
        for j, stay in enumerate(self.stays):
            self.program.add_exactly_one([*self.places[columns.first[j] : columns.first[j + 1]], stay])
        self._order()
        overloads = self._rooms()
        # Both in one sum: a step of overload outweighs all jobs that could stay.
        self.program.minimize(sum(overloads) * (len(core) + 1) + sum(self.stays))

    def solve(self, work: float) -> tuple[Flags, Ints] | None:
        """Which jobs stay, and the place of each other; None where nothing was found."""
        solver = solver_of(work)
        if solver.solve(self.program) not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        stays = np.array([solver.boolean_value(v) for v in self.stays])
        taken = np.flatnonzero([solver.boolean_value(v) for v in self.places])
        column = np.zeros(len(self.core), np.int64)
        column[self.columns.job[taken]] = taken
        return stays, column

    def _rooms(self) -> Variables:
        """Uses within every room; capacity may be overloaded by those who stay. The overloads, all in one step."""
        core, columns = self.core, self.columns
        resources = Resources.of(core.problem.capacity, core.rooms)
        home = uses_of(core.problem, core.problem.home, -core.earliest, resources)
        own: dict[int, tuple[Ints, Floats]] = {r: (jobs, held) for r, jobs, held in rows_of(home)}
        step = float(core.problem.vcpus.max(initial=0.0)) * len(core) / ROOM_STEPS
        overloads: Variables = []
        theirs = {r: (places, held) for r, places, held in rows_of(columns.uses)}
        for r in sorted(own.keys() | theirs.keys()):
            places, uses = theirs.get(r, (np.empty(0, np.int64), np.empty(0)))
            jobs, held = own.get(r, (np.empty(0, np.int64), np.empty(0)))
            variables = [*(self.places[c] for c in places.tolist()), *(self.stays[j] for j in jobs.tolist())]
            room = float(resources.room[r])
            if r >= resources.cells:
                add_row(self.program, variables, np.concatenate([uses, held]), room)
                continue
            over = self.program.new_int_var(0, int(held.sum() / step) + 1, "")
            overloaded = self.program.new_bool_var("")
            self.program.add(over == 0).only_enforce_if(~overloaded)
            self.program.add(sum(variables[: len(places)]) == 0).only_enforce_if(overloaded)
            add_row(self.program, variables, np.concatenate([uses, held]), room, step=step, over=over)
            overloads.append(over)
        return overloads

    def _order(self) -> None:
        """Order holds for those who stay as well where the status quo keeps it; else who waits stays with the other."""
        core = self.core
        for (before, after), least in zip(core.pairs.tolist(), core.least.tolist(), strict=True):
            gap = self.program.add(self._delay(after) - self._delay(before) >= least)
            if core.earliest[before] - core.earliest[after] < least:
                gap.only_enforce_if(~self.stays[after])
                self.program.add_implication(self.stays[after], self.stays[before])

    def _delay(self, j: int) -> cp_model.LinearExpr:
        return delay_of(self.columns, self.places, j) - int(self.core.earliest[j]) * self.stays[j]

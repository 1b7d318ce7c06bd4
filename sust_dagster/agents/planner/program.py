"""Limits of a core as integer constraints: what the CP-SAT programs share.

Belongs here: rounding of uses and rooms to integers, order between jobs, the solver's settings. Does not belong here:
objectives (``coupled``, ``overload``).
"""

from __future__ import annotations

import numpy as np
from ortools.sat.python import cp_model

from sust_dagster.agents.planner.columns import Columns, Uses
from sust_dagster.agents.planner.problem import Floats, Ints

#: Steps of a room. Uses and rooms are rounded down: whatever fits in real numbers fits in integers.
ROOM_STEPS = 2.0**36

Variables = list[cp_model.IntVar]


def solver_of(work: float) -> cp_model.CpSolver:
    """One worker, a fixed seed and a budget of deterministic time: the same search every time."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 1
    solver.parameters.max_deterministic_time = work
    return solver


def rows_of(uses: Uses) -> list[tuple[int, Ints, Floats]]:
    """Resource, the places that use it, and how much each does."""
    place = np.repeat(np.arange(len(uses.first) - 1), np.diff(uses.first))
    order = np.argsort(uses.resource, kind="stable")
    resource = uses.resource[order]
    starts = np.flatnonzero(np.diff(resource, prepend=-1))
    ends = np.append(starts, len(resource))[1:]
    return [
        (int(resource[low]), place[order[low:high]], uses.amount[order[low:high]])
        for low, high in zip(starts, ends, strict=True)
    ]


def add_row(
    program: cp_model.CpModel,
    variables: Variables,
    amounts: Floats,
    room: float,
    *,
    step: float | None = None,
    over: cp_model.IntVar | None = None,
) -> None:
    """``amounts x variables <= room (+ over)``, both sides rounded down to steps (by default of the room)."""
    step = max(abs(room), float(amounts.max())) / ROOM_STEPS if step is None else step
    uses = np.floor(amounts / step).astype(np.int64)
    left = cp_model.LinearExpr.weighted_sum(variables, uses.tolist())
    program.add((left if over is None else left - over) <= int(np.floor(room / step)))


def delay_of(columns: Columns, variables: Variables, j: int) -> cp_model.LinearExpr:
    """The delay of job ``j``, one of whose places is taken once."""
    low, high = int(columns.first[j]), int(columns.first[j + 1])
    delays = columns.delay[low:high].tolist()
    return sum((k * v for k, v in zip(delays, variables[low:high], strict=True)), cp_model.LinearExpr.constant(0))

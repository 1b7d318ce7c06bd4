"""Formulation A: where nothing couples jobs, the best place of each job alone is the best plan.

Belongs here: the exact plan without shared limits, and what every formulation does with jobs that cannot be planned.
Does not belong here: limits that couple jobs (``coupled``, ``scale``), the search itself (``kernels``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.planner.kernels import NOWHERE, best_places
from sust_dagster.agents.planner.problem import (
    REASONS,
    Figures,
    Flags,
    Floats,
    Ints,
    Objective,
    Plan,
    Problem,
    evaluate,
)

FORMULATION = "rules"


@dataclass(frozen=True)
class StatusQuo:
    """Every job at home, at once."""

    region: Ints
    delay: Ints
    figures: Figures
    score: Floats
    """Per job; NaN where the hours are not known."""
    planned: Flags
    """Jobs with a status quo to compare with and some place they may be put into."""
    reason: NDArray[np.uint8]
    """Position in ``REASONS`` of why a job is not planned."""


def status_quo(problem: Problem, objective: Objective) -> StatusQuo:
    """Figures of leaving everything as it is, and which jobs can be planned at all."""
    region, delay = problem.home.copy(), np.zeros(len(problem), np.int64)
    figures = evaluate(problem, region, delay)
    score = figures.score(objective)
    reason = np.where(np.isnan(score), REASONS.index("unknown_hours"), 0).astype(np.uint8)
    return StatusQuo(region, delay, figures, score, ~np.isnan(score), reason)


def plan_rules(problem: Problem, objective: Objective, why: str = "nothing couples the jobs") -> Plan:
    """The best region and start of every job, each alone; optimal where no limit couples them.

    A job whose status quo has no figures (an hour without carbon or price) stays, for nothing can be compared. A job
    that no open hour takes stays as it is, with the reason. Limits of the problem that couple jobs are not looked at:
    its score is then a lower bound of every plan that keeps them.
    """
    now = status_quo(problem, objective)
    best = best_places(problem, objective)
    nowhere = best.region == NOWHERE
    moves = now.planned & ~nowhere
    region = np.where(moves, best.region, now.region)
    delay = np.where(moves, best.delay, now.delay)
    reason = np.where(now.planned & nowhere, REASONS.index("no_open_hour"), now.reason).astype(np.uint8)
    score = float(np.sum(np.where(moves, best.score, now.score), where=now.planned))
    return Plan(
        region, delay, reason, FORMULATION, score, score, why, proven_optimal=not problem.coupled
    )  # fmt: skip

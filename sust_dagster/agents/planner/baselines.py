"""What a plan is measured against: doing nothing, and a table of mean intensities.

Belongs here: the two baselines of every report. Does not belong here: the status quo of single jobs (``rules``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sust_dagster.agents.planner.outcome import Choice
from sust_dagster.agents.planner.problem import Floats, Limits, Objective, Problem
from sust_dagster.agents.planner.rules import plan_rules


def run_now(problem: Problem, objective: Objective) -> Choice:
    """Every job at home, at once."""
    n = len(problem)
    return Choice(problem, objective, problem.home, np.zeros(n, np.int64), np.zeros(n, np.uint8))


def static_table(problem: Problem, objective: Objective, means: Floats) -> Choice:
    """Every job at once in the region that is best by mean intensities ``means`` (R, kg per IT kWh): no forecast, no
    delay, no shared limit.

    Its figures are those of the hours it really meets.
    """
    flat = np.where(np.isnan(problem.carbon), np.nan, means[:, None])
    limits = Limits(precedence=np.empty((0, 2), np.int64))
    table = replace(problem, carbon=flat, max_delay=np.zeros_like(problem.max_delay), limits=limits)
    plan = plan_rules(table, objective)
    return Choice(problem, objective, plan.region, plan.delay, np.zeros(len(problem), np.uint8))


def period_means(problem: Problem) -> Floats:
    """Mean of the known hours of each region; NaN where none is known."""
    known = ~np.isnan(problem.carbon)
    count = known.sum(1)
    return np.where(count > 0, np.nansum(problem.carbon, 1) / np.maximum(count, 1), np.nan)

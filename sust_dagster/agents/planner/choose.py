"""Which formulation plans a problem, and why: the one call that makes a plan.

Belongs here: the choice by coupling and size, said in the plan. Does not belong here: how any of them works.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sust_dagster.agents.planner.coupled import plan_coupled
from sust_dagster.agents.planner.problem import Objective, Plan, Problem, evaluate
from sust_dagster.agents.planner.relaxed import keeps_limits
from sust_dagster.agents.planner.rules import plan_rules, status_quo
from sust_dagster.agents.planner.scale import EFFORTS, plan_scale

FORMULATIONS = ("auto", "rules", "cp-sat", "scale")
#: Most jobs that ``auto`` gives to CP-SAT.
MOST_COUPLED = 3_000


def plan(problem: Problem, objective: Objective, formulation: str = "auto", effort: str = "normal") -> Plan:
    """The plan of ``formulation``; ``auto`` takes the simplest that is enough.

    Nothing couples the jobs, or the best places of all jobs alone keep every limit: ``rules``, and optimal. Up to
    ``MOST_COUPLED`` jobs: ``cp-sat``. More: ``scale``. ``effort`` is ``quick``, ``normal`` or ``thorough``: budgets
    in rounds and steps. ``rules`` asked for by name looks at no limit that couples jobs.

    Raises:
        ValueError: there is no such formulation or effort.

    """
    if formulation not in FORMULATIONS:
        raise ValueError(f"no formulation {formulation!r}: one of {', '.join(FORMULATIONS)}")
    if effort not in EFFORTS:
        raise ValueError(f"no effort {effort!r}: one of {', '.join(EFFORTS)}")
    return _with_carbon(problem, objective, _plan(problem, objective, formulation, effort))


def _plan(problem: Problem, objective: Objective, formulation: str, effort: str) -> Plan:
    if formulation == "cp-sat":
        return plan_coupled(problem, objective, "asked for", effort)
    if formulation == "scale":
        return plan_scale(problem, objective, "asked for", effort)
    if formulation == "rules":
        return plan_rules(problem, objective, "asked for")
    if not problem.coupled:
        return plan_rules(problem, objective)
    alone = plan_rules(problem, objective)
    if keeps_limits(problem, status_quo(problem, objective), alone.region, alone.delay):
        why = "limits couple the jobs, but the best place of each alone keeps them all"
        return replace(alone, why=why, proven_optimal=True)
    if len(problem) <= MOST_COUPLED:
        return plan_coupled(problem, objective, f"limits couple {len(problem)} jobs: few enough for CP-SAT", effort)
    return plan_scale(problem, objective, f"limits couple {len(problem)} jobs: too many for CP-SAT", effort)


def _with_carbon(problem: Problem, objective: Objective, made: Plan) -> Plan:
    if made.carbon is not None:
        return made
    kg = evaluate(problem, made.region, made.delay).kg
    return replace(made, carbon=objective.per_kg * float(np.sum(kg, where=status_quo(problem, objective).planned)))

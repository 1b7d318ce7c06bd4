"""What a plan's saving owes to its assumptions: carbon price, PUE, grid, mix of work.

Belongs here: the scenarios and their table. Does not belong here: the frontier, the interval of a recommendation.

Each scenario is looked at twice: planned anew under it (what one would do had one known), and with the plan as it is
(what it still saves when the assumption was wrong). Grid factors are the accountant's box of the region-systematic
error, 0.80 and 1.25. The mix of work is varied by taking a fifth of the movable jobs, evenly spread over the input, as
not movable, and by halving all windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.grid import SYSTEM_BOX
from sust_dagster.agents.planner.frontier import Solve
from sust_dagster.agents.planner.problem import Floats, Ints, Objective, Problem, evaluate
from sust_dagster.agents.planner.rules import status_quo

#: Every so many movable jobs is taken as fixed when the mix of work is varied.
FIXED_EVERY = 5

SENSITIVITY = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("kg_before", pa.float64(), nullable=False),
        pa.field("kg_savings", pa.float64(), nullable=False),
        pa.field("kg_savings_percent", pa.float64()),
        pa.field("cost_increase_usd", pa.float64(), nullable=False),
        pa.field("jobs_moved", pa.int64(), nullable=False),
        pa.field("kg_savings_same_plan", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Scenario:
    """An assumption changed. ``same_jobs``: whether the plan as it is can be carried over."""

    name: str
    problem: Problem
    objective: Objective
    same_jobs: bool = True


def scenarios(problem: Problem, objective: Objective) -> Iterator[Scenario]:
    """The plan's own assumptions first, then each changed alone."""

    def scaled(factor: float) -> Problem:
        return replace(problem, carbon=problem.carbon * factor)

    yield Scenario("as planned", problem, objective)
    for percent in (-50, 50):
        price = replace(objective, per_kg=objective.per_kg * (1 + percent / 100))
        # Where carbon alone counts, its price does not.
        yield Scenario(f"carbon price {percent:+d} %", problem, price if objective.per_usd else objective)
    for percent in (-10, 10):
        yield Scenario(f"PUE {percent:+d} %", scaled(1 + percent / 100), objective)
    for factor in SYSTEM_BOX:
        yield Scenario(f"grid x {factor:g}", scaled(factor), objective)
    yield Scenario("regions half as different", _contrast(problem, _over_regions), objective)
    yield Scenario("no shape over the hours", _contrast(problem, _over_hours, 1.0), objective)
    yield Scenario("a fifth fewer jobs movable", _fixed(problem), objective, same_jobs=False)
    yield Scenario("windows halved", replace(problem, max_delay=problem.max_delay // 2), objective, same_jobs=False)


def sensitivity(problem: Problem, objective: Objective, solve: Solve, region: Ints, delay: Ints) -> pa.Table:
    """SENSITIVITY rows; ``region`` and ``delay`` are the plan as it is."""
    return pa.Table.from_pylist(
        [_row(s, solve, region, delay) for s in scenarios(problem, objective)], SENSITIVITY
    )  # fmt: skip


def _row(scenario: Scenario, solve: Solve, region: Ints, delay: Ints) -> dict[str, object]:
    problem = scenario.problem
    now = status_quo(problem, scenario.objective)

    def totals(region: Ints, delay: Ints) -> tuple[float, float]:
        figures = evaluate(problem, region, delay)
        return float(np.sum(figures.kg, where=now.planned)), float(np.sum(figures.cost_usd, where=now.planned))

    before_kg, before_usd = totals(now.region, now.delay)
    plan = solve(problem, scenario.objective)
    kg, usd = totals(plan.region, plan.delay)
    return {
        "scenario": scenario.name,
        "kg_before": before_kg,
        "kg_savings": before_kg - kg,
        "kg_savings_percent": 100.0 * (before_kg - kg) / before_kg if before_kg else None,
        "cost_increase_usd": usd - before_usd,
        "jobs_moved": int(((plan.region != problem.home) | (plan.delay > 0)).sum()),
        "kg_savings_same_plan": before_kg - totals(region, delay)[0] if scenario.same_jobs else None,
    }


def _contrast(problem: Problem, mean: Callable[[Floats], Floats], part: float = 0.5) -> Problem:
    """Carbon drawn to its mean by ``part``; unknown hours stay unknown."""
    return replace(problem, carbon=problem.carbon + part * (mean(problem.carbon) - problem.carbon))


def _mean(values: Floats, axis: int) -> Floats:
    count = (~np.isnan(values)).sum(axis, keepdims=True)
    return np.nansum(values, axis, keepdims=True) / np.maximum(count, 1)


def _over_regions(carbon: Floats) -> Floats:
    return _mean(carbon, 0)


def _over_hours(carbon: Floats) -> Floats:
    return _mean(carbon, 1)


def _fixed(problem: Problem) -> Problem:
    """Every fifth movable job pinned to its home and its start."""
    movable = np.flatnonzero(problem.movable)
    pinned = movable[::FIXED_EVERY]
    places, kinds = problem.places, len(problem.places.allowed)
    homes = np.unique(np.stack([problem.place[pinned], problem.home[pinned]], 1), axis=0)
    at_home = np.zeros((len(homes), len(problem.regions)), bool)
    at_home[np.arange(len(homes)), homes[:, 1]] = True
    more = replace(
        places,
        allowed=np.concatenate([places.allowed, at_home]),
        egress_usd_per_gb=np.concatenate([places.egress_usd_per_gb, places.egress_usd_per_gb[homes[:, 0]]]),
        penalty_usd=np.concatenate([places.penalty_usd, places.penalty_usd[homes[:, 0]]]),
        latency_delta_ms=np.concatenate([places.latency_delta_ms, places.latency_delta_ms[homes[:, 0]]]),
    )
    place, max_delay = problem.place.copy(), problem.max_delay.copy()
    of = np.full(kinds, -1, np.int64)
    of[homes[:, 0]] = kinds + np.arange(len(homes))
    place[pinned], max_delay[pinned] = of[problem.place[pinned]], 0
    return replace(problem, places=more, place=place, max_delay=max_delay)

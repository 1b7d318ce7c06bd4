"""The frontier holds what trying every choice finds efficient; the knee; sensitivities."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from small_problems import Shape, best_by_trying, figures, is_open, problem_of

from sust_dagster.agents.planner.frontier import FRONTIER, frontier, knee
from sust_dagster.agents.planner.problem import Limits, Objective, Plan, Problem, evaluate
from sust_dagster.agents.planner.rules import plan_rules, status_quo
from sust_dagster.agents.planner.sensitivity import SENSITIVITY, scenarios, sensitivity

SHAPE = Shape(regions=3, hours=16, jobs=60, kinds=3, gaps=False, coarse=False)


def never(problem: Problem, objective: Objective) -> Plan:
    raise AssertionError("nothing couples these jobs")


def points(problem: Problem) -> list[dict]:
    table = frontier(problem, never)
    assert table.schema == FRONTIER
    return table.to_pylist()


def test_costs_rise_carbon_falls_and_nothing_is_dominated():
    for seed in range(5):
        problem = problem_of(seed, SHAPE)
        rows = points(problem)
        usd, kg = [r["cost_usd"] for r in rows], [r["kg"] for r in rows]
        assert usd == sorted(usd) and kg == sorted(kg, reverse=True)
        assert len(set(kg)) == len(kg)
        assert sum(r["knee"] for r in rows) <= 1
        steps = [r["usd_per_t_from_previous"] for r in rows]
        assert steps[0] is None and all(s > 0 for s in steps[1:])


def test_the_ends_are_the_cheapest_and_the_cleanest():
    problem = problem_of(1, SHAPE)
    rows = points(problem)
    planned = status_quo(problem, Objective.min_carbon()).planned
    for row, objective in ((rows[0], Objective("cheap", 1e-12, 1.0, 0.0)), (rows[-1], Objective("clean", 1, 1e-12, 0))):
        plan = plan_rules(problem, objective)
        best = evaluate(problem, plan.region, plan.delay)
        if objective.name == "clean":
            assert row["kg"] == pytest.approx(best.kg[planned].sum())
        else:
            assert row["cost_usd"] <= best.cost_usd[planned].sum() * 1.02  # latency has a price in the sweep


def test_a_cost_limit_is_kept_and_used():
    """Against every combination of the places that are efficient for a job alone."""
    for seed in range(12):
        shape = Shape(regions=2, hours=10, jobs=4, kinds=2, gaps=False, coarse=False, penalty=False)
        problem = problem_of(seed, shape)
        jobs = [j for j in range(4) if best_by_trying(problem, Objective.min_carbon(), j) is not None]
        if len(jobs) < 2:
            continue
        options = []
        for j in jobs:
            places = [
                figures(problem, j, r, d)
                for r in range(2)
                for d in range(int(problem.max_delay[j]) + 1)
                if problem.places.allowed[problem.place[j], r] and is_open(problem, j, r, d)
            ]
            options.append([(float(f[0]), float(f[1])) for f in places if f is not None])
        now = sum(float(figures(problem, j, int(problem.home[j]), 0)[1]) for j in jobs)  # type: ignore[index]
        for row in frontier(problem, never, prices=(), increases=(0.05, 0.3)).to_pylist():
            if row["method"] != "cost limit":
                continue
            budget = now * (1 + row["max_cost_increase_percent"] / 100)
            assert row["cost_usd"] <= budget * (1 + 1e-9)
            fits = [sum(k for k, _ in c) for c in product(*options) if sum(u for _, u in c) <= budget * (1 + 1e-9)]
            assert row["kg"] >= min(fits) - 1e-9
            most = max(k for place in options for k, _ in place)
            assert row["kg"] <= min(fits) + most  # one job short of the best at most


def test_a_coupled_problem_goes_to_the_solver():
    asked: list[float | None] = []

    def solver(problem: Problem, objective: Objective) -> Plan:
        asked.append(problem.limits.max_cost_increase)
        return plan_rules(problem, objective)

    problem = problem_of(2, SHAPE, Limits(share_cap=0.9))
    frontier(problem, solver, prices=(0.0, 75.0), increases=(0.02,))
    assert asked == [None, None, 0.02, None]


def test_the_knee_is_the_point_furthest_below_the_chord():
    usd, kg = np.array([0.0, 1.0, 2.0, 10.0]), np.array([10.0, 4.0, 2.5, 0.0])
    # Distance below the chord from (0, 1) to (1, 0), scaled: 1 - 0.1 - 0.4 = 0.5, 1 - 0.2 - 0.25 = 0.55.
    assert knee(usd, kg) == 2
    assert knee(usd * 7, kg * 3) == 2
    assert knee(usd[:2], kg[:2]) is None
    assert knee(np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0])) is None  # a straight line has none
    assert knee(np.array([0.0, 9.0, 10.0]), np.array([10.0, 9.0, 0.0])) is None  # nor one that bulges


def test_each_assumption_is_changed_alone():
    problem = problem_of(4, SHAPE)
    objective = Objective.effective_cost(2000.0)
    plan = plan_rules(problem, objective)
    table = sensitivity(problem, objective, plan_rules, plan.region, plan.delay)
    assert table.schema == SENSITIVITY
    rows = {r["scenario"]: r for r in table.to_pylist()}
    asked = rows["as planned"]
    assert asked["kg_savings"] == pytest.approx(asked["kg_savings_same_plan"])
    assert rows["PUE +10 %"]["kg_before"] == pytest.approx(1.1 * asked["kg_before"])
    assert rows["grid x 0.8"]["kg_savings_same_plan"] == pytest.approx(0.8 * asked["kg_savings"])
    assert rows["carbon price +50 %"]["kg_savings"] >= asked["kg_savings"]
    assert rows["carbon price -50 %"]["kg_savings"] <= asked["kg_savings"]
    assert rows["carbon price +50 %"]["kg_savings_same_plan"] == pytest.approx(asked["kg_savings"])
    assert rows["a fifth fewer jobs movable"]["jobs_moved"] < asked["jobs_moved"]
    assert rows["windows halved"]["kg_savings_same_plan"] is None


def test_a_scenario_changes_what_it_says():
    problem = problem_of(4, SHAPE)
    by_name = {s.name: s for s in scenarios(problem, Objective.min_carbon())}
    flat = by_name["no shape over the hours"].problem.carbon
    np.testing.assert_allclose(flat, np.repeat(problem.carbon.mean(1, keepdims=True), problem.hours, 1))
    halved = by_name["regions half as different"].problem.carbon
    np.testing.assert_allclose(np.ptp(halved, axis=0), np.ptp(problem.carbon, axis=0) / 2)
    fewer = by_name["a fifth fewer jobs movable"].problem
    assert fewer.movable.sum() == problem.movable.sum() - -(-problem.movable.sum() // 5)
    pinned = problem.movable & ~fewer.movable
    assert (fewer.places.allowed[fewer.place[pinned], fewer.home[pinned]]).all()
    assert by_name["carbon price +50 %"].objective == Objective.min_carbon()
    quiet = replace(problem, max_delay=np.zeros_like(problem.max_delay))
    assert plan_rules(quiet, Objective.min_carbon()).delay.max() == 0

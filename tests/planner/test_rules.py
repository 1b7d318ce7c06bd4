"""Formulation A is exactly what trying every region and start finds, ties included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Shape, best_by_trying, figures, problem_of, score

from sust_dagster.agents.planner.problem import REASONS, Objective, Plan, Problem, evaluate, feasible
from sust_dagster.agents.planner.rules import plan_rules, status_quo

OBJECTIVES = (Objective.min_carbon(), Objective.effective_cost(125.0), Objective("odd", 0.5, 0.25, 2.0))
shapes = st.builds(
    Shape,
    regions=st.integers(1, 4),
    hours=st.integers(1, 30),
    jobs=st.integers(1, 6),
    kinds=st.integers(1, 3),
    gaps=st.booleans(),
    hourly_price=st.booleans(),
    penalty=st.booleans(),
    coarse=st.booleans(),
)


def assert_best(problem: Problem, objective: Objective, plan: Plan | None = None) -> None:
    plan = plan or plan_rules(problem, objective)
    total = 0.0
    for job in range(len(problem)):
        home = int(problem.home[job])
        best = best_by_trying(problem, objective, job)
        chosen = int(plan.region[job]), int(plan.delay[job])
        if best is None:
            assert chosen == (home, 0)
            assert REASONS[plan.reason[job]] in {"unknown_hours", "no_open_hour"}
            there = figures(problem, job, home, 0)
            total += 0.0 if there is None else float(score(objective, *there))
        else:
            assert chosen == best[:2]
            assert plan.reason[job] == 0
            total += float(best[2])
    assert plan.objective == pytest.approx(total, rel=1e-9, abs=1e-12)


@settings(max_examples=600, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes, objective=st.sampled_from(OBJECTIVES))
def test_the_best_place_of_every_job_is_found(seed, shape, objective):
    assert_best(problem_of(seed, shape), objective)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes, objective=st.sampled_from(OBJECTIVES))
def test_figures_are_those_of_the_loop(seed, shape, objective):
    problem = problem_of(seed, shape)
    random = np.random.default_rng(seed)
    region = random.integers(0, len(problem.regions), len(problem))
    delay = random.integers(0, 9, len(problem))
    found = evaluate(problem, region, delay)
    for job in range(len(problem)):
        there = figures(problem, job, int(region[job]), int(delay[job]))
        if there is None:
            assert np.isnan(found.kg[job])
        else:
            assert found.kg[job] == pytest.approx(float(there[0]))
            assert found.cost_usd[job] == pytest.approx(float(there[1]))
            assert found.score(objective)[job] == pytest.approx(float(score(objective, *there)))


def test_the_comparison_sees_a_plan_that_is_not_best():
    """Negative control: starts an hour later than the best are not what trying finds."""
    problem = problem_of(5, Shape(hours=24, gaps=False))
    plan = plan_rules(problem, Objective.min_carbon())
    assert_best(problem, Objective.min_carbon(), plan)
    late = np.where(problem.max_delay > plan.delay, plan.delay + 1, plan.delay)
    with pytest.raises(AssertionError):
        assert_best(problem, Objective.min_carbon(), replace(plan, delay=late))


def test_ties_go_to_the_earliest_start_then_home():
    flat = problem_of(1, Shape(regions=3, hours=24, jobs=6, gaps=False, penalty=False))
    flat.carbon[:] = 0.25
    plan = plan_rules(flat, Objective.min_carbon())
    assert plan.region.tolist() == flat.home.tolist()
    assert not plan.delay.any()


def test_many_jobs_are_planned_as_one_by_one():
    """Chunks of jobs in threads change nothing."""
    problem = problem_of(3, Shape(regions=4, hours=24, jobs=40_000, kinds=3))
    plan = plan_rules(problem, Objective.effective_cost(75.0))
    again = plan_rules(problem, Objective.effective_cost(75.0))
    assert plan.region.tobytes() == again.region.tobytes() and plan.delay.tobytes() == again.delay.tobytes()
    for job in (0, 16_383, 16_384, 16_385, 32_768, 39_999):
        best = best_by_trying(problem, Objective.effective_cost(75.0), job)
        if best is not None:
            assert (int(plan.region[job]), int(plan.delay[job])) == best[:2]


def test_a_plan_never_raises_the_score():
    for seed in range(40):
        problem = problem_of(seed, Shape(hours=20, jobs=30))
        for objective in OBJECTIVES:
            now, plan = status_quo(problem, objective), plan_rules(problem, objective)
            after = evaluate(problem, plan.region, plan.delay).score(objective)
            moved = (plan.region != problem.home) | (plan.delay > 0)
            moved &= feasible(problem, problem.home, np.zeros(len(problem), np.int64))  # nothing shut drives it out
            assert (after[moved] < now.score[moved]).all()

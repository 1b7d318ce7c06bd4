"""Formulation B against every choice, against an independent solver, and where limits cannot be kept."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize as so
from every_choice import Stakes, best_of_all, coupled_problem
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from plans import problem
from scipy.sparse import coo_array
from small_problems import Shape

from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.choose import plan
from sust_dagster.agents.planner.problem import REASONS, Limits, Objective, Plan, Problem, ProblemError, evaluate

OBJECTIVES = (Objective.min_carbon(), Objective.effective_cost(125.0), Objective("odd", 0.5, 0.25, 2.0))
KINDS = ("capacity", "cost", "egress", "share", "precedence")
shapes = st.builds(
    Shape,
    regions=st.integers(1, 3),
    hours=st.integers(3, 10),
    jobs=st.integers(1, 5),
    kinds=st.integers(1, 3),
    gaps=st.booleans(),
    hourly_price=st.booleans(),
    penalty=st.booleans(),
    coarse=st.booleans(),
)
coupled = st.builds(
    coupled_problem,
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    tight=st.integers(4, 14),
    kinds=st.frozensets(st.sampled_from(KINDS), min_size=1),
)


def kept(problem: Problem, made: Plan) -> None:
    """No limit is broken that the status quo keeps, and what is broken has a name."""
    broken = violations(problem, made.region, made.delay)
    assert not any(broken["by_plan"].to_pylist()), broken.to_pylist()
    if broken.num_rows:
        assert made.relaxed, broken.to_pylist()


def close(a: float, b: float) -> bool:
    return a == pytest.approx(b, rel=1e-7, abs=1e-9)


@settings(max_examples=900, deadline=None)
@given(problem=coupled, objective=st.sampled_from(OBJECTIVES))
def test_cp_sat_is_the_best_of_every_choice(problem, objective):
    best = best_of_all(problem, objective)
    made = plan(problem, objective, "cp-sat", "quick")
    kept(problem, made)
    if best.choice is None:
        return  # what is done then is tested below
    assert not made.relaxed
    assert made.proven_optimal
    assert close(made.objective, best.score)
    assert made.lower_bound <= best.score + 1e-9 * (1 + abs(best.score))


@settings(max_examples=150, deadline=None)
@given(problem=coupled, objective=st.sampled_from(OBJECTIVES), formulation=st.sampled_from(["auto", "scale"]))
def test_the_bound_of_every_formulation_holds_for_the_best(problem, objective, formulation):
    best = best_of_all(problem, objective)
    made = plan(problem, objective, formulation, "quick")
    kept(problem, made)
    if best.choice is not None and not made.relaxed:
        slack = 1e-9 * (1 + abs(best.score))
        assert made.lower_bound <= best.score + slack
        assert made.objective >= best.score - slack


def test_the_comparison_sees_a_plan_that_is_not_best_and_one_that_breaks_a_limit():
    """Negative control."""
    found = 0
    for seed in range(40):
        small = coupled_problem(seed, Shape(gaps=False, hours=10), 6, frozenset({"capacity"}))
        best = best_of_all(small, OBJECTIVES[0])
        free = plan(small, OBJECTIVES[0], "rules")
        if best.choice is not None and free.objective < best.score - 1e-9:
            found += 1
            with pytest.raises(AssertionError):
                kept(small, free)
    assert found > 5


def highs(problem: Problem, objective: Objective, *, whole: bool) -> float | None:
    """The best score by HiGHS over every place written out; the linear relaxation where not ``whole``."""
    stakes = Stakes.of(problem, objective)
    rows, columns, values, room = [], [], [], []
    cost, owner = [], []

    def row(entries: list[tuple[int, float]], limit: float) -> None:
        rows.extend([len(room)] * len(entries))
        columns.extend(c for c, _ in entries)
        values.extend(v for _, v in entries)
        room.append(limit)

    places = [(j, p) for j, option in enumerate(stakes.options) for p in option or ()]
    cost, owner = [p.score for _, p in places], np.array([j for j, _ in places])
    cells: dict[tuple[int, int], list[tuple[int, float]]] = {}
    into: dict[int, list[tuple[int, float]]] = {}
    work = problem.vcpus * problem.duration_hours
    for c, (j, p) in enumerate(places):
        for r, h, amount in p.held:
            cells.setdefault((r, h), []).append((c, amount))
        if p.region != problem.home[j]:
            into.setdefault(p.region, []).append((c, float(work[j])))
    for (r, h), entries in cells.items():
        if np.isfinite(problem.capacity[r, h]):
            row(entries, problem.capacity[r, h] - stakes.load[r, h])
    for entries, limit in (
        ([(c, p.usd) for c, (_, p) in enumerate(places)], stakes.most_usd - stakes.usd),
        ([(c, p.egress) for c, (_, p) in enumerate(places)], stakes.most_egress),
        *((e, stakes.most_share) for e in into.values()),
    ):
        if np.isfinite(limit):
            row(entries, limit)
    jobs = np.unique(owner)
    one = coo_array((np.ones(len(owner)), (np.searchsorted(jobs, owner), np.arange(len(owner)))))
    rules = [so.LinearConstraint(one.tocsr(), 1, 1)]
    if room:
        shape = (len(room), len(places))
        rules.append(so.LinearConstraint(coo_array((values, (rows, columns)), shape).tocsr(), -np.inf, room))
    found = so.milp(
        np.array(cost), integrality=np.full(len(places), int(whole)), bounds=so.Bounds(0, 1), constraints=rules,
        options={"mip_rel_gap": 0.0},
    )  # fmt: skip
    return None if found.x is None else float(found.fun) + stakes.score


@pytest.mark.parametrize(
    "kinds", [{"capacity"}, {"cost", "egress"}, {"capacity", "share"}, set(KINDS) - {"precedence"}]
)
@pytest.mark.parametrize("seed", [0, 2, 4, 6])
def test_bounds_and_plans_against_an_independent_solver(kinds, seed):
    """14 jobs: too many for every choice, few enough for HiGHS to close."""
    shape = Shape(regions=3, hours=20, jobs=14, gaps=False, coarse=False)
    big = coupled_problem(seed, shape, 24, frozenset(kinds))
    objective = OBJECTIVES[seed % 3]
    best = highs(big, objective, whole=True)
    assert best is not None, "these seeds have a plan"
    made = plan(big, objective, "cp-sat", "normal")
    scaled = plan(big, objective, "scale", "normal")
    kept(big, made)
    kept(big, scaled)
    slack = 1e-6 * (1 + abs(best))
    assert made.proven_optimal and close(made.objective, best)
    assert scaled.lower_bound <= best + slack and scaled.objective >= best - slack


def test_the_price_bound_is_near_the_linear_relaxation():
    """The bound of the prices is at most the linear program's, and most of the way from the unlimited plan to it."""
    shape = Shape(regions=3, hours=20, jobs=60, gaps=False, coarse=False)
    big = coupled_problem(2, shape, 60, frozenset({"capacity"}))
    free = plan(big, OBJECTIVES[0], "rules").objective
    linear = highs(big, OBJECTIVES[0], whole=False)
    assert linear is not None
    found = plan(big, OBJECTIVES[0], "scale", "thorough").lower_bound
    assert found <= linear + 1e-6 * abs(linear)
    assert found >= free + 0.99 * (linear - free)


def test_the_same_inputs_give_the_same_bytes():
    shape = Shape(regions=4, hours=30, jobs=200, coarse=False)
    big = coupled_problem(11, shape, 300, frozenset(KINDS))
    for formulation in ("cp-sat", "scale"):
        one, two = (plan(big, OBJECTIVES[1], formulation, "quick") for _ in range(2))
        for a, b in ((one.region, two.region), (one.delay, two.delay), (one.capacity_price, two.capacity_price)):
            assert a.tobytes() == b.tobytes()
        assert (one.objective, one.lower_bound, one.relaxed) == (two.objective, two.lower_bound, two.relaxed)


def test_equal_jobs_are_planned_as_classes_no_worse_than_apart():
    """Forty copies of a few jobs: the same limits kept, and a bound that holds for both."""
    few = coupled_problem(2, Shape(regions=3, hours=24, jobs=8, gaps=False, coarse=False), 500, frozenset({"capacity"}))
    names = (
        "place", "home", "start_hours", "duration_hours", "kw", "vcpus", "money", "data_gb", "max_delay",
    )  # fmt: skip
    many = replace(few, **{name: np.repeat(getattr(few, name), 40) for name in names})
    made = plan(many, OBJECTIVES[0], "scale")
    kept(many, made)
    assert made.lower_bound <= made.objective
    assert made.gap < 0.02


def test_uncoupled_jobs_and_limits_that_do_not_bind_need_no_search():
    easy = problem(5, capacity=np.full((3, 48), 1000.0))
    made = plan(easy, OBJECTIVES[0])
    assert made.formulation == "rules" and made.proven_optimal and "keeps them all" in made.why
    assert plan(problem(5), OBJECTIVES[0]).formulation == "rules"
    tight = plan(problem(5, capacity=np.full((3, 48), 8.0), max_delay=np.zeros(5, np.int64)), OBJECTIVES[0])
    assert tight.formulation == "cp-sat" and "5 jobs" in tight.why


# --- limits that cannot be kept: named, and the status quo is kept --------------------------------------------------


def test_capacity_below_the_fixed_load_is_named_and_those_jobs_stay():
    jobs = problem(3, capacity=np.full((3, 48), 6.0), max_delay=np.zeros(3, np.int64), allowed=np.eye(3, dtype=bool))
    made = plan(jobs, OBJECTIVES[0])
    assert made.region.tolist() == [0, 0, 0] and made.delay.tolist() == [0, 0, 0]
    assert {REASONS[r] for r in made.reason} == {"capacity"}
    assert made.relaxed == ("capacity us-east-1 2026-02-02T00:00Z: fixed load 12 > 6 vCPU",)
    kept(jobs, made)


def test_the_others_are_planned_around_an_hour_that_is_too_full():
    """Two that cannot move overload hour 0; the third may leave and does, and takes no overloaded hour."""
    allowed = np.array([[True, False, False], [True, True, True], [True, True, True]])
    jobs = problem(
        3, place=np.array([0, 0, 1]), allowed=allowed, capacity=np.full((3, 48), 6.0),
        max_delay=np.array([0, 0, 24]), egress_usd_per_gb=np.zeros((3, 3)),
    )  # fmt: skip
    made = plan(jobs, OBJECTIVES[0])
    assert (made.region[2], made.delay[2]) == (1, 0), "the cleanest region"
    assert [REASONS[r] for r in made.reason] == ["capacity", "capacity", ""]
    assert made.relaxed == ("capacity us-east-1 2026-02-02T00:00Z: fixed load 8 > 6 vCPU",)


@pytest.mark.parametrize("formulation", ["cp-sat", "scale"])
def test_no_job_waits_in_vain(formulation):
    """Every hour is as clean as the next: those that find room at once start at once."""
    jobs = problem(6, capacity=np.full((3, 48), 8.0), allowed=np.ones((3, 3), bool))
    made = plan(jobs, OBJECTIVES[0], formulation)
    assert (made.region == 1).all()
    assert sorted(made.delay.tolist()) == [0, 0, 1, 1, 2, 2]


def test_a_limit_of_nothing_keeps_the_status_quo_without_relaxing():
    jobs = problem(4, limits=Limits(egress_budget_usd=0.0, share_cap=0.0), data_gb=np.ones(4))
    made = plan(jobs, OBJECTIVES[0])
    assert not made.relaxed and (made.region == 0).all()


def test_a_cost_limit_below_the_status_quo_is_named_and_gives_way_to_the_status_quo_cost():
    jobs = problem(2, limits=Limits(max_cost_increase=-0.5))
    made = plan(jobs, OBJECTIVES[0])
    assert re.fullmatch(r"cost_limit -0\.5 of 2 USD: 2 > 1 USD", made.relaxed[0])
    assert evaluate(jobs, made.region, made.delay).cost_usd.sum() <= 2.0
    kept(jobs, made)


def test_an_order_that_no_window_allows_is_named():
    pairs = np.array([[0, 1]])
    jobs = problem(2, duration_hours=np.full(2, 3.0), max_delay=np.zeros(2, np.int64), limits=Limits(precedence=pairs))
    made = plan(jobs, OBJECTIVES[0])
    assert made.relaxed == ("precedence: job 1 starts 3 h before job 0 ends",)
    assert {REASONS[r] for r in made.reason} == {"precedence"}
    kept(jobs, made)


def test_an_order_in_a_circle_stays_as_it_is():
    pairs = np.array([[0, 1], [1, 2], [2, 0]])
    made = plan(problem(3, limits=Limits(precedence=pairs)), OBJECTIVES[0])
    assert len(made.relaxed) == 3 and all(word.startswith("precedence") for word in made.relaxed)


def test_order_is_kept_across_regions_and_the_follower_waits():
    """The second job may start only when the first has ended; both want the one clean hour."""
    carbon = np.full((3, 48), 0.5)
    carbon[:, 5] = 0.1
    jobs = problem(2, carbon=carbon, limits=Limits(precedence=np.array([[0, 1]])))
    made = plan(jobs, OBJECTIVES[0])
    assert made.proven_optimal
    assert sorted(made.delay.tolist()) == made.delay.tolist() and made.delay[1] - made.delay[0] >= 1
    assert 5 in made.delay.tolist()


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_a_capacity_that_is_no_capacity_is_refused_by_name(bad):
    capacity = np.full((3, 48), 8.0)
    capacity[1, 7] = bad
    with pytest.raises(ProblemError, match=r"capacity of eu-north-1 in hour 7 is (nan|-1\.0)"):
        problem(2, capacity=capacity)


@settings(max_examples=100, deadline=None)
@given(problem=coupled, objective=st.sampled_from(OBJECTIVES))
def test_a_day_that_cannot_keep_its_limits_says_which_and_who_stays(problem, objective):
    assume(best_of_all(problem, objective).choice is None)
    made = plan(problem, objective, "cp-sat", "quick")
    assert made.relaxed
    stays = np.isin(made.reason, [REASONS.index(r) for r in REASONS[3:]])
    moved = (made.region != problem.home) | (made.delay > 0)
    assert not (stays & moved).any(), "a job that a limit keeps stays where it was"


def test_an_unknown_formulation_or_effort_is_refused():
    for wrong in ({"formulation": "magic"}, {"effort": "endless"}):
        with pytest.raises(ValueError, match="one of"):
            plan(problem(1), OBJECTIVES[0], **wrong)

"""Robust plans: the worst case is what the loop over hours says, and only what survives it is proposed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Shape, best_by_trying, figures, is_open, problem_of

from sust_dagster.agents.planner import choose
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.outcome import WORDS, word
from sust_dagster.agents.planner.problem import Limits, Objective, Plan, Problem, evaluate, load
from sust_dagster.agents.planner.robust import (
    Quantiles,
    Robust,
    gains,
    plan_robust,
    robust_choice,
    savings_kg,
    survives,
    without,
)
from sust_dagster.agents.planner.rules import plan_rules
from sust_dagster.agents.planner.withdraw import settle, withdraw

shapes = st.builds(
    Shape, regions=st.integers(1, 3), hours=st.integers(4, 24), jobs=st.integers(1, 4), kinds=st.integers(1, 2),
    gaps=st.booleans(), hourly_price=st.booleans(), coarse=st.booleans(),
)  # fmt: skip


def spread_of(problem: Problem, seed: int) -> Quantiles:
    """p05 and p95 around the forecast, in sixteenths."""
    random = np.random.default_rng(seed + 1)
    down, up = (random.integers(0, 4, problem.carbon.shape) / 16 for _ in range(2))
    return Quantiles(np.maximum(problem.carbon - down, 0.0), problem.carbon + up)


def summed(hourly: np.ndarray, region: int, start: Fraction, length: Fraction) -> Fraction:
    total, hour, end = Fraction(0), int(start), start + length
    while hour < end:
        part = min(end, Fraction(hour + 1)) - max(start, Fraction(hour))
        if part > 0:
            total += part * Fraction(float(hourly[region, hour]))
        hour += 1
    return total


def worst_kg(problem: Problem, q: Quantiles, job: int, region: int, delay: int, rho: Fraction) -> Fraction:
    """The rule of the module, hour by hour."""
    home = int(problem.home[job])
    start, length = Fraction(float(problem.start_hours[job])), Fraction(float(problem.duration_hours[job]))
    kw = Fraction(float(problem.kw[job]))
    if (region, delay) == (home, 0):
        return Fraction(0)
    if region != home:
        return kw * (summed(q.low, home, start, length) - summed(q.high, region, start + delay, length))
    apart, enters = min(Fraction(delay), length), start + max(Fraction(delay), length)
    left, entered = (
        [summed(v, home, at, apart) for v in (q.low, problem.carbon, q.high)] for at in (start, enters)
    )  # fmt: skip
    together = min(a - b for a, b in zip(left, entered, strict=True))
    return kw * (rho * together + (1 - rho) * (left[0] - entered[2]))


def gain(problem: Problem, objective: Objective, job: int, region: int, delay: int, kg: Fraction) -> Fraction:
    now, then = figures(problem, job, int(problem.home[job]), 0), figures(problem, job, region, delay)
    assert now is not None and then is not None
    return (
        Fraction(objective.per_kg) * kg
        - Fraction(objective.per_usd) * (then[1] - now[1])
        - Fraction(objective.per_penalty_usd) * (then[2] - now[2])
    )


@settings(max_examples=250, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), shape=shapes, rho=st.sampled_from([0.0, 0.5, 1.0]),
    objective=st.sampled_from([Objective.min_carbon(), Objective.effective_cost(4000.0)]),
)  # fmt: skip
def test_the_best_worst_case_of_every_job_is_found(seed, shape, rho, objective):
    problem = problem_of(seed, shape)
    q = spread_of(problem, seed)
    choice = plan_robust(problem, objective, Robust(q, common=rho))
    assert choice.worst_savings_kg is not None
    for job in range(len(problem)):
        chosen = int(choice.region[job]), int(choice.delay[job])
        home = int(problem.home[job])
        best = Fraction(0)
        if best_by_trying(problem, objective, job) is not None:
            for region in range(len(problem.regions)):
                for delay in range(int(problem.max_delay[job]) + 1):
                    if (
                        (region, delay) == (home, 0)
                        or not problem.places.allowed[problem.place[job], region]
                        or figures(problem, job, region, delay) is None
                        or not is_open(problem, job, region, delay)
                    ):
                        continue
                    kg = worst_kg(problem, q, job, region, delay, Fraction(rho))
                    best = max(best, gain(problem, objective, job, region, delay, kg))
        kg = worst_kg(problem, q, job, *chosen, Fraction(rho))
        assert choice.worst_savings_kg[job] == pytest.approx(float(kg), rel=1e-9, abs=1e-12)
        reached = Fraction(0) if chosen == (home, 0) else gain(problem, objective, job, *chosen, kg)
        assert float(reached) == pytest.approx(float(best), rel=1e-9, abs=1e-12)
        assert chosen == (home, 0) or reached > 0


def test_without_a_spread_the_robust_plan_is_the_plan():
    for seed in range(30):
        problem = problem_of(seed, Shape(hours=24, jobs=20, gaps=False, coarse=False))
        plain = plan_rules(problem, Objective.min_carbon())
        robust = plan_robust(problem, Objective.min_carbon(), Robust(Quantiles(problem.carbon, problem.carbon)))
        none = plan_robust(problem, Objective.min_carbon(), Robust())
        total = np.nansum(evaluate(problem, plain.region, plain.delay).kg)
        assert np.nansum(robust.after.kg) == pytest.approx(total)
        assert np.nansum(none.after.kg) == pytest.approx(total)


def wide(low: float, high: float) -> tuple[Problem, Quantiles]:
    """One job of an hour at 0.5, another region at 0.3, and 0.4 at home three hours later."""
    problem = problem_of(0, Shape(regions=2, hours=6, jobs=1, kinds=1, gaps=False, penalty=False))
    carbon = np.array([[0.5, 0.5, 0.5, 0.4, 0.5, 0.5], [0.3] * 6])
    places = replace(
        problem.places, allowed=np.ones((1, 2), bool), egress_usd_per_gb=np.zeros((1, 2)), penalty_usd=np.zeros((1, 2))
    )
    problem = replace(
        problem, carbon=carbon, price=np.ones((2, 1)), places=places, home=np.array([0]), start_hours=np.array([0.0]),
        duration_hours=np.array([1.0]), kw=np.array([1.0]), money=np.array([0.0]), data_gb=np.array([0.0]),
        max_delay=np.array([4]),
    )  # fmt: skip
    return problem, Quantiles(carbon * low, carbon * high)


@pytest.mark.parametrize(
    ("low", "high", "common", "place"),
    [
        (1.0, 1.0, 0.5, (1, 0)),
        (0.9, 1.1, 0.5, (1, 0)),  # 0.45 - 0.33 > 0
        (0.75, 1.25, 0.5, (0, 0)),  # 0.375 - 0.375: nothing left elsewhere, nor 3 h later
        (0.8, 1.4, 1.0, (0, 3)),  # elsewhere 0.40 - 0.42; later the hours err together: 0.8 x 0.1
        (0.8, 1.4, 0.0, (0, 0)),  # later, each hour on its own: 0.40 - 0.56
    ],
)
def test_a_move_is_made_when_its_saving_survives(low, high, common, place):
    problem, q = wide(low, high)
    choice = plan_robust(problem, Objective.min_carbon(), Robust(q, common=common))
    assert (int(choice.region[0]), int(choice.delay[0])) == place
    assert WORDS[choice.why[0]] == ("not_robust" if place == (0, 0) else "")


def test_hours_that_both_windows_touch_cancel():
    """A day's run an hour later gains the last hour for the first: the wide hours between do not matter."""
    problem, _ = wide(1.0, 1.0)
    carbon = np.array([[0.9, 0.5, 0.5, 0.5, 0.1, 0.5], [9.0] * 6])
    low, high = carbon.copy(), carbon.copy()
    low[:, 1:4], high[:, 1:4] = 0.0, 5.0
    problem = replace(problem, carbon=carbon, duration_hours=np.array([4.0]), max_delay=np.array([1]))
    for common in (0.0, 1.0):
        kg = savings_kg(problem, Robust(Quantiles(low, high), common=common), np.array([0]), np.array([1]))
        assert kg == pytest.approx([0.8])


def test_an_unknown_quantile_lets_nothing_move():
    problem, q = wide(0.9, 1.1)
    high = q.high.copy()
    high[1, 0] = np.nan
    choice = plan_robust(problem, Objective.min_carbon(), Robust(Quantiles(q.low, high)))
    assert (int(choice.region[0]), int(choice.delay[0])) == (1, 1)  # an hour later it is known


def test_shrinkage_is_by_action():
    problem, q = wide(1.0, 1.0)
    objective = Objective.min_carbon()
    assert plan_robust(problem, objective, Robust(q, {"region_shift": 0.0})).delay.tolist() == [3]
    assert plan_robust(problem, objective, Robust(q, {"region_shift": 0.6})).region.tolist() == [1]  # 0.6 x 0.2 > 0.1
    assert plan_robust(problem, objective, Robust(q, {"region_shift": 0.4})).delay.tolist() == [3]
    none = plan_robust(problem, objective, Robust(q, {"region_shift": 0.0, "time_shift": 0.0}))
    assert not none.moved.any()
    keeps, kg = survives(problem, objective, Robust(q, {"region_shift": 0.0}), np.array([1]), np.array([0]))
    assert (keeps.tolist(), kg.tolist()) == ([False], [pytest.approx(0.2)])
    with pytest.raises(ValueError, match="0 to 1"):
        Robust(q, {"region_shift": 1.1})


def test_what_saves_money_is_not_shrunk():
    problem, q = wide(1.0, 1.0)
    problem = replace(problem, money=np.array([1.0]), price=np.array([[2.0], [1.0]]))
    robust = Robust(q, {"region_shift": 0.0})
    kg = savings_kg(problem, robust, np.array([1]), np.array([0]))
    assert gains(problem, Objective.effective_cost(1000.0), robust, np.array([1]), np.array([0]), kg) == [1.0]


# --- taking moves back


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_taking_moves_back_keeps_every_limit(seed):
    """Whatever is taken back, the rest still fits: no hour is fuller than its limit, or than it was."""
    random = np.random.default_rng(seed)
    shape = Shape(regions=3, hours=24, jobs=12, kinds=3, gaps=False)
    problem = problem_of(seed, shape)
    plan = plan_rules(problem, Objective.min_carbon())
    # Limits that the plan just keeps.
    held = load(problem, plan.region, plan.delay)
    quo = load(problem, problem.home, np.zeros(12, np.int64))
    pairs = np.array([[0, 1], [2, 3]])
    end = problem.start_hours + plan.delay + problem.duration_hours
    pairs = pairs[[end[a] <= problem.start_hours[b] + plan.delay[b] for a, b in pairs.tolist()]]
    known = ~np.isnan(evaluate(problem, problem.home, np.zeros(12, np.int64)).kg)
    now, then = (
        evaluate(problem, r, d).cost_usd[known].sum()
        for r, d in ((problem.home, np.zeros(12, np.int64)), (plan.region, plan.delay))
    )
    increase = max(0.0, then / now - 1) if now > 0 else None
    tight = replace(
        problem, capacity=np.maximum(held, quo * random.choice([0.0, 1.0])), limits=Limits(increase, precedence=pairs)
    )
    moved = (plan.region != problem.home) | (plan.delay > 0)
    back = moved & (random.random(12) < 0.5)
    region, delay, why = withdraw(tight, plan.region, plan.delay, back, random.random(12), word("not_robust"))
    assert not ((region != problem.home) | (delay > 0))[back].any()
    assert (why[back] == word("not_robust")).all()
    taken = moved & ~((region != problem.home) | (delay > 0))
    assert ((why > 0) == taken).all()
    rows = violations(tight, region, delay)
    assert not any(rows.column("by_plan").to_pylist())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_moves_for_nothing_are_taken_back_where_nothing_rests_on_them(seed):
    random = np.random.default_rng(seed)
    n = 10
    problem = problem_of(seed, Shape(regions=3, hours=20, jobs=n, kinds=3, gaps=False))
    region, delay = random.integers(0, 3, n), random.integers(0, 4, n)
    idle = ((region != problem.home) | (delay > 0)) & (random.random(n) < 0.7)
    held = load(problem, region, delay)
    quo = load(problem, problem.home, np.zeros(n, np.int64))
    tight = replace(problem, capacity=np.maximum(held, quo * random.choice([0.0, 0.5, 1.0])))
    new, later, stays = settle(tight, region, delay, idle)
    gone = (new == problem.home) & (later == 0)
    assert (gone | stays)[idle].all() and not stays[~idle].any()
    same = ~idle
    assert (new[same] == region[same]).all() and (later[same] == delay[same]).all()
    allowed = np.maximum(tight.capacity, quo) + 1e-6
    assert (load(tight, new, later) <= allowed).all()
    for job in np.flatnonzero(stays):  # no one of them could go home now
        back, at_once = new.copy(), later.copy()
        back[job], at_once[job] = problem.home[job], 0
        assert (load(tight, back, at_once) > np.maximum(tight.capacity, quo) - 1e-6).any()
    loose = settle(problem, region, delay, idle)
    assert not loose[2].any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_where_capacity_binds_each_move_survives_by_itself(seed, cautious):
    random = np.random.default_rng(seed)
    n = 12
    problem = problem_of(seed, Shape(regions=3, hours=24, jobs=n, kinds=3, gaps=False, penalty=False, coarse=False))
    quo = load(problem, problem.home, np.zeros(n, np.int64))
    problem = replace(problem, capacity=np.maximum(quo, random.choice([4.0, 9.0, 20.0])))
    robust = Robust(spread_of(problem, seed) if cautious else None)
    objective = Objective.min_carbon()

    def solve(given: Problem, wanted: Objective) -> Plan:
        return choose.plan(given, wanted, "scale", "quick")

    choice = robust_choice(problem, objective, robust, solve, solve)
    keeps, kg = survives(problem, objective, robust, choice.region, choice.delay)
    assert keeps[choice.moved].all()
    assert not pc.any(violations(problem, choice.region, choice.delay).column("by_plan")).as_py()
    if cautious:
        assert choice.worst_savings_kg is not None
        np.testing.assert_allclose(choice.worst_savings_kg, kg)
    best = plan_robust(problem, objective, robust)
    loose = robust_choice(replace(problem, capacity=np.full_like(quo, np.inf)), objective, robust, solve, solve)
    assert (loose.region == best.region).all() and (loose.delay == best.delay).all()


def test_a_place_barred_is_barred_for_that_job_alone():
    problem = problem_of(8, Shape(regions=3, hours=24, jobs=20, kinds=2, gaps=False))
    jobs = np.zeros(20, bool)
    jobs[[3, 7]] = True
    region = problem.home.copy()
    region[3] = (problem.home[3] + 1) % 3
    narrower = without(problem, jobs, region)
    before = problem.places.allowed[problem.place]
    after = narrower.places.allowed[narrower.place]
    wanted = before.copy()
    wanted[3, region[3]] = False
    assert (after == wanted).all()
    assert narrower.max_delay[7] == 0 and (np.delete(narrower.max_delay, 7) == np.delete(problem.max_delay, 7)).all()
    for name in ("egress_usd_per_gb", "penalty_usd"):
        old, new = getattr(problem.places, name), getattr(narrower.places, name)
        assert (new[narrower.place] == old[problem.place]).all()


def test_a_place_given_back_is_taken_from_the_one_who_gains_least():
    problem, _ = wide(1.0, 1.0)
    three = replace(
        problem, place=np.zeros(3, np.int64), home=np.array([0, 1, 1]), start_hours=np.zeros(3),
        duration_hours=np.ones(3), kw=np.ones(3), vcpus=np.ones(3), money=np.zeros(3), data_gb=np.zeros(3),
        max_delay=np.full(3, 4), capacity=np.array([[2.0] * 6, [9.0] * 6]),
    )  # fmt: skip
    region, delay = np.array([1, 0, 0]), np.array([0, 0, 0])  # 0 left for region 1, the others came
    back = np.array([True, False, False])
    for worth, goes in (([9.0, 1.0, 2.0], 1), ([9.0, 2.0, 1.0], 2)):
        new, _, why = withdraw(three, region, delay, back, np.array(worth), word("not_robust"))
        stays = 3 - goes
        assert new[goes] == 1 and new[stays] == 0 and new[0] == 0
        assert WORDS[why[goes]] == "capacity"

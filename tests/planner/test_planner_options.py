"""Right-sizing and spot, and which action a workload gets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import problem, upcoming

from sust_dagster.agents.planner.options import OptionRules, SpotMarket, best_action, overhead
from sust_dagster.agents.planner.problem import Objective, Problem, evaluate
from sust_dagster.agents.planner.recommend import Change
from sust_dagster.agents.planner.rules import plan_rules, status_quo

RULES = OptionRules(halvable=frozenset({"c5.xlarge"}))


def market(p: Problem, share: float = 0.35, hazard: float = 0.02) -> SpotMarket:
    return SpotMarket(np.full_like(p.carbon, share), np.full_like(p.carbon, hazard))


def chosen(
    p: Problem, rows: list[dict], objective: Objective, rules: OptionRules = RULES, spot: SpotMarket | None = None
) -> Change:
    plan = plan_rules(p, objective)
    before = status_quo(p, objective).figures
    return best_action(upcoming(rows), p, plan, before, evaluate(p, plan.region, plan.delay), objective, rules, spot)


def at_home(n: int = 1, **arrays) -> Problem:
    """Jobs that may not move: what is left is their size and spot."""
    return problem(n, allowed=np.eye(3, dtype=bool), max_delay=np.zeros(n, np.int64), **arrays)


def test_an_idle_workload_is_given_the_smaller_size() -> None:
    change = chosen(at_home(), [{"utilisation_p95": 0.4}], Objective.min_carbon())
    assert change.action.tolist() == ["right_size"]
    assert change.vcpus_scale.tolist() == [0.5]
    assert change.after.kg[0] == pytest.approx(0.2)
    assert change.after.cost_usd[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "row",
    [
        {"utilisation_p95": 0.46},
        {"utilisation_p95": None},
        {"utilisation_p95": 0.2, "gpus": 1.0},
        {"utilisation_p95": 0.2, "instance_type": "t3.large"},
    ],
    ids=["too busy on the smaller size", "not metered", "has a GPU", "no smaller size"],
)
def test_a_workload_that_may_not_shrink_does_not(row: dict) -> None:
    assert chosen(at_home(), [row], Objective.min_carbon()).action.tolist() == ["do_nothing"]


def test_one_group_that_may_not_keeps_the_whole_workload_as_it_is() -> None:
    rows = [{"utilisation_p95": 0.3}, {"utilisation_p95": 0.9}]
    assert set(chosen(at_home(2), rows, Objective.min_carbon()).action) == {"do_nothing"}


def test_spot_is_for_money_and_never_for_urgent_work() -> None:
    p = at_home(3)
    rows = [
        {"workload_id": "batch", "spot_tolerant": True},
        {"workload_id": "release", "spot_tolerant": True, "category": "urgent"},
        {"workload_id": "report", "spot_tolerant": None},
    ]
    change = chosen(p, rows, Objective.effective_cost(75), spot=market(p))
    assert change.action.tolist() == ["spot_convert", "do_nothing", "do_nothing"]
    assert change.after.kg[0] > change.before.kg[0], "interrupted runs start again"
    assert change.after.cost_usd[0] == pytest.approx(0.35 * float(overhead(np.array([0.02]), np.array([1.0]))[0]))
    assert set(chosen(p, rows, Objective.min_carbon(), spot=market(p)).action) == {"do_nothing"}


def test_policy_switches_both_off() -> None:
    p = at_home()
    off = OptionRules(right_size=False, spot=False, halvable=RULES.halvable)
    row = [{"utilisation_p95": 0.1, "spot_tolerant": True}]
    assert chosen(p, row, Objective.effective_cost(75), off, market(p)).action.tolist() == ["do_nothing"]


def test_the_better_of_moving_and_shrinking_is_proposed() -> None:
    """Moving to the clean region saves 75 %, half the vCPUs 50 %; near an even grid it is the other way round."""
    row = [{"utilisation_p95": 0.2}]
    assert chosen(problem(1), row, Objective.min_carbon()).action.tolist() == ["region_shift"]
    even = np.tile(np.array([[0.4], [0.35], [0.4]]), (1, 48))
    assert chosen(problem(1, carbon=even), row, Objective.min_carbon()).action.tolist() == ["right_size"]


def test_an_unknown_spot_price_is_no_price() -> None:
    p = at_home()
    spot = SpotMarket(np.full_like(p.carbon, np.nan), np.full_like(p.carbon, 0.02))
    change = chosen(p, [{"spot_tolerant": True}], Objective.effective_cost(75), spot=spot)
    assert change.action.tolist() == ["do_nothing"]


@given(hazard=st.floats(0, 0.5), hours=st.floats(0.01, 20))
def test_the_overhead_of_starting_again_is_that_of_simulated_restarts(hazard: float, hours: float) -> None:
    """The renewal equation E = int_0^d (t + E) a e^(-a t) dt + d e^(-a d), solved for E on a grid."""
    found = float(overhead(np.array([hazard]), np.array([hours]))[0])
    if hazard * hours < 1e-6:
        assert found == pytest.approx(1.0, abs=1e-5)
        return
    t = (np.arange(200_000) + 0.5) * hours / 200_000
    lost = float((t * hazard * np.exp(-hazard * t)).sum() * hours / 200_000)
    survive = np.exp(-hazard * hours)
    mean = (lost + hours * survive) / survive
    assert found == pytest.approx(mean / hours, rel=1e-6)

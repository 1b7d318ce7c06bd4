"""From a plan to recommendations: sums, intervals, hashes, texts."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import DAY, problem, upcoming

from sust_dagster.agents.planner.problem import Objective, Problem, evaluate
from sust_dagster.agents.planner.recommend import (
    Z90,
    Outlook,
    Recommended,
    break_even_usd_per_t,
    placement_change,
    proposals,
    recommend,
)
from sust_dagster.agents.planner.rules import plan_rules, status_quo
from sust_dagster.world.decisions import PROPOSAL_FIELDS
from sust_dagster.world.schemas import PLACEMENTS, RECOMMENDATIONS


def recommended(
    given_problem: Problem, rows: list[dict], objective: Objective | None = None, **outlook: Any
) -> Recommended:
    objective = objective or Objective.min_carbon()
    plan = plan_rules(given_problem, objective)
    before = status_quo(given_problem, objective).figures
    after = evaluate(given_problem, plan.region, plan.delay)
    plain: dict[str, Any] = {
        "planned_for": DAY,
        "issued_at": DAY + timedelta(hours=3),
        "objective": objective,
        "carbon_price_usd_per_t": 75.0,
        "policy_version": 1,
        "carbon_sd": np.zeros_like(given_problem.carbon),
        "methods": ("ridge",) * len(given_problem.regions),
    }
    change = placement_change(given_problem, plan, before, after)
    return recommend(upcoming(rows), given_problem, plan, change, Outlook(**{**plain, **outlook}))


def test_a_workload_gets_one_recommendation_with_the_sums_of_its_groups() -> None:
    p = problem(3, start_hours=np.array([4.0, 5.0, 6.0]), data_gb=np.array([1.0, 0.0, 0.0]))
    found = recommended(p, [{"expected_count": 2.0}, {}, {"workload_id": "report"}])
    rows = {r["workload_id"]: r for r in found.recommendations.to_pylist()}
    assert set(rows) == {"build", "report"}
    build = rows["build"]
    assert build["action_type"] == "region_shift"
    assert build["est_carbon_delta_kg"] == pytest.approx(2 * (0.1 - 0.4))
    assert build["est_cost_delta_usd"] == pytest.approx(0.02)
    assert build["egress_usd"] == pytest.approx(0.02)
    assert build["expected_runs"] == 3.0
    assert build["est_latency_delta_ms"] == pytest.approx(10.0)
    assert build["break_even_usd_per_t"] == pytest.approx(0.02 / 0.6 * 1000)
    assert found.placements.num_rows == 3
    assert found.placements.schema.equals(PLACEMENTS.arrow)
    assert found.recommendations.schema.equals(RECOMMENDATIONS.arrow)
    sums = found.placements.group_by("recommendation_id").aggregate([("kg_after", "sum"), ("kg_before", "sum")])
    by_id = {r["recommendation_id"]: r["kg_after_sum"] - r["kg_before_sum"] for r in sums.to_pylist()}
    assert by_id[build["recommendation_id"]] == pytest.approx(build["est_carbon_delta_kg"])


def test_unknown_risk_is_never_low() -> None:
    found = recommended(problem(1), [{}])
    assert found.recommendations.column("risk_level").to_pylist() == ["high"]


def test_a_job_that_is_best_where_it_is_is_left_out_and_counted() -> None:
    p = problem(2, home=np.array([1, 0]))
    found = recommended(p, [{"workload_id": "clean", "region": "eu-north-1"}, {}])
    assert found.recommendations.column("workload_id").to_pylist() == ["build"]
    assert found.left_out == {"nothing_better": 1, "no_gain": 0, "carbon_would_rise": 0, "too_small": 0}


def test_what_saves_money_but_emits_more_is_not_recommended() -> None:
    p = problem(1, home=np.array([1]), price=np.array([[0.1], [1.0], [1.0]]))
    found = recommended(p, [{"region": "eu-north-1"}], Objective.effective_cost(75))
    assert found.recommendations.num_rows == 0
    assert found.left_out["carbon_would_rise"] == 1


@given(sd=st.floats(0.001, 0.2), runs=st.floats(0.5, 100), hours=st.integers(1, 6))
def test_the_plan_interval_is_the_stated_formula(sd: float, runs: float, hours: int) -> None:
    """One group moved between two regions, all hours alike: the terms of the docstring by hand."""
    p = problem(1, kw=np.array([runs]), duration_hours=np.array([float(hours)]))
    spread = np.zeros_like(p.carbon)
    spread[0], spread[1] = sd, sd / 2
    row = recommended(p, [{"expected_count": runs}], carbon_sd=spread).recommendations.to_pylist()[0]
    delta = runs * hours * (0.1 - 0.4)
    common = 0.5 * ((runs * hours * sd) ** 2 + (runs * hours * sd / 2) ** 2)
    own = 0.5 * hours * ((runs * sd) ** 2 + (runs * sd / 2) ** 2)
    counts = delta**2 * 1.25 / runs
    assert row["est_carbon_delta_kg"] == pytest.approx(delta)
    width = row["est_carbon_delta_kg_upper"] - row["est_carbon_delta_kg_lower"]
    assert width == pytest.approx(2 * Z90 * math.sqrt(common + own + counts))
    assert row["est_carbon_delta_kg_lower"] < delta < row["est_carbon_delta_kg_upper"]


def test_a_common_error_cancels_within_a_region() -> None:
    """A time shift between hours of one region is known better than its two ends."""
    carbon = np.tile(np.array([[0.4], [9.0], [9.0]]), (1, 48))
    carbon[0, 5] = 0.3
    spread = np.full_like(carbon, 0.05)
    p = problem(1, carbon=carbon, kw=np.array([1.0]))
    row = recommended(p, [{"expected_count": 1e9}], carbon_sd=spread).recommendations.to_pylist()[0]
    assert row["action_type"] == "time_shift"
    sd = (row["est_carbon_delta_kg_upper"] - row["est_carbon_delta_kg"]) / Z90
    assert sd == pytest.approx(math.sqrt(0.5 * 2) * 0.05)


def test_confidence_falls_with_spread_with_the_method_and_with_few_runs() -> None:
    def confidence(sd: float = 0.01, method: str = "ridge+conformal", quality: str = "ok") -> float:
        p = problem(1)
        found = recommended(
            p,
            [{"quality": quality, "expected_count": 20.0}],
            carbon_sd=np.full_like(p.carbon, sd),
            methods=(method,) * 3,
        )
        return found.recommendations.to_pylist()[0]["confidence"]

    assert 0.99 < confidence() <= 1.0
    assert confidence(sd=0.5) < confidence(sd=0.1) < confidence()
    assert confidence(method="last known good") == pytest.approx(0.5 * confidence())
    assert confidence(method="something else") < confidence(method="last known good")
    assert confidence(quality="few_runs") == pytest.approx(0.8 * confidence())


def test_the_hash_binds_the_change_and_not_the_estimate() -> None:
    base = recommended(problem(1), [{}]).recommendations.to_pylist()[0]
    again = recommended(problem(1), [{}]).recommendations.to_pylist()[0]
    dearer = recommended(problem(1, data_gb=np.array([3.0])), [{}]).recommendations.to_pylist()[0]
    later = recommended(problem(1, start_hours=np.array([1.0])), [{}]).recommendations.to_pylist()[0]
    other_policy = recommended(problem(1), [{}], policy_version=2).recommendations.to_pylist()[0]
    assert base == again
    assert dearer["plan_hash"] == base["plan_hash"] and dearer["est_cost_delta_usd"] != base["est_cost_delta_usd"]
    assert len({base["plan_hash"], later["plan_hash"], other_policy["plan_hash"]}) == 3
    assert len({base["recommendation_id"], later["recommendation_id"], other_policy["recommendation_id"]}) == 3


def test_winners_curse_shrinks_the_claim() -> None:
    full = recommended(problem(1), [{}]).recommendations.to_pylist()[0]
    shrunk = recommended(problem(1), [{}], shrink={"region_shift": 0.6}).recommendations.to_pylist()[0]
    assert shrunk["est_carbon_delta_kg"] == pytest.approx(0.6 * full["est_carbon_delta_kg"])


def test_every_number_of_the_text_stands_in_the_row() -> None:
    p = problem(2, data_gb=np.array([1.0, 0.0]), start_hours=np.array([2.0, 7.0]))
    static = (np.array([2, 2]), np.array([0, 0]))
    row = recommended(p, [{}, {}], static=static).recommendations.to_pylist()[0]
    assert row["static_carbon_delta_kg"] == pytest.approx(2 * (0.3 - 0.4))
    text = re.sub(r"(us|eu)-\w+-\d", "", row["rationale_text"])
    numbers = [float(x.replace(",", "")) for x in re.findall(r"[-+]?\d[\d,]*\.?\d*", text)]
    values = [v for v in row.values() if isinstance(v, float)] + [90, 2, 2]
    for number in numbers:
        assert any(
            abs(number - v) <= 0.5 * 10 ** -(len(str(number).split(".")[1]) if number % 1 else 0) for v in values
        )


def test_a_proposal_has_what_its_event_must_carry() -> None:
    payload = proposals(recommended(problem(1), [{}]).recommendations, "planner")[0]
    for name, (valid, wanted) in PROPOSAL_FIELDS.items():
        assert valid(payload.get(name)), f"{name} must be {wanted}"
    json.dumps(payload, allow_nan=False)


@pytest.mark.parametrize(
    ("kg", "usd", "found"), [(-2.0, 0.1, 50.0), (-2.0, -5.0, 0.0), (0.0, 1.0, None), (1.0, -1.0, None)]
)
def test_break_even(kg: float, usd: float, found: float | None) -> None:
    assert break_even_usd_per_t(kg, usd) == (None if found is None else pytest.approx(found))

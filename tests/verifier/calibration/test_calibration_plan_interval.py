"""Plan intervals: conformal ratios by action type, and how promised intervals did. The winner's-curse world."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.agents.verifier.calibration import (
    calibrated_intervals,
    plan_interval_calibration,
    plan_interval_report,
    score_selection,
)
from sust_dagster.agents.verifier.calibration.plan_interval import CALIBRATED, PLAN_CALIBRATION, PLAN_REPORT
from sust_dagster.agents.verifier.calibration.selection import coverage, decisions
from sust_dagster.agents.verifier.causal.inputs import CheckInputError

DAY = datetime(2026, 3, 2, tzinfo=UTC)
FLOAT = pa.float64()


def outcomes(claimed, measured, action: str | list[str] | list[str | None] = "time_shift") -> pa.Table:
    n = len(claimed)
    return pa.table(
        {
            "action_type": pa.array([action] * n if isinstance(action, str) else action, pa.string()),
            "claimed_delta_kg": pa.array(claimed, FLOAT),
            "measured_carbon_delta_kg": pa.array(measured, FLOAT),
        }
    )


def claims(claimed, action: str | list[str] | list[str | None] = "time_shift") -> pa.Table:
    return outcomes(claimed, [None] * len(claimed), action).drop_columns(["measured_carbon_delta_kg"])


def only(table: pa.Table) -> dict:
    (row,) = table.to_pylist()
    return row


# -- calibration ------------------------------------------------------------------------------------


def test_eighteen_outcomes_are_too_few_and_nineteen_give_the_extremes():
    ratios = [0.5 + 0.05 * i for i in range(19)]
    few = only(plan_interval_calibration(outcomes([-2.0] * 18, [-2.0 * r for r in ratios[:18]])))
    assert (few["ratio_lower"], few["ratio_upper"]) == (None, None)
    assert few["reason"] == "too_few_outcomes: 18, needs 19"
    enough = only(plan_interval_calibration(outcomes([-2.0] * 19, [-2.0 * r for r in ratios])))
    assert (enough["ratio_lower"], enough["ratio_upper"]) == pytest.approx((ratios[0], ratios[-1]))
    assert enough["reason"] is None


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0.01, 100)), min_size=19, max_size=150))
def test_ratios_are_the_signed_quantiles_of_the_logarithm(pairs):
    claimed, measured = np.array(pairs).T
    found = only(plan_interval_calibration(outcomes(-claimed, -measured)))
    logs = np.sort(np.log(measured / claimed))
    n = len(logs)
    upper = math.ceil(round((n + 1) * 0.95, 9))
    assert math.log(found["ratio_upper"]) == pytest.approx(logs[upper - 1], abs=1e-12)
    assert math.log(found["ratio_lower"]) == pytest.approx(logs[n - upper], abs=1e-12)


def test_a_saving_that_became_a_loss_stands_below_all_that_saved():
    found = only(plan_interval_calibration(outcomes([-1.0] * 19, [0.4, *[-0.9] * 18])))
    assert (found["ratio_lower"], found["ratio_upper"]) == (-0.4, 0.9)
    held = only(
        calibrated_intervals(claims([-10.0]), plan_interval_calibration(outcomes([-1.0] * 19, [0.4, *[-0.9] * 18])))
    )
    assert (held["delta_kg_lower"], held["delta_kg_upper"]) == pytest.approx((-9.0, 4.0))


def test_what_can_not_be_scored_is_counted_and_left_out():
    claimed = [-1.0] * 19 + [None, 0.0, 0.5, -1.0]
    measured = [-1.0] * 19 + [-1.0, -1.0, -1.0, None]
    found = only(plan_interval_calibration(outcomes(claimed, measured)))
    assert (found["outcomes"], found["no_saving_claimed"], found["not_verified"]) == (19, 3, 1)
    assert found["ratio_lower"] == found["ratio_upper"] == 1.0


def test_claims_without_an_interval_say_why():
    made = plan_interval_calibration(outcomes([-1.0] * 25, [-1.0] * 25, ["time_shift"] * 20 + ["right_size"] * 5))
    held = calibrated_intervals(
        claims([-2.0, None, 0.0, 1.0, -2.0, -2.0], ["time_shift"] * 4 + ["right_size", "spot_convert"]), made
    )
    assert held.schema == CALIBRATED and made.schema == PLAN_CALIBRATION
    assert held["reason"].to_pylist() == [
        None, "no_claim", "no_saving_claimed", "no_saving_claimed", "too_few_outcomes: 5, needs 19", "no_outcomes",
    ]  # fmt: skip
    assert held["delta_kg_lower"].to_pylist() == [-2.0, None, None, None, None, None]
    assert held["delta_kg_upper"].null_count == 5


def test_tables_that_break_the_contract_are_named():
    with pytest.raises(CheckInputError, match="no column action_type"):
        plan_interval_calibration(outcomes([-1.0], [-1.0]).drop_columns(["action_type"]))
    with pytest.raises(CheckInputError, match="column action_type, row 1 is null"):
        plan_interval_calibration(outcomes([-1.0] * 2, [-1.0] * 2, ["time_shift", None]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        plan_interval_calibration(outcomes([-1.0], [-1.0]), level=1.0)


def test_action_types_are_calibrated_apart():
    """Negative control: one interval for both types is too narrow for the wilder one."""

    def drawn(seed: int, n: int) -> pa.Table:
        random = np.random.default_rng(seed)
        kind = np.array(["region_shift"] * (3 * n) + ["time_shift"] * n)
        spread = np.where(kind == "time_shift", 0.6, 0.1)
        claimed = -np.exp(random.standard_normal(4 * n))
        return outcomes(claimed, claimed * np.exp(spread * random.standard_normal(4 * n)), kind.tolist())

    calibration, test = drawn(1, 1500), drawn(2, 1500)
    wild = test.filter(pc.equal(test["action_type"], "time_shift"))
    sd = math.sqrt(0.09 / 1502 + 0.09 / 1500)
    assert coverage(wild, plan_interval_calibration(calibration)) == pytest.approx(0.9, abs=3.29 * sd)
    pooled = calibration.set_column(0, "action_type", pa.repeat("time_shift", calibration.num_rows))
    assert coverage(wild, plan_interval_calibration(pooled)) < 0.7


# -- the winner's curse -----------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "published"), [(0.05, 0.884), (0.15, 0.759), (0.25, 0.634)])
def test_executed_outcomes_calibrate_what_is_executed_and_all_forecasts_do_not(error, published):
    n_cal, n_test = 500, 5000
    _, executed = decisions(error, n_cal, 7, "calibration")
    forecasts, _ = decisions(error, n_test, 7, "forecasts")
    _, tested = decisions(error, n_test, 7, "test")
    sd = math.sqrt(0.09 / (n_cal + 2) + 0.09 / n_test)
    assert coverage(tested, plan_interval_calibration(executed)) == pytest.approx(0.9, abs=3.29 * sd)
    cursed = coverage(tested, plan_interval_calibration(forecasts))
    assert cursed == pytest.approx(published, abs=0.02)
    if error >= 0.15:
        assert cursed < 0.9 - 3.29 * sd - 0.05


def test_all_forecasts_calibrate_all_forecasts():
    """Negative control of the world: without the picking nothing is wrong with them."""
    forecasts, _ = decisions(0.25, 1000, 7, "calibration")
    others, _ = decisions(0.25, 1000, 7, "test")
    assert coverage(others, plan_interval_calibration(forecasts)) == pytest.approx(0.9, abs=0.01)


def test_the_selection_line_says_what_it_found():
    line = score_selection(0.15, 2000, 3)
    assert line.passed and line.claimed_over_measured > 1.1
    assert line.all_forecasts_share < line.band_lower <= line.executed_share <= line.band_upper
    assert score_selection(0.15, 2000, 3) == line


# -- how promised intervals did ---------------------------------------------------------------------


def promised(inside: list[bool], per_day: int = 1, action: str = "time_shift", claimed: float = -1.2) -> pa.Table:
    n = len(inside)
    return pa.table(
        {
            "action_type": pa.repeat(action, n),
            "executed_on": pa.array(
                [DAY + timedelta(days=i // per_day) for i in range(n)], pa.timestamp("us", tz="UTC")
            ),
            "claimed_delta_kg": pa.array([claimed] * n, FLOAT),
            "plan_ci_lower": pa.array([-2.0] * n, FLOAT),
            "plan_ci_upper": pa.array([-1.0] * n, FLOAT),
            # An end belongs to the interval.
            "measured_carbon_delta_kg": pa.array([-1.0 if i else -0.5 for i in inside], FLOAT),
        }
    )


def report_of(table: pa.Table, action: str = "time_shift") -> dict:
    found = plan_interval_report(table)
    assert found.schema == PLAN_REPORT
    return next(r for r in found.to_pylist() if r["action_type"] == action)


def test_the_report_counts_what_is_inside():
    row = report_of(promised([True] * 180 + [False] * 20))
    assert (row["outcomes"], row["settled"], row["days"], row["inside_share"]) == (200, 200, 200, 0.9)
    assert row["share_lower"] < 0.9 < row["share_upper"]
    assert row["passed"] is True and row["reason"] is None
    assert row["claimed_over_measured"] == pytest.approx(1.2 / (0.9 + 0.05))


@pytest.mark.parametrize(("inside", "reason"), [(0.5, "too_narrow"), (0.998, "too_wide")])
def test_intervals_that_are_off_are_found_out(inside, reason):
    n = 500
    row = report_of(promised([i < inside * n for i in range(n)]))
    assert row["passed"] is False and row["reason"] == reason


def test_outcomes_of_a_day_that_go_together_count_as_days():
    together = [bool((i // 20) % 10) for i in range(20 * 40)]
    row = report_of(promised(together, per_day=20))
    assert (row["settled"], row["days"]) == (800, 40)
    assert row["effective"] == pytest.approx(40, rel=0.05)
    mixed = [bool(i % 10) for i in range(800)]
    assert report_of(promised(mixed, per_day=20))["effective"] == 800
    assert report_of(promised(together, per_day=1))["effective"] == pytest.approx(800)


def test_few_days_give_no_verdict():
    row = report_of(promised([True] * 95 + [False] * 5, per_day=20))
    assert (row["days"], row["effective"]) == (5, 5)
    assert row["passed"] is None and row["reason"] == "too_few: 5 effective outcomes, needs 20"


def test_what_is_not_settled_is_no_part_and_a_mixture_has_no_verdict():
    good = promised([True] * 90 + [False] * 10)
    open_ = promised([True] * 7, action="region_shift").set_column(
        5, "measured_carbon_delta_kg", pa.nulls(7, FLOAT)
    )  # fmt: skip
    table = pa.concat_tables([good, open_])
    rows = {r["action_type"]: r for r in plan_interval_report(table).to_pylist()}
    assert list(rows) == ["region_shift", "time_shift", "all"]
    assert rows["region_shift"]["reason"] == "not_settled" and rows["region_shift"]["inside_share"] is None
    assert (rows["all"]["outcomes"], rows["all"]["settled"]) == (107, 100)
    assert rows["all"]["passed"] is None and rows["all"]["reason"] == "a_mixture"


def test_an_empty_report_says_so():
    row = report_of(promised([]), "all")
    assert (row["outcomes"], row["settled"], row["reason"]) == (0, 0, "not_settled")
    assert row["claimed_over_measured"] is None


def test_no_ratio_where_nothing_was_saved():
    table = promised([True] * 30).set_column(5, "measured_carbon_delta_kg", pa.array([0.5] * 30, FLOAT))
    assert report_of(table)["claimed_over_measured"] is None


def test_an_outcome_without_a_day_is_an_error():
    table = promised([True] * 3)
    table = table.set_column(1, "executed_on", pa.array([DAY, None, DAY], pa.timestamp("us", tz="UTC")))
    with pytest.raises(CheckInputError, match="column executed_on, row 1 is null"):
        plan_interval_report(table)

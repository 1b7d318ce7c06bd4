"""A day's plan as a whole: what each missing or bad input leads to, and that nothing is guessed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from plans import DAY, upcoming

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.planner.daily import DayPlan, DayRules, Surroundings, plan_day, usable_forecast
from sust_dagster.agents.planner.options import OptionRules
from sust_dagster.agents.planner.problem import Limits, Objective
from sust_dagster.agents.planner.triggers import Trigger, triggers
from sust_dagster.agents.planner.windows import Rules
from sust_dagster.world.schemas import GRID_FORECAST

ISSUED = DAY + timedelta(hours=3)
HOME, CLEAN, OTHER = "us-east-1", "eu-north-1", "eu-west-1"
STAMP = pa.timestamp("us", tz="UTC")


def forecast(
    levels: dict[str, float] | None = None, *, issued: datetime = ISSUED, hours: int = 72, **columns: Any
) -> pa.Table:
    """A flat forecast of three regions; ``columns`` replace whole columns."""
    levels = levels or {HOME: 0.4, CLEAN: 0.05, OTHER: 0.3}
    n = hours * len(levels)
    value = np.repeat(list(levels.values()), hours)
    data: dict[str, Any] = {
        "issued_at": pa.array([issued] * n, STAMP),
        "region": np.repeat(list(levels), hours),
        "ts": pa.array([issued + timedelta(hours=h) for _ in levels for h in range(hours)], STAMP),
        "intensity_kgco2_kwh": value,
        "intensity_p05": 0.9 * value,
        "intensity_p10": 0.92 * value,
        "intensity_p50": value,
        "intensity_p90": 1.08 * value,
        "intensity_p95": 1.1 * value,
        "method": ["ridge+conformal"] * n,
        "source_version": ["v1"] * n,
        "quality": ["ok"] * n,
    }
    return GRID_FORECAST.conform(pa.table({**data, **columns}))


def groups(*rows: dict[str, Any]) -> pa.Table:
    plain = {"requested_start": DAY + timedelta(hours=9), "data_gb": 0.1, "it_kw": 0.02, "cost_usd": 0.5}
    return upcoming([{**plain, **r} for r in rows or ({},)])


def around(**changes: Any) -> Surroundings:
    return replace(
        Surroundings(
            regions=reference.regions().select(["region", "provider", "continent"]),
            factors=FactorSet.from_table(reference.shipped_factors()),
            method="simple/v1",
        ),
        **changes,
    )


def rules(**changes: Any) -> DayRules:
    plain = DayRules(Objective.min_carbon(), 75.0, 1, windows=Rules(strict_latency=True))
    return replace(plain, **changes)


def planned(jobs: pa.Table, forecasts: pa.Table | None = None, **changes: Any) -> DayPlan:
    world = changes.pop("world", around())
    return plan_day(jobs, forecast() if forecasts is None else forecasts, world, rules(**changes), DAY, ISSUED)


def only(plan: DayPlan) -> dict[str, Any]:
    rows = plan.recommended.recommendations.to_pylist()
    assert len(rows) == 1
    return rows[0]


def test_work_moves_to_the_clean_region_and_the_figures_are_those_of_the_accounting_method() -> None:
    row = only(planned(groups({"expected_count": 3.0})))
    pue = FactorSet.from_table(reference.shipped_factors()).get("pue", "simple/v1").value
    assert row["action_type"] == "region_shift"
    assert row["kg_before"] == pytest.approx(3 * 0.02 * pue * 0.4)
    assert row["est_carbon_delta_kg"] == pytest.approx(3 * 0.02 * pue * (0.05 - 0.4))
    assert row["est_cost_delta_usd"] == pytest.approx(3 * 0.1 * 0.02)
    assert row["forecast_method"] == "ridge+conformal"


def test_the_same_inputs_give_the_same_bytes() -> None:
    one, two = (planned(groups({}, {"workload_id": "report"})) for _ in range(2))
    assert one.recommended.recommendations.equals(two.recommended.recommendations)
    assert one.recommended.placements.equals(two.recommended.placements)


def test_without_a_forecast_nothing_moves_and_it_is_said() -> None:
    plan = planned(groups(), GRID_FORECAST.empty())
    assert plan.recommended.recommendations.num_rows == 0
    assert plan.reasons == {"no_forecast": 1}


def test_a_stale_forecast_is_used_widened_and_trusted_less() -> None:
    fresh = only(planned(groups()))
    old = forecast(issued=ISSUED - timedelta(hours=24), hours=96)
    stale = only(planned(groups(), old))
    assert stale["forecast_method"] == "last known good, ridge+conformal"
    assert stale["confidence"] < 0.6 * fresh["confidence"]
    width = stale["est_carbon_delta_kg_upper"] - stale["est_carbon_delta_kg_lower"]
    assert width > fresh["est_carbon_delta_kg_upper"] - fresh["est_carbon_delta_kg_lower"]
    too_old = planned(groups(), forecast(issued=ISSUED - timedelta(hours=37), hours=120))
    assert too_old.reasons == {"no_forecast": 1}


def test_a_forecast_of_the_future_is_not_looked_at() -> None:
    later = forecast({HOME: 0.4, CLEAN: 0.5}, issued=ISSUED + timedelta(hours=1))
    assert usable_forecast(pa.concat_tables([forecast(), later]), ISSUED, 36).equals(
        usable_forecast(forecast(), ISSUED, 36)
    )
    assert usable_forecast(later, ISSUED, 36).num_rows == 0


def test_each_region_counts_by_its_own_latest_forecast() -> None:
    older = forecast({HOME: 0.4, CLEAN: 0.05}, issued=ISSUED - timedelta(hours=24), hours=96)
    newer = forecast({HOME: 0.35})
    found = usable_forecast(pa.concat_tables([older, newer]), ISSUED, 36)
    issued = {r["region"]: r["issued_at"] for r in found.to_pylist()}
    assert issued == {HOME: ISSUED, CLEAN: ISSUED - timedelta(hours=24)}


def test_a_region_with_a_gap_in_its_forecast_takes_no_run_that_would_touch_it() -> None:
    value = forecast().column("intensity_kgco2_kwh").to_numpy().copy()
    region = np.array(forecast().column("region").to_pylist())
    value[region == CLEAN] = np.nan
    plan = planned(groups(), forecast(intensity_kgco2_kwh=value))
    assert plan.recommended.placements.column("region").to_pylist() == [OTHER]
    value[region == HOME] = np.nan
    blind = planned(groups(), forecast(intensity_kgco2_kwh=value))
    assert blind.recommended.recommendations.num_rows == 0
    assert blind.reasons == {"no_grid_hours": 1}


@pytest.mark.parametrize("flag", ["constant", "estimated"])
def test_a_constant_or_estimated_series_earns_no_time_shift(flag: str) -> None:
    value = forecast({HOME: 0.4}).column("intensity_kgco2_kwh").to_numpy().copy()
    value[20:] = 0.1
    jobs = groups({"allowed_regions": HOME})
    moving = only(planned(jobs, forecast({HOME: 0.4}, intensity_kgco2_kwh=value)))
    assert moving["action_type"] == "time_shift", "the control: a series that is known to vary"
    flagged = planned(jobs, forecast({HOME: 0.4}, intensity_kgco2_kwh=value, quality=["ok;" + flag] * 72))
    assert flagged.recommended.recommendations.num_rows == 0


def test_missing_energy_cost_data_size_and_an_unknown_category_each_have_their_outcome() -> None:
    plan = planned(
        groups(
            {"workload_id": "dark", "it_kw": None},
            {"workload_id": "free", "cost_usd": None},
            {"workload_id": "heavy", "data_gb": None},
            {"workload_id": "odd", "category": "whenever"},
        )
    )
    assert plan.recommended.recommendations.num_rows == 0
    assert plan.reasons == {"no_energy": 1, "no_cost": 1, "unknown_category": 1, "best_as_it_is": 1}


def test_price_levels_scale_what_a_run_costs_at_home() -> None:
    levels = pa.table({"region": [HOME, CLEAN, OTHER], "usd_per_vcpu_hour": [0.05, 0.06, 0.05]})
    row = only(planned(groups(), world=around(prices=levels, prices_are_levels=True)))
    assert row["est_cost_delta_usd"] == pytest.approx(0.5 * (0.06 / 0.05 - 1) + 0.1 * 0.02)
    unpriced = levels.filter(pc.not_equal(levels.column("region"), CLEAN))
    plan = planned(groups(), world=around(prices=unpriced, prices_are_levels=True))
    assert plan.recommended.placements.column("region").to_pylist() == [OTHER], "no price, no candidate"


def test_a_region_that_is_out_takes_nothing_for_some_hours() -> None:
    soon, later = {"requested_start": ISSUED + timedelta(hours=1)}, {"requested_start": ISSUED + timedelta(hours=7)}
    urgent = {"category": "balanced", "max_delay_hours": 0.0}
    jobs = groups({**soon, **urgent}, {**later, **urgent, "workload_id": "report"})
    plan = planned(jobs, world=around(closed=(CLEAN,)))
    placed = {r["workload_id"]: r["region"] for r in plan.recommended.placements.to_pylist()}
    assert placed == {"build": OTHER, "report": CLEAN}


def test_limits_are_kept_and_the_replay_agrees() -> None:
    jobs = groups(*({"workload_id": f"w{k}", "data_gb": 1.0, "it_kw": 0.02 + 0.001 * k} for k in range(8)))
    free = planned(jobs)
    limited = planned(jobs, limits=Limits(egress_budget_usd=0.05))
    assert free.recommended.placements.num_rows == 8
    assert sum(limited.recommended.placements.column("egress_usd").to_pylist()) <= 0.05
    assert 0 < limited.recommended.placements.num_rows < 8
    assert limited.violations.num_rows == free.violations.num_rows == 0


def test_what_is_made_smaller_stays_where_it_is_and_what_it_made_room_for_keeps_every_limit() -> None:
    """Half the size saves more than the cleaner region: one action, and its row says home, at once."""
    small = {"utilisation_p95": 0.2, "instance_type": "c5.xlarge", "workload_id": "small"}
    options = OptionRules(halvable=frozenset({"c5.xlarge"}))
    made = planned(groups(small), forecast({HOME: 0.4, OTHER: 0.38}), options=options)
    assert only(made)["action_type"] == "right_size"
    row = made.recommended.placements.to_pylist()[0]
    assert (row["region"], row["start"], row["vcpus_scale"]) == (HOME, row["requested_start"], 0.5)
    assert row["kg_after"] == pytest.approx(row["kg_before"] / 2)


def test_a_move_into_a_place_that_is_not_left_after_all_is_taken_back() -> None:
    """The plan sends ``small`` to the clean region and ``late`` into its place; made smaller, ``small`` stays."""
    options = OptionRules(halvable=frozenset({"c5.xlarge"}))
    small = {
        "utilisation_p95": 0.2, "instance_type": "c5.xlarge", "workload_id": "small", "region": OTHER, "it_kw": 0.04,
        "max_delay_hours": 0.0,
    }  # fmt: skip
    late = {"workload_id": "late", "max_delay_hours": 0.0}
    levels = forecast({HOME: 0.4, OTHER: 0.38, CLEAN: 0.25})
    world = around(capacity=pa.table({"region": [HOME, OTHER, CLEAN], "vcpus": [9.0, 5.0, 5.0]}))
    moved = planned(groups(small, late), levels, world=world)
    assert {r["workload_id"]: r["region"] for r in moved.recommended.placements.to_pylist()} == {
        "small": CLEAN, "late": OTHER,
    }  # fmt: skip
    both = planned(groups(small, late), levels, options=options, world=world)
    assert both.violations.num_rows == 0
    assert {r["workload_id"]: r["region"] for r in both.recommended.placements.to_pylist()} == {"small": OTHER}
    assert both.reasons == {"capacity": 1}


def test_the_worst_case_keeps_what_does_not_survive_it_at_home() -> None:
    value = forecast({HOME: 0.4, OTHER: 0.38}).column("intensity_kgco2_kwh").to_numpy()
    close = forecast({HOME: 0.4, OTHER: 0.38}, intensity_p05=0.8 * value, intensity_p95=1.2 * value)
    assert only(planned(groups(), close))["action_type"] == "region_shift"
    careful = planned(groups(), close, worst_case=True)
    assert careful.recommended.recommendations.num_rows == 0
    assert careful.reasons == {"not_robust": 1}
    assert only(planned(groups(), worst_case=True))["action_type"] == "region_shift", "a large saving survives"


def ledger(*rows: tuple[str, int, str | None]) -> pa.Table:
    """Workload, hours before ISSUED, anomaly."""
    return pa.table(
        {
            "workload_id": pa.array([r[0] for r in rows], pa.string()),
            "started_at": pa.array([ISSUED - timedelta(hours=r[1]) for r in rows], STAMP),
            "anomaly": pa.array([r[2] for r in rows], pa.string()),
        }
    )


def test_new_workloads_and_cost_spikes_are_triggers() -> None:
    rows = ledger(
        ("old", 50, None), ("old", 1, "unknown_region;cost_spike"), ("new", 2, None), ("past", 9, "cost_spike")
    )
    found = triggers(rows, ISSUED - timedelta(hours=3), ISSUED)
    assert found == [Trigger("new", "new_workload"), Trigger("old", "cost_spike")]
    assert triggers(rows, ISSUED - timedelta(hours=1), ISSUED) == [Trigger("old", "cost_spike")]


def test_a_ledger_without_a_past_knows_nothing_new() -> None:
    assert triggers(ledger(("new", 2, None)), ISSUED - timedelta(hours=3), ISSUED) == []
    assert triggers(ledger(), ISSUED - timedelta(hours=3), ISSUED) == []

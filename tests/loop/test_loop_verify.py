"""The loop's fifth step: what was executed is verified from settled data, and the twin world says the same."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from loop_worlds import bars, lake_of

from sust_dagster.agents.verifier.portfolio import portfolio_of
from sust_dagster.connectors.sources import fake_cloud, untouched_cloud
from sust_dagster.faces.demo import DemoResult, run_demo
from sust_dagster.faces.runs import open_instance
from sust_dagster.orchestration.assets.verify import checked
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import UNSETTLED, VerificationDesk, days_to_verify

DAYS, SEED = 6, 12


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("verify") / "demo", DAYS, SEED, bars())


@pytest.fixture(scope="module")
def outcomes(demo: DemoResult) -> pd.DataFrame:
    return lake_of(demo.project).read("outcomes").to_pandas()


def events(demo: DemoResult) -> list[dict]:
    with ProjectResource(root=str(demo.project.root)) as resource:
        return resource.handle("verifier").read_books("decision_events").to_pylist()


def test_every_executed_change_has_one_outcome(demo: DemoResult, outcomes: pd.DataFrame) -> None:
    executed = {e["recommendation_id"] for e in events(demo) if e["to_status"] == "executed"}
    assert len(executed) > 20
    assert sorted(outcomes["recommendation_id"]) == sorted(executed)
    assert demo.scorecard["outcomes"] == len(executed) == demo.scorecard["executed"]


def test_what_has_not_settled_has_no_number(outcomes: pd.DataFrame) -> None:
    """Of six days the last of execution can not be over; the first is."""
    late = outcomes["executed_on"] > pd.Timestamp("2026-01-03", tz="UTC")
    assert late.any() and not late.all()
    assert (outcomes.loc[late, "verification_status"] == "disqualified").all()
    assert outcomes.loc[late, "reason"].str.contains(UNSETTLED, regex=False).all()
    assert outcomes.loc[late, "measured_carbon_delta_kg"].isna().all()
    first = outcomes[outcomes["executed_on"] == pd.Timestamp("2026-01-01", tz="UTC")]
    assert not first["reason"].fillna("").str.contains(UNSETTLED, regex=False).any()
    assert (first["verification_status"] != "disqualified").any()


def test_the_gross_saving_is_the_difference_of_the_twin_worlds(demo: DemoResult, outcomes: pd.DataFrame) -> None:
    """By the stated model: the counterfactual is what the cloud that nobody changed would have stated, run by run, over
    the usage ratio that the held-out runs gave (in truth it is 1)."""
    start, end = demo.project.start, demo.project.last_hour_end()
    stated = {
        name: dict(zip(*(t.column(c).to_pylist() for c in ("job_id", "stated_kg")), strict=True))
        for name, t in (
            ("with", fake_cloud(demo.project).true_emissions(start, end)),
            ("without", untouched_cloud(demo.project).true_emissions(start, end)),
        )
    }
    with ProjectResource(root=str(demo.project.root)) as resource:
        day = VerificationDesk(resource).verify(start, end, end)
    assert day is not None
    ratio = dict(zip(*(day.comparison.ratios.column(c).to_pylist() for c in ("pool", "ratio")), strict=True))
    pool = dict(zip(*(day.comparison.pools.column(c).to_pylist() for c in ("outcome_id", "pool")), strict=True))
    runs = day.moved.runs.to_pandas().groupby("outcome_id")["run_id"].apply(list)
    known = outcomes[outcomes["measured_carbon_delta_kg"].notna()]
    assert len(known) > 10
    for row in known.itertuples():
        before = math.fsum(stated["without"][r] for r in runs[row.outcome_id])
        usage = ratio[pool[row.outcome_id]]
        assert row.counterfactual_carbon_kg * usage == pytest.approx(before, rel=1e-6), row.outcome_id
        after = math.fsum(stated["with"][r] for r in runs[row.outcome_id])
        assert row.actual_carbon_kg == pytest.approx(after, rel=1e-6)
        parts = row.spatial_savings_kg + row.temporal_savings_kg + row.energy_savings_kg
        assert parts - row.leakage_kg == pytest.approx(-row.measured_carbon_delta_kg, abs=1e-12)


def test_credits_add_up_and_stay_below_what_was_saved(demo: DemoResult, outcomes: pd.DataFrame) -> None:
    rows = lake_of(demo.project).read("outcomes")
    total = 0.0
    for team in sorted(set(outcomes["team_id"])):
        own = rows.filter(pc.equal(rows.column("team_id"), team))
        whole = portfolio_of(own)
        credited = math.fsum(own.column("credited_kg").drop_null().to_pylist())
        assert (whole is None) == (own.column("credited_kg").null_count == own.num_rows)
        if whole is not None:
            assert credited == pytest.approx(whole.lower_kg, abs=1e-9 * max(1.0, whole.savings_kg))
            assert credited < whole.savings_kg
        total += credited
    card = demo.scorecard
    assert card["credited_kg"] == pytest.approx(total)
    assert card["verified_ci90_lower_kg"] < card["verified_kg"] < card["verified_ci90_upper_kg"]
    assert card["credited_kg"] <= card["verified_kg"]


def test_decisions_are_verified_once_their_outcome_is_known(demo: DemoResult, outcomes: pd.DataFrame) -> None:
    told = {e["recommendation_id"]: e for e in events(demo) if e["to_status"] == "verified"}
    known = outcomes[~outcomes["reason"].fillna("").str.contains(UNSETTLED, regex=False)]
    assert sorted(told) == sorted(known["recommendation_id"])
    assert {e["agent"] for e in told.values()} == {"verifier"}
    for row in known.itertuples():
        assert json.loads(told[row.recommendation_id]["payload"])["evidence_chain"] == row.evidence_chain


def test_the_marts_say_the_same(demo: DemoResult, outcomes: pd.DataFrame) -> None:
    log = pq.read_table(demo.project.marts_root / "outcome_log.parquet")
    assert log.column_names == [
        "outcome_id", "decision_id", "recommendation_id", "measured_carbon_delta_kg", "counterfactual_carbon_kg",
        "actual_carbon_kg", "carbon_ci_lower", "carbon_ci_upper", "measured_cost_delta_usd", "sla_compliant",
        "sla_detail", "verification_method", "evidence_chain", "verified_at", "verification_status",
    ]  # fmt: skip
    known = outcomes[outcomes["measured_carbon_delta_kg"].notna()]
    assert sorted(log["outcome_id"].to_pylist()) == sorted(known["outcome_id"])
    teams = pq.read_table(demo.project.marts_root / "savings_by_team.parquet").to_pandas()
    rows = lake_of(demo.project).read("outcomes")
    for team in teams.itertuples():
        whole = portfolio_of(rows.filter(pc.equal(rows.column("team_id"), team.team_id)))
        saved, lower = (0.0, 0.0) if whole is None else (whole.savings_kg, whole.lower_kg)
        assert team.savings_kg == pytest.approx(saved)
        assert team.savings_ci90_lower_kg == pytest.approx(lower)
    assert teams["outcomes"].sum() == len(outcomes)


def test_promises_and_money_of_each_outcome(outcomes: pd.DataFrame) -> None:
    known = outcomes[outcomes["measured_carbon_delta_kg"].notna()]
    assert known["sla_compliant"].all()
    assert known["measured_cost_delta_usd"].notna().all()
    moved = known[known["leakage_kg"] > 0]
    assert len(moved) and (moved["measured_cost_delta_usd"] != 0).all()


def test_the_command_verifies_again_and_changes_nothing(demo: DemoResult) -> None:
    lake = lake_of(demo.project)
    before, version = lake.read("outcomes"), lake.version("outcomes")
    ran = subprocess.run(
        [sys.executable, "-m", "sust_dagster.cli", "--project", str(demo.project.root), "verify", "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert found == {k: demo.scorecard[k] for k in found}
    assert lake.version("outcomes") == version
    assert lake.read("outcomes").equals(before)


def test_each_check_of_the_outcomes_has_a_fault_that_fails_it(demo: DemoResult) -> None:
    start, end = demo.project.start, demo.project.last_hour_end()
    with ProjectResource(root=str(demo.project.root)) as resource:
        day = VerificationDesk(resource).verify(start, end, end)
        rows = lake_of(demo.project).read("outcomes")

        def failed(table: pa.Table) -> set[str | None]:
            return {r.check_name for r in checked(resource, table, day) if not r.passed}

        assert failed(rows) == set()
        at = rows.column_names.index("credited_kg")
        more = pc.multiply(rows.column("credited_kg"), 1 + 1e-6)
        assert failed(rows.set_column(at, "credited_kg", more)) == {"credits_add_up_to_the_bound"}
        kept = pc.is_null(rows.column("credited_kg"))
        assert "every_execution_has_an_outcome" in failed(rows.filter(pc.invert(kept)))
        assert "every_execution_has_an_outcome" in failed(pa.concat_tables([rows, rows.slice(0, 1)]))
        at = rows.column_names.index("evidence_chain")
        other = pa.array(["0" * 64] * rows.num_rows)
        assert failed(rows.set_column(at, "evidence_chain", other)) == {"evidence_is_there"}
        bundle = demo.project.evidence_root / f"{rows.column('evidence_chain')[0]}.json"
        held = bundle.read_bytes()
        try:
            bundle.write_bytes(held.replace(b'"sust-evidence/v2"', b'"sust-evidence/v3"'))
            assert failed(rows) == {"evidence_is_there"}
        finally:
            bundle.write_bytes(held)
        assert failed(rows) == set()
        # A group that was to stay was moved: said of the comparison, and nothing stops for it.
        balance = day.comparison.balance.to_pylist()[0] | {"reason": "holdout_moved", "moved_although_held_out": 1}
        moved = pa.Table.from_pylist([balance], day.comparison.balance.schema)
        told = list(checked(resource, rows, replace(day, comparison=replace(day.comparison, balance=moved))))
        assert [(r.check_name, r.severity.name) for r in told if not r.passed] == [("the_draw_was_obeyed", "WARN")]


@pytest.mark.slow
def test_a_longer_demo_verifies_what_had_not_settled(tmp_path: Path) -> None:
    short = run_demo(tmp_path / "demo", 4, SEED, bars())
    before = lake_of(short.project).read("outcomes").to_pandas().set_index("outcome_id")
    longer = run_demo(tmp_path / "demo", 5, SEED, bars())
    after = lake_of(longer.project).read("outcomes").to_pandas().set_index("outcome_id")
    assert set(before.index) <= set(after.index)
    waiting = before[before["reason"].fillna("").str.contains(UNSETTLED, regex=False)].index
    still = after.loc[waiting, "reason"].fillna("").str.contains(UNSETTLED, regex=False)
    assert still.sum() < len(waiting)
    with open_instance(longer.project) as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("outcomes"))) == 5


def test_the_days_a_verification_covers() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert days_to_verify(start + timedelta(days=3, hours=5), start) is None
    assert days_to_verify(start + timedelta(days=4, hours=5), start) == (start, start)
    # Whole months, because credit is a share of a month; and the month before while its last days may still settle.
    now = datetime(2026, 3, 2, 5, tzinfo=UTC)
    assert days_to_verify(now, start) == (datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 26, tzinfo=UTC))
    now = datetime(2026, 3, 20, 5, tzinfo=UTC)
    assert days_to_verify(now, start) == (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 16, tzinfo=UTC))

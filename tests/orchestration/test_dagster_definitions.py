"""What Dagster loads: names, one lineage graph, schedules, and a workspace that validates."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster_worlds import START, simulated

from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.partitions import hour_key, hourly
from sust_dagster.settings import Project

ROOT = Path(__file__).parents[2]

OUTSIDE = {"billing_records", "grid_signal"}
SENSE_AND_MODEL = {
    "activity_ledger", "quarantine", "ingest_counts", "grid_intensity", "emissions", "emission_factors",
}  # fmt: skip
DECIDE = {"grid_forecast", "upcoming_jobs", "recommendations", "placements", "decision_events"}
ACT = {"executions"}
VERIFY = {"outcomes"}
STAGING = {
    "stg_activity", "stg_emissions", "stg_grid_intensity", "stg_emission_factors", "int_job_emissions", "stg_outcomes",
    "stg_sensitivities",
}  # fmt: skip
MARTS = {
    "jobs", "emissions_by_region", "emissions_by_team", "emissions_by_service", "emissions_by_hour_of_day",
    "effective_cost", "activity_ledger", "emission_factors", "grid_intensity_timeseries", "outcome_log",
    "savings_by_team",
}  # fmt: skip
CHECKS = {
    "activity_ledger": {
        "row_conservation", "schema_pass_rate", "keys_are_unique", "no_negative_usage", "slices_fit_their_hour",
        "freshness",
    },
    "emission_factors": {"factors_usable", "factors_reviewed", "sources_agree"},
    "emissions": {
        "every_activity_accounted", "no_negative_energy", "bounds_contain_the_point", "not_estimated_is_named",
        "seed_table_totals",
    },
    "placements": {"plan_keeps_every_limit"},
    "outcomes": {
        "credits_add_up_to_the_bound",
        "every_execution_has_an_outcome",
        "evidence_is_there",
        "the_draw_was_obeyed",
    },
}  # fmt: skip
DBT_CHECKS_OF_THE_WHOLE = {
    "bounds_contain_the_point", "every_activity_is_accounted", "marts_add_up_to_the_emissions",
    "not_null_stg_emissions_activity_id", "unique_stg_emissions_activity_id",
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return simulated(tmp_path_factory.mktemp("project"), days=10)


@pytest.fixture(scope="module")
def defs(project: Project) -> dg.Definitions:
    return build_defs(project)


def names(keys: object) -> set[str]:
    return {k.to_user_string() for k in keys}  # type: ignore[attr-defined]


def test_the_assets_by_name(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    marts = {f"marts/{n}" for n in STAGING | MARTS}
    assert names(graph.get_all_asset_keys()) == OUTSIDE | SENSE_AND_MODEL | DECIDE | ACT | VERIFY | marts | {
        "lake_files"
    }
    assert names(graph.materializable_asset_keys) == SENSE_AND_MODEL | DECIDE | ACT | VERIFY | marts


def test_groups_are_the_steps_of_the_loop(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    groups: dict[str, set[str]] = {}
    for key in graph.get_all_asset_keys():
        groups.setdefault(graph.get(key).group_name or "", set()).add(key.to_user_string())
    assert set(groups) == {"cloud", "sense", "model", "decide", "act", "verify", "marts"}
    assert groups["cloud"] == OUTSIDE
    assert groups["sense"] == {"activity_ledger", "quarantine", "ingest_counts"}
    assert groups["model"] == {"grid_intensity", "emissions", "emission_factors"}
    assert groups["decide"] == DECIDE
    assert groups["act"] == ACT
    assert groups["verify"] == VERIFY


def test_the_checks_by_name(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert {a: c for a, c in found.items() if not a.startswith("marts/")} == CHECKS
    # dbt's own tests are checks of the marts; those over several tables hang on the staging table they guard.
    assert found["marts/stg_emissions"] == DBT_CHECKS_OF_THE_WHOLE
    assert "unique_jobs_job_id" in found["marts/jobs"]


def test_jobs_and_schedules_by_name(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    assert {j.name for j in defs.jobs or ()} == {
        "hourly_sense_and_model",
        "restate_emissions",
        "factors",
        "daily_marts",
        "compact_lake",
        "daily_plan",
        "review_decisions",
        "execute_approved",
        "daily_verify",
        "sign_log_checkpoint",
    }
    assert {s.name for s in defs.sensors or ()} == {
        "plan_on_demand", "review_decisions", "execute_approved", "verify_restated", "watch_the_loop"
    }  # fmt: skip
    assert {s.name for s in defs.schedules or ()} == {
        "hourly_sense_and_model", "reconcile_late_data", "daily_marts", "compact_lake", "daily_plan",
        "daily_execution", "daily_verification", "daily_checkpoint",
    }  # fmt: skip
    assert schedule(defs, "compact_lake").cron_schedule == "15 4 * * 0"
    job = defs.resolve_job_def("hourly_sense_and_model")
    assert names(job.asset_layer.selected_asset_keys) == SENSE_AND_MODEL - {"emission_factors"}
    for asset in SENSE_AND_MODEL - {"emission_factors"}:
        node = graph.get(dg.AssetKey(asset))
        assert node.backfill_policy == dg.BackfillPolicy.single_run()
        assert node.partitions_def == job.partitions_def


def test_without_marts_there_is_no_dbt(project: Project) -> None:
    defs = build_defs(project, with_marts=False)
    assert names(defs.resolve_asset_graph().get_all_asset_keys()) == OUTSIDE | SENSE_AND_MODEL | DECIDE | ACT | VERIFY
    assert "dbt" not in (defs.resources or {})
    dg.Definitions.validate_loadable(defs)


def test_the_definitions_load(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_a_resource_can_be_replaced(project: Project) -> None:
    other = dg.ResourceDefinition.hardcoded_resource("another")
    assert (build_defs(project, with_marts=False, resources={"lake": other}).resources or {})["lake"] is other


def test_lineage_is_one_graph_from_bill_to_mart(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    parents = {k.to_user_string(): names(graph.get(k).parent_keys) for k in graph.get_all_asset_keys()}
    assert parents["emissions"] == {"activity_ledger", "grid_intensity", "emission_factors"}
    assert parents["marts/stg_emissions"] == {"emissions"}
    assert parents["lake_files"] == {"activity_ledger", "quarantine", "grid_intensity", "emissions", "outcomes"}

    def ancestors(name: str) -> set[str]:
        return parents[name].union(*(ancestors(p) for p in parents[name])) if parents[name] else set()

    for mart in ("jobs", "emissions_by_region", "emissions_by_team", "emissions_by_service", "effective_cost"):
        assert {"emissions", "activity_ledger", *OUTSIDE} <= ancestors(f"marts/{mart}"), mart
    touched = {frozenset({c, p}) for c, ps in parents.items() for p in ps}
    alone = {n for n in parents if not any(n in edge for edge in touched)}
    assert not alone


def test_every_dbt_source_is_an_asset(defs: dg.Definitions) -> None:
    sources = yaml.safe_load((ROOT / "dbt_project" / "models" / "sources.yml").read_text())["sources"]
    keys = {"/".join(t["meta"]["dagster"]["asset_key"]) for s in sources for t in s["tables"]}
    graph = defs.resolve_asset_graph()
    assert keys <= names(graph.get_all_asset_keys())
    for key in keys:
        assert graph.get(dg.AssetKey(key)).description, key


def schedule(defs: dg.Definitions, name: str) -> dg.ScheduleDefinition:
    return defs.resolve_schedule_def(name)


def tick(defs: dg.Definitions, name: str, at: datetime) -> dg.ScheduleEvaluationContext | object:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
        )
        return schedule(defs, name).evaluate_tick(context)


def test_five_past_the_hour_runs_the_hour_before(defs: dg.Definitions) -> None:
    found = schedule(defs, "hourly_sense_and_model")
    assert (found.cron_schedule, found.execution_timezone) == ("5 * * * *", "UTC")
    data = tick(defs, found.name, datetime(2026, 1, 3, 5, 5, tzinfo=UTC))
    assert [r.partition_key for r in data.run_requests] == ["2026-01-03-04:00"]


def test_no_hour_is_asked_for_after_the_end_of_a_project(defs: dg.Definitions) -> None:
    data = tick(defs, "hourly_sense_and_model", datetime(2026, 1, 20, 5, 5, tzinfo=UTC))
    assert not [r for r in data.run_requests or () if r.partition_key and r.partition_key > "2026-01-10-23:00"]


def test_late_data_is_looked_for_over_three_days_in_one_run(defs: dg.Definitions) -> None:
    found = schedule(defs, "reconcile_late_data")
    assert (found.cron_schedule, found.execution_timezone) == ("30 2 * * *", "UTC")
    data = tick(defs, found.name, datetime(2026, 1, 8, 2, 30, tzinfo=UTC))
    (request,) = data.run_requests
    assert request.run_key == "2026-01-05T02-2026-01-08T02"
    wanted = {
        "dagster/asset_partition_range_start": "2026-01-05-02:00",
        "dagster/asset_partition_range_end": "2026-01-08-01:00",
        "sust/reason": "late or revised input",
    }
    assert wanted.items() <= request.tags.items()


@pytest.mark.parametrize(
    ("day", "first", "last"),
    [(2, "2026-01-01-00:00", "2026-01-02-01:00"), (12, "2026-01-09-02:00", "2026-01-10-23:00")],
)
def test_late_data_is_looked_for_within_the_project(defs: dg.Definitions, day: int, first: str, last: str) -> None:
    (request,) = tick(defs, "reconcile_late_data", datetime(2026, 1, day, 2, 30, tzinfo=UTC)).run_requests
    tags = request.tags
    found = tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]
    assert found == (first, last)


def test_late_data_is_not_looked_for_after_the_end(defs: dg.Definitions) -> None:
    data = tick(defs, "reconcile_late_data", datetime(2026, 2, 1, 2, 30, tzinfo=UTC))
    assert not data.run_requests
    assert "end at 2026-01-11" in data.skip_message


def test_the_range_asked_for_can_be_run(defs: dg.Definitions) -> None:
    """The tags name partitions that exist, so the launched run finds its window."""
    (request,) = tick(defs, "reconcile_late_data", datetime(2026, 1, 2, 2, 30, tzinfo=UTC)).run_requests
    partitions = defs.resolve_asset_graph().get(dg.AssetKey("emissions")).partitions_def
    keys = partitions.get_partition_keys_in_range(
        dg.PartitionKeyRange(
            request.tags["dagster/asset_partition_range_start"], request.tags["dagster/asset_partition_range_end"]
        )
    )
    assert len(keys) == 26


def test_the_marts_are_built_daily_after_late_data(defs: dg.Definitions) -> None:
    found = schedule(defs, "daily_marts")
    assert (found.cron_schedule, found.execution_timezone) == ("45 2 * * *", "UTC")
    data = tick(defs, found.name, datetime(2026, 1, 3, 2, 45, tzinfo=UTC))
    assert len(data.run_requests) == 1 and data.run_requests[0].partition_key is None


def test_partitions_are_the_hours_of_the_project(project: Project, defs: dg.Definitions) -> None:
    partitions = defs.resolve_asset_graph().get(dg.AssetKey("emissions")).partitions_def
    keys = partitions.get_partition_keys()
    assert len(keys) == 240
    assert (keys[0], keys[-1]) == (f"{START:%Y-%m-%d-%H:%M}", "2026-01-10-23:00")


@pytest.mark.parametrize("days_ahead", [-1, 20])
def test_the_hours_of_a_simulation_do_not_wait_for_our_clock(tmp_path: Path, days_ahead: int) -> None:
    """A simulated cloud has a clock of its own: a demo of a year is the same in January and in December."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today + timedelta(days=days_ahead)
    late = simulated(tmp_path / "late", days=3, start=start)
    partitions = hourly(late)
    keys = partitions.get_partition_keys()
    assert len(keys) == partitions.get_num_partitions() == 72
    assert (keys[0], keys[-1]) == (hour_key(start), hour_key(start + timedelta(hours=71)))
    assert partitions.has_partition_key(keys[-1])
    assert not partitions.has_partition_key(hour_key(start + timedelta(hours=72)))


def test_a_live_project_has_the_hours_that_are_over(tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    live = Project(root=tmp_path, source="files", billing=["bill.csv"], start=now - timedelta(hours=5), end=None)
    last = hourly(live).get_last_partition_key()
    assert last in {hour_key(now - timedelta(hours=1)), hour_key(now)}  # the hour may turn while this runs


def test_the_workspace_validates_without_a_warning(project: Project, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "SUST_PROJECT": str(project.root),
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        # Dagster recommends another command in place of this one.
        "PYTHONWARNINGS": "ignore:Function `definitions_validate_command` is superseded",
    }
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "definitions",
        "validate",
        "-w",
        str(ROOT / "workspace.yaml"),
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    output = re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)
    assert done.returncode == 0, output
    assert "Validation successful for code location sust-AI-naible" in output
    assert [line for line in output.splitlines() if " - INFO - " not in line] == []


def test_the_workspace_does_not_validate_without_a_project(tmp_path: Path) -> None:
    environment = {**os.environ, "SUST_PROJECT": str(tmp_path / "nothing"), "DAGSTER_HOME": str(tmp_path)}
    (tmp_path / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    command = [
        str(Path(sys.executable).with_name("dagster")),
        "definitions",
        "validate",
        "-w",
        str(ROOT / "workspace.yaml"),
    ]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode != 0
    assert "holds no sust.toml" in done.stdout + done.stderr

"""The loop closed: what was approved changes the cloud, the bill shows it, the twin world tells what it truly did."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from loop_worlds import bars, lake_of

from sust_dagster.connectors.schedulers.placement_file import placements_path
from sust_dagster.connectors.sources import fake_cloud, untouched_cloud
from sust_dagster.faces.backfill import run_backfill
from sust_dagster.faces.demo import DemoResult, run_demo
from sust_dagster.faces.doctor import examine
from sust_dagster.faces.runs import open_instance
from sust_dagster.orchestration import checks, executing, planning_desk
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import load_project
from sust_dagster.simulator.dependencies import dependencies
from sust_dagster.simulator.organisation import DEPENDS_ON
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import TABLES

DAYS, SEED = 4, 11
FILES = ("jobs.csv", "baseline_vs_optimized.csv", "scorecard.json")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(tmp_path_factory.mktemp("act") / "demo", DAYS, SEED, bars())


def books(demo: DemoResult, table: str) -> list[dict[str, Any]]:
    with ProjectResource(root=str(demo.project.root)) as resource:
        return resource.handle("executor").read_books(table).to_pylist()


def test_every_step_has_its_partition_each_day(demo: DemoResult) -> None:
    with open_instance(demo.project) as instance:
        for asset in (
            "grid_forecast",
            "upcoming_jobs",
            "recommendations",
            "placements",
            "decision_events",
            "executions",
        ):
            assert len(instance.get_materialized_partitions(dg.AssetKey(asset))) == DAYS, asset
        assert {r.status for r in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}


def test_what_was_executed_is_in_the_table_and_nothing_else_is(demo: DemoResult) -> None:
    events = books(demo, "decision_events")
    begun = {e["recommendation_id"] for e in events if e["to_status"] == "executing"}
    approved = {e["recommendation_id"] for e in events if e["to_status"] == "approved"}
    assert begun and begun <= approved
    rows = lake_of(demo.project).read("executions").to_pylist()
    assert {r["recommendation_id"] for r in rows} == begun
    assert all(json.loads(r["baseline"])["kg_before"] is not None for r in rows)
    done = {e["recommendation_id"] for e in events if e["to_status"] == "executed"}
    assert len(done) == demo.scorecard["executed"] > 10
    assert {r["recommendation_id"] for r in rows if r["status"] == "applied"} >= done


def test_the_bill_is_that_of_the_changed_cloud(demo: DemoResult) -> None:
    """Accounted emissions hour by hour are those of the world with the product, and not of the one without."""
    hours = pcsv.read_csv(demo.project.root / "baseline_vs_optimized.csv")
    assert hours.num_rows == DAYS * 24
    emissions = lake_of(demo.project).read("emissions", columns=["started_at", "resource_type", "kg_location"])
    run = emissions.filter(pc.is_in(emissions["resource_type"], pa.array(["compute", "gpu"])))
    accounted = pc.sum(run["kg_location"]).as_py()
    assert accounted == pytest.approx(pc.sum(hours["optimized_kg"]).as_py(), rel=0.01)
    assert accounted < 0.97 * pc.sum(hours["baseline_kg"]).as_py()


def test_the_scorecard_sets_the_claim_beside_the_truth(demo: DemoResult) -> None:
    card = json.loads((demo.project.root / "scorecard.json").read_text())
    assert card == demo.scorecard
    assert card["true_kg"] == pytest.approx(card["baseline_kg"] - card["optimized_kg"])
    assert card["true_kg"] > 0 and card["claimed_kg"] > 0
    start, end = demo.project.start, demo.project.last_hour_end()
    worlds = [c(demo.project).true_emissions(start, end) for c in (untouched_cloud, fake_cloud)]
    before, after = (pc.sum(w["true_kg"]).as_py() for w in worlds)
    assert (before, after) == (pytest.approx(card["baseline_kg"]), pytest.approx(card["optimized_kg"]))
    assert worlds[0]["job_id"].equals(worlds[1]["job_id"]), "the same jobs in both worlds"
    assert card["sla_violations"] == 0
    assert card["outcomes"] == card["executed"]


def test_no_job_starts_before_what_was_asked_or_leaves_its_window(demo: DemoResult) -> None:
    jobs = fake_cloud(demo.project).jobs(demo.project.start, demo.project.last_hour_end()).to_pandas()
    delay = (jobs.started_at - jobs.requested_at).dt.total_seconds() / 3600
    most = jobs.workload_category.map({"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0})
    assert (delay >= 0).all() and (delay <= most + 1e-6).all()
    assert (delay > 0).any() and (jobs.region != jobs.home_region).any(), "the control: something moved"


def test_a_backfill_of_what_plans_changed_changes_nothing(
    demo: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The founding design's table knows nothing of plans: where they changed what runs, totals are not held to it."""
    project = load_project(Path(shutil.copytree(demo.project.root, tmp_path / "again")))
    monkeypatch.setattr(checks, "SEED_TOTALS_LEAST", timedelta(days=1))
    result = run_backfill(project, None, None, "look again", bars(), marts=False)
    assert set(result["commits"].values()) == {0}


def test_running_it_again_changes_nothing(demo: DemoResult) -> None:
    root = demo.project.root
    before = {name: (root / name).read_bytes() for name in FILES}
    digest, events = lake_of(demo.project).digest(), books(demo, "decision_events")
    again = run_demo(root, DAYS, SEED, bars())
    assert {name: (root / name).read_bytes() for name in FILES} == before
    assert lake_of(again.project).digest() == digest
    assert books(again, "decision_events") == events


def test_the_doctor_hears_the_heartbeat_and_sees_the_kill_switch(demo: DemoResult, tmp_path: Path) -> None:
    by_name = {f.subject: f for f in examine(demo.project.root)}
    assert by_name["heartbeat: decide"].ok and by_name["execution"].ok
    states = demo.scorecard["by_state"]
    assert f"{states['executed']} executed" in by_name["decisions"].detail
    assert f"{states['verified']} verified" in by_name["decisions"].detail
    other = Path(shutil.copytree(demo.project.root, tmp_path / "late"))
    stopped = load_project(other).model_copy(
        update={"execution_enabled": False, "end": demo.project.last_hour_end() + timedelta(days=2)}
    )
    stopped.save()
    found = {f.subject: f for f in examine(other)}
    assert not found["heartbeat: decide"].ok and "daily_plan" in found["heartbeat: decide"].fix
    assert not found["execution"].ok
    assert found["heartbeat: act"].detail.startswith("stopped: ") and "switched off" in found["heartbeat: act"].detail


def test_no_run_starts_before_what_it_reads(demo: DemoResult) -> None:
    """There are such runs, plans put them off, and what they wait for is at most moved in space."""
    span = (demo.project.start, demo.project.last_hour_end())
    found = dependencies(fake_cloud(demo.project), *span)
    card = demo.scorecard
    assert found.too_early == card["sla_violations_by_kind"]["start_before_dependency"] == 0
    assert found.waiting == card["dependent_jobs"] > 40
    rows = pq.read_table(placements_path(demo.project.root)).to_pylist()
    awaited = {a for needs in DEPENDS_ON.values() for a in needs}
    assert {r["workload_id"] for r in rows if r["delay_hours"]} & set(DEPENDS_ON)
    assert {(r["delay_hours"], r["spot"], r["vcpus_scale"]) for r in rows if r["workload_id"] in awaited} <= {
        (0.0, False, 1.0)
    }


@pytest.mark.slow
def test_plans_that_do_not_know_who_waits_break_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the same days, planned and carried out without looking at who waits for whom."""
    for module in (planning_desk, executing):
        monkeypatch.setattr(module, "awaited", lambda _: {})
    blind = run_demo(tmp_path / "blind", DAYS, SEED, bars())
    assert blind.scorecard["sla_violations_by_kind"]["start_before_dependency"] > 10
    assert blind.scorecard["sla_violations"] > 10


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(demo: DemoResult, tmp_path: Path) -> None:
    """kill -9 at 20 random moments of the loop; then to its end: the same tables, files, decisions and changes."""
    root, moments = tmp_path / "killed", random.Random(5)
    asked = ["--days", str(DAYS), "--seed", str(SEED), "--out", str(root)]
    command = [sys.executable, "-m", "sust_dagster.cli", "demo", *asked]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(command, start_new_session=True, **quiet)
        time.sleep(moments.uniform(2.5, 9.0))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 5, "the control: it was killed, and more than once"
    subprocess.run(command, check=True, **quiet)
    for name in FILES:
        assert (root / name).read_bytes() == (demo.project.root / name).read_bytes(), name
    resumed = demo.project.model_copy(update={"root": root})
    ours, theirs = lake_of(demo.project), lake_of(resumed)
    others = [n for n, spec in TABLES.items() if spec.home == "lake" and n not in ("executions", "outcomes")]
    assert theirs.digest(others) == ours.digest(others)
    assert theirs.read("outcomes").equals(ours.read("outcomes")), "with the same evidence"
    bundles = [sorted(p.name for p in (r / "evidence").iterdir()) for r in (root, demo.project.root)]
    assert bundles[0] == bundles[1]
    # An attempt that was cut off stays on record as one without an answer: what it led to is the same.
    assert applied(theirs) == applied(ours)
    with ProjectResource(root=str(root)) as resource:
        events = resource.handle("executor").read_books("decision_events").to_pylist()
    assert [told(e) for e in events] == [told(e) for e in books(demo, "decision_events")]


def applied(lake: Lake) -> list[tuple[object, ...]]:
    """What was carried out, whatever the number of the attempt that did it."""
    rows = lake.read("executions").to_pylist()
    wanted = ("recommendation_id", "target", "execution_ref", "plan_hash", "baseline", "executed_at")
    done = [r for r in rows if r["status"] == "applied"]
    return sorted((*(r[c] for c in wanted), str(json.loads(r["detail"])["change"])) for r in done)


def told(event: dict[str, Any]) -> dict[str, Any]:
    """An event without its payload, which holds the number of the attempt."""
    return {k: v for k, v in event.items() if k != "payload"}


def test_a_dry_run_shows_the_exact_change_and_what_speaks_against_it(demo: DemoResult) -> None:
    done = next(e["recommendation_id"] for e in books(demo, "decision_events") if e["to_status"] == "executed")
    before = (demo.project.root / "cloud" / "placements.parquet").read_bytes()
    ran = subprocess.run(
        [sys.executable, "-m", "sust_dagster.cli", "--project", str(demo.project.root), "execute", done, "--json"],
        check=True,
        capture_output=True,
    )
    (run,) = json.loads(ran.stdout)["dry_run"]
    assert (run["recommendation_id"], run["target"], run["would_execute"]) == (done, "simulated", False)
    assert any("is_approved" in why for why in run["against"])
    assert (demo.project.root / "cloud" / "placements.parquet").read_bytes() == before
    books_after = books(demo, "outbox")
    assert [r for r in books_after if r["recommendation_id"] == done][-1]["state"] == "done"

"""Compaction: fewer files, the same content, and nothing downstream that notices."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from loop_worlds import HOUR, START, bars, files_project, focus_bill, lake_of
from typer.testing import CliRunner

from sust_dagster import cli
from sust_dagster.faces.backfill import run_backfill
from sust_dagster.faces.compact import compact_lake
from sust_dagster.faces.doctor import examine
from sust_dagster.faces.runs import open_instance, run_job
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.compaction import closed_until, compact_tables
from sust_dagster.orchestration.jobs import HOURLY_ASSETS, RECONCILE_DAYS
from sust_dagster.settings import Project, load_project, simulated_project
from sust_dagster.world.lake import Lake, LakeError

HOURS = 26


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A day and two hours, with marts."""
    project = files_project(tmp_path_factory.mktemp("compact"), focus_bill(HOURS), HOURS)
    run_backfill(project, None, None, "first load", bars())
    return project


def sust(project: Project, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["--project", str(project.root), *arguments])
    return done.exit_code, done.stdout


def mart(project: Project) -> list[tuple[Any, ...]]:
    """The mart of activity, with the time each row was ingested."""
    return duckdb.sql(f"select * from '{project.marts_root}/activity_ledger.parquet' order by all").fetchall()


def test_compacting_changes_files_and_nothing_else(filled: Project) -> None:
    lake = lake_of(filled)
    before = {t: (lake.read(t), lake.slots(t)) for t in HOURLY_ASSETS}
    digest, marts, version = lake.digest(), mart(filled), lake.version("emissions")
    # A bill's project gets late data for some days: those days stay as they are.
    assert closed_until(filled, RECONCILE_DAYS) == filled.last_hour_end() - timedelta(days=RECONCILE_DAYS)
    assert compact_lake(filled, [])["tables"]["emissions"] == {"days": 0, "files_before": HOURS, "files_after": HOURS}
    code, out = sust(filled, "compact", "--json")
    assert code == 0 and json.loads(out)["digest"] == digest
    assert lake.version("emissions") == version

    done = compact_tables(lake, filled.last_hour_end())
    expected = {"days": 1, "files_before": HOURS, "files_after": 1 + 2}
    assert done["activity_ledger"] == done["emissions"] == expected
    assert lake.digest() == digest
    for table, (rows, slots) in before.items():
        assert lake.slots(table) == slots
        assert lake.read(table).equals(rows)
    assert lake.read("emissions", as_of=version).equals(before["emissions"][0])
    assert not [f for f in examine(filled.root) if f.subject.startswith("lake") and not f.ok]

    again = run_backfill(filled, None, None, "look again", bars())
    assert again["commits"] == dict.fromkeys(HOURLY_ASSETS, 0)
    assert mart(filled) == marts, "rows were ingested when they were, not when their files were folded"
    second = compact_tables(lake, filled.last_hour_end(), ["emissions"])
    assert second == {"emissions": {"days": 0, "files_before": 3, "files_after": 3}}


def simulated_days(root: Path, days: int) -> Project:
    project = simulated_project(root, days=days, seed=5)
    project.save()
    run_backfill(project, None, None, "first load", bars(), marts=False)
    return project


def test_the_command_and_the_weekly_job(tmp_path: Path) -> None:
    project = simulated_days(tmp_path / "project", 1)
    code, out = sust(project, "compact", "emissions")
    assert code == 0 and "24 files → 1, 1 days folded" in out and "unchanged" in out
    with open_instance(project) as instance:
        run_job(build_defs(load_project(project.root), with_marts=False), instance, "compact_lake")
        (run,) = instance.get_runs(dg.RunsFilter(job_name="compact_lake"))
        assert run.status == dg.DagsterRunStatus.SUCCESS
    lake = lake_of(project)
    assert {len(set(lake.inventory([t]).column("path").to_pylist())) for t in ("activity_ledger", "emissions")} == {1}
    for arguments, said in ((("compact", "emission"), "no hourly table"), (("compact", "recommendations"), "hourly")):
        done = CliRunner().invoke(cli.app, ["--project", str(project.root), *arguments])
        assert done.exit_code == 3 and said in done.stderr


def test_content_that_changes_meanwhile_is_said(filled: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of what the command promises: a fold that lost an hour would not go by unseen."""
    seen = []

    def slots(self: Lake, table: str, as_of: object = None) -> dict[str, str]:
        seen.append(table)
        return {f"{START + n * HOUR:%Y-%m-%dT%H}": "0" for n in range(2 if len(seen) % 2 else 1)}

    monkeypatch.setattr(Lake, "slots", slots)
    with pytest.raises(LakeError, match="its content changed while it was compacted"):
        compact_tables(lake_of(filled), filled.last_hour_end(), ["emissions"])

"""The demo from end to end: what it leaves, and that resuming and extending end where a fresh one does."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa
import pyarrow.csv as pcsv
import pytest
from loop_worlds import bars, lake_of

from sust_dagster.faces.backfill import run_backfill
from sust_dagster.faces.demo import DemoResult, prepare, run_demo
from sust_dagster.faces.runs import open_instance
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.settings import ProjectError, load_project

SEED = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def two_days(folder: Path) -> DemoResult:
    return run_demo(folder / "two", 2, SEED, bars())


@pytest.fixture(scope="module")
def three_days(folder: Path) -> DemoResult:
    return run_demo(folder / "three", 3, SEED, bars())


def marts(root: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every mart, rows in order, without the time of the commit that holds a row."""
    con = duckdb.connect()
    found = {}
    for path in sorted((root / "marts").glob("*.parquet")):
        columns = [c for c in con.read_parquet(str(path)).columns if c not in ("ingested_at", "created_at")]
        wanted = ", ".join(f'"{c}"' for c in columns)
        found[path.stem] = con.sql(f"select {wanted} from '{path}' order by all").fetchall()
    return found


def test_the_demo_leaves_its_files(two_days: DemoResult) -> None:
    root = two_days.project.root
    for name in ("sust.toml", "jobs.csv", "report.html", "books.db", "dagster/dagster.yaml"):
        assert (root / name).is_file(), name
    jobs = pcsv.read_csv(root / "jobs.csv")
    assert jobs.num_rows == two_days.jobs > 1500
    assert two_days.spend_usd == pytest.approx(pa.compute.sum(jobs.column("cost_usd")).as_py())
    report = (root / "report.html").read_text()
    assert [part for part in ("emitted", "loop", "check", "method") if f'id="{part}"' not in report] == []
    assert list((root / "charts").glob("*.png"))
    assert not list(root.rglob("*.tmp"))
    assert two_days.totals["kg_location_lower"] < two_days.totals["kg_location"] < two_days.totals["kg_location_upper"]


def test_the_figures_are_those_of_the_lake(two_days: DemoResult) -> None:
    emissions = lake_of(two_days.project).read("emissions")
    assert two_days.totals["kg_location"] == pytest.approx(pa.compute.sum(emissions.column("kg_location")).as_py())


def test_a_demo_run_again_changes_nothing(two_days: DemoResult) -> None:
    root = two_days.project.root
    lake = lake_of(two_days.project)
    versions = {t: lake.version(t) for t in HOURLY_ASSETS}
    jobs, before = (root / "jobs.csv").read_bytes(), marts(root)
    again = run_demo(root, 2, SEED, bars())
    assert {t: lake.version(t) for t in HOURLY_ASSETS} == versions
    assert (root / "jobs.csv").read_bytes() == jobs
    assert marts(root) == before
    assert again.totals == pytest.approx(two_days.totals)


def test_another_seed_is_refused_and_another_world(two_days: DemoResult, tmp_path: Path) -> None:
    root = two_days.project.root
    with pytest.raises(ProjectError, match="seed 7"):
        run_demo(root, 2, SEED + 1, bars())
    with pytest.raises(ProjectError, match="already holds hours"):
        run_demo(root, 1, SEED, bars())
    assert load_project(root).seed == SEED


def test_an_extended_demo_is_a_fresh_one_of_that_length(
    two_days: DemoResult, three_days: DemoResult, tmp_path: Path
) -> None:
    shutil.copytree(two_days.project.root, tmp_path / "grown")
    grown = run_demo(tmp_path / "grown", 3, SEED, bars())
    root = three_days.project.root
    assert (tmp_path / "grown" / "jobs.csv").read_bytes() == (root / "jobs.csv").read_bytes()
    for table in HOURLY_ASSETS:
        assert lake_of(grown.project).slots(table) == lake_of(three_days.project).slots(table), table
    assert lake_of(grown.project).digest() == lake_of(three_days.project).digest()
    assert marts(tmp_path / "grown") == marts(root)
    assert grown.totals == pytest.approx(three_days.totals)
    # Extending adds hours; it restates none.
    assert not lake_of(grown.project).restatements("emissions")


def test_another_seed_makes_another_world(two_days: DemoResult, tmp_path: Path) -> None:
    """Negative control of the comparisons above."""
    other = run_demo(tmp_path / "other", 2, SEED + 1, bars())
    assert lake_of(other.project).digest() != lake_of(two_days.project).digest()
    assert (other.project.root / "jobs.csv").read_bytes() != (two_days.project.root / "jobs.csv").read_bytes()


def test_a_second_backfill_of_a_demo_makes_no_commit(three_days: DemoResult, tmp_path: Path) -> None:
    shutil.copytree(three_days.project.root, tmp_path / "again")
    project = load_project(tmp_path / "again")
    lake = lake_of(project)
    versions = {t: lake.version(t) for t in HOURLY_ASSETS}
    result = run_backfill(project, None, None, "look again", bars(), marts=False)
    assert result["commits"] == dict.fromkeys(HOURLY_ASSETS, 0)
    assert result["restated_hours"] == dict.fromkeys(HOURLY_ASSETS, 0)
    assert (result["hours"], result["runs"]) == (72, 1)
    assert {t: lake.version(t) for t in HOURLY_ASSETS} == versions
    missing = run_backfill(project, None, None, "look again", bars(), only_missing=True, marts=False)
    assert (missing["hours"], missing["runs"]) == (0, 0)


def test_the_hours_of_a_day_are_one_dagster_run(three_days: DemoResult) -> None:
    with open_instance(three_days.project) as instance:
        runs = instance.get_runs(dg.RunsFilter(job_name="hourly_sense_and_model"))
        assert len(runs) == 4, "up to 03:00 of each of three days, and what is left"
        assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
        assert len(instance.get_materialized_partitions(dg.AssetKey("emissions"))) == 72


def test_the_totals_are_plain_json(two_days: DemoResult) -> None:
    assert json.loads(json.dumps(two_days.totals)) == two_days.totals


def test_settings_made_by_hand_outlive_an_extended_demo(tmp_path: Path) -> None:
    made = prepare(tmp_path / "demo", 2, 42)
    file = made.root / "sust.toml"
    file.write_text(file.read_text() + "carbon_price_usd_per_t = 120.0\n")
    extended = prepare(made.root, 3, 42)
    assert (extended.carbon_price_usd_per_t, extended.end - extended.start) == (120.0, timedelta(days=3))
    assert load_project(made.root) == extended

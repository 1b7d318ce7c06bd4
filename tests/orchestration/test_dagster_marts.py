"""The marts as assets: dbt builds them from what the assets stored, its tests are checks, faults stop them."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow.parquet as pq
import pytest
from dagster_worlds import HOUR, START, fill, lake_of, run, simulated, with_values

from sust_dagster.orchestration.assets.marts import environment
from sust_dagster.orchestration.build import build_defs
from sust_dagster.settings import Project

WINDOW = (START, START + 48 * HOUR)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dg.ExecuteInProcessResult]:
    """Two days, sensed, modelled and in marts."""
    project = simulated(tmp_path_factory.mktemp("built"), days=2)
    fill(project)
    return project, run(project, "daily_marts", defs=build_defs(project))


def test_each_mart_is_a_file_that_adds_up_to_the_lake(built: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, result = built
    emissions = lake_of(project).read("emissions")
    con = duckdb.connect()
    con.register("emissions", emissions)
    kg, usd = con.sql("select sum(kg_location), sum(cost_usd) from emissions").fetchall()[0]
    shown = {e.asset_key.path[-1] for e in result.get_asset_materialization_events()}
    files = {p.stem for p in project.marts_root.glob("*.parquet")}
    assert files == {n for n in shown if not n.startswith(("stg_", "int_"))}
    for name in files & {"jobs", "emissions_by_region", "emissions_by_team", "effective_cost"}:
        path = project.marts_root / f"{name}.parquet"
        found = con.sql(f"select sum(kg_location), sum(cost_usd) from '{path}'").fetchall()[0]
        assert found == pytest.approx((kg, usd))
        (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key.path == ["marts", name]]
        assert event.materialization.metadata["dagster/row_count"].value == pq.read_metadata(path).num_rows
    assert not list(project.marts_root.glob(".build*"))


def test_the_ledger_of_the_founding_design_says_when_a_row_was_ingested(
    built: tuple[Project, dg.ExecuteInProcessResult],
) -> None:
    project, _ = built
    table = pq.read_table(project.marts_root / "activity_ledger.parquet")
    assert table.column("ingested_at").null_count == 0
    assert table.num_rows == lake_of(project).read("activity_ledger").num_rows


def test_the_tests_of_dbt_are_checks(built: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    _, result = built
    evaluations = result.get_asset_check_evaluations()
    names = {e.check_name for e in evaluations}
    assert {"marts_add_up_to_the_emissions", "every_activity_is_accounted", "unique_jobs_job_id"} <= names
    assert all(e.passed for e in evaluations)


def test_the_environment_is_as_it_was(built: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    project, _ = built
    assert not any(os.environ.get(name) == value for name, value in environment(project).items() if "SUST" in name)


@pytest.mark.slow
def test_bad_rows_fail_the_run_and_leave_the_old_marts(
    built: tuple[Project, dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    project, _ = built
    lake = lake_of(project)
    before = {p.name: p.read_bytes() for p in project.marts_root.glob("*.parquet")}
    good = lake.read("emissions", *WINDOW)
    lake.write(
        "emissions", with_values(good, "kg_location_upper", [0], 0.0), *WINDOW, writer="a test", reason="spoiled"
    )
    try:
        result = run(project, "daily_marts", defs=build_defs(project), ok=False)
        assert not result.success
        failed = {e.check_name for e in result.get_asset_check_evaluations() if not e.passed}
        assert failed == {"bounds_contain_the_point"}
        assert {p.name: p.read_bytes() for p in project.marts_root.glob("*.parquet")} == before
    finally:
        lake.write("emissions", good, *WINDOW, writer="a test", reason="mended")
    assert run(project, "daily_marts", defs=build_defs(project)).success

"""A check that fails leaves its hours to be done again, and nothing is built on them until they pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from loop_worlds import HOUR, START, bars, files_project, focus_bill, lake_of, replaced

from sust_dagster.faces.backfill import run_backfill
from sust_dagster.faces.demo import prepare
from sust_dagster.faces.hours import done_hours, missing_ranges
from sust_dagster.faces.runs import RunError, open_instance
from sust_dagster.orchestration import checks
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.orchestration.partitions import hour_key
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project, simulated_project

HOURS = 4


def done(project: Project, hours: int = HOURS) -> list[int]:
    keys = {hour_key(START + n * HOUR): n for n in range(hours)}
    with open_instance(project) as instance:
        return sorted(keys[k] for k in done_hours(instance, set(keys)))


def missing(project: Project) -> list[tuple[int, int]]:
    """Ranges of hours that are to be done, in hours from the start."""
    with open_instance(project) as instance:
        ranges = missing_ranges(instance, project.start, project.last_hour_end())
    return [((a - START) // HOUR, (b - START) // HOUR) for a, b in ranges]


def jobs_run(project: Project) -> list[str]:
    with open_instance(project) as instance:
        return [run.job_name for run in instance.get_runs()]


def without_quantities(bill: pa.Table, hour: int) -> pa.Table:
    """Every usage row of one hour lacks its quantity: too many rows for what may be in quarantine."""
    starts = bill.column("ChargePeriodStart").to_pylist()
    return replaced(
        bill, "ConsumedQuantity", [i for i, s in enumerate(starts) if s == START + hour * HOUR], lambda _: None
    )


def test_hours_of_a_failed_ledger_check_are_not_done(tmp_path: Path) -> None:
    """Also where all was well before: the ledger is new, what was made of it is not. Other hours stay done."""
    bill = focus_bill(HOURS)
    project = files_project(tmp_path, bill, HOURS)
    run_backfill(project, START, START + 2 * HOUR, "first load", bars(), marts=False)
    assert done(project) == [0, 1] and missing(project) == [(2, 4)]

    files_project(tmp_path, without_quantities(bill, 1), HOURS)
    with pytest.raises(RunError, match="check schema_pass_rate on activity_ledger"):
        run_backfill(project, START + HOUR, START + 3 * HOUR, "a bad export", bars(), marts=False)
    with open_instance(project) as instance:
        for asset in ("activity_ledger", "quarantine", "ingest_counts"):
            assert len(instance.get_materialized_partitions(dg.AssetKey(asset))) == 3
        assert len(instance.get_materialized_partitions(dg.AssetKey("emissions"))) == 2
    assert done(project) == [0] and missing(project) == [(1, 4)]

    with pytest.raises(RunError, match="schema_pass_rate"):
        run_backfill(project, None, None, "not mended yet", bars(), only_missing=True)
    assert "daily_marts" not in jobs_run(project)

    files_project(tmp_path, bill, HOURS)
    result = run_backfill(project, None, None, "mended", bars(), only_missing=True, marts=False)
    assert (result["hours"], result["runs"]) == (3, 1)
    assert done(project) == [0, 1, 2, 3]
    again = run_backfill(project, None, None, "nothing to do", bars(), only_missing=True, marts=False)
    assert (again["hours"], again["commits"]) == (0, dict.fromkeys(HOURLY_ASSETS, 0))


def test_hours_of_a_failed_emissions_check_are_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hours are too few to be like the founding table; held to it, they fail its check, emissions and all."""
    project = simulated_project(tmp_path / "project", days=1, seed=5)
    project = project.model_copy(update={"end": START + HOURS * HOUR})
    project.save()
    with monkeypatch.context() as held:
        held.setattr(checks, "SEED_TOTALS_LEAST", timedelta(hours=1))
        with pytest.raises(RunError, match="check seed_table_totals on emissions"):
            run_backfill(project, None, None, "first load", bars())
    with open_instance(project) as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("emissions"))) == HOURS
    assert done(project) == [] and missing(project) == [(0, HOURS)]
    assert "daily_marts" not in jobs_run(project)
    lake = lake_of(project)
    slots = lake.slots("emissions")
    assert len(slots) == HOURS, "what failed is there to be looked at"

    result = run_backfill(project, None, None, "again", bars(), only_missing=True)
    assert result["hours"] == HOURS and result["commits"] == dict.fromkeys(HOURLY_ASSETS, 0)
    assert done(project) == list(range(HOURS)) and lake.slots("emissions") == slots
    assert jobs_run(project)[0] == "daily_marts"


def power_factor(project: Project, ratio: float) -> None:
    """A new version of the vCPU power, ``ratio`` times what is in force, activated by a person."""
    with ProjectResource(root=str(project.root)) as resource:
        resource.install_factors()
        store, now = resource.factor_store, datetime.now(UTC)
        found = next(f for f in store.active(now).to_pylist() if f["name"] == "simple/v1 vcpu")
        given = {k: v for k, v in found.items() if k not in ("factor_id", "version", "created_at")}
        given |= {k: ratio * given[k] for k in ("value", "value_lower", "value_upper")}
        version = store.propose([given], now=now).column("factor_id")[0].as_py()
        store.review(version, "activate", reviewer="a person", reason="measured", now=now + timedelta(seconds=1))


@pytest.mark.slow
def test_a_resumed_backfill_does_the_hours_again_whose_check_failed(tmp_path: Path) -> None:
    """A factor twice too large: the totals are not those of the table, and it stops before the marts."""
    root = tmp_path / "demo"
    project = prepare(root, 14, 7)
    power_factor(project, 2.0)
    with pytest.raises(RunError, match="check seed_table_totals on emissions: accounted"):
        run_backfill(project, None, None, "first load", bars(), only_missing=True)
    assert not list((root / "marts").glob("*.parquet"))
    assert missing(project) == [(0, 14 * 24)]
    wrong = lake_of(project).version("emissions")

    power_factor(project, 0.5)
    run_backfill(project, None, None, "again", bars(), only_missing=True)
    assert list((root / "marts").glob("*.parquet"))
    assert missing(project) == []
    lake = lake_of(project)
    assert len(lake.restatements("emissions")) == 14 * 24
    assert lake.read("emissions", as_of=wrong).num_rows == lake.read("emissions").num_rows

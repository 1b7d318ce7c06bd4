"""What changes later: a bill corrected, rows that arrive late, factors measured anew. Old versions stay readable."""

from __future__ import annotations

import csv
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pytest
from loop_worlds import HOUR, START, bars, files_project, focus_bill, lake_of, replaced

from sust_dagster.faces.backfill import run_backfill, run_restatement
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.settings import Project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.factor_store import FactorStore
from sust_dagster.world.permissions import PermissionRefused
from sust_dagster.world.schemas import EMISSION_FACTORS

HOURS = 30
TOUCHED = (3, 11, 26)


def slot(hour: int) -> str:
    return f"{START + hour * HOUR:%Y-%m-%dT%H}"


def a_row_of(bill: pa.Table, hour: int) -> int:
    """A usage row of one clock hour."""
    starts, ends = (bill.column(f"ChargePeriod{side}").to_pylist() for side in ("Start", "End"))
    usage = bill.column("ConsumedQuantity").to_pylist()
    at = START + hour * HOUR
    rows = zip(starts, ends, usage, strict=True)
    return next(i for i, (s, e, u) in enumerate(rows) if s == at and e == at + HOUR and u)


def doubled(bill: pa.Table) -> pa.Table:
    return replaced(bill, "ConsumedQuantity", [a_row_of(bill, h) for h in TOUCHED], lambda q: 2 * q)


def dearer(bill: pa.Table) -> pa.Table:
    return replaced(bill, "BilledCost", [a_row_of(bill, h) for h in TOUCHED], lambda c: c + 1.0)


@pytest.mark.parametrize("name", ["bill.parquet", pytest.param("bill.csv", marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", [doubled, pytest.param(dearer, marks=pytest.mark.slow)])
def test_a_changed_bill_restates_exactly_the_touched_hours(
    tmp_path: Path, name: str, change: Callable[[pa.Table], pa.Table]
) -> None:
    bill = focus_bill(HOURS)
    project = files_project(tmp_path, bill, HOURS, name)
    first = run_backfill(project, None, None, "first load", bars(), marts=False)
    assert first["commits"]["emissions"] == 1 and not any(first["restated_hours"].values())
    lake = lake_of(project)
    then = {t: (lake.version(t), lake.read(t)) for t in ("activity_ledger", "emissions")}

    files_project(tmp_path, change(bill), HOURS, name)
    second = run_backfill(project, None, None, "supplier corrected March", bars(), marts=False)
    assert second["restated_hours"] == {
        "activity_ledger": 3, "quarantine": 0, "ingest_counts": 0, "grid_intensity": 0, "emissions": 3,
    }  # fmt: skip
    assert second["commits"]["activity_ledger"] == second["commits"]["emissions"] == 1
    for table, (version, rows) in then.items():
        found = lake.restatements(table)
        assert sorted(r.slot for _, r, _ in found) == [slot(h) for h in TOUCHED]
        assert {why for *_, why in found} == {"supplier corrected March"}
        assert lake.read(table, as_of=version).equals(rows)
        now = lake.read(table)
        assert not now.equals(rows) and now.num_rows == rows.num_rows

    third = run_backfill(project, None, None, "look again", bars(), marts=False)
    assert third["commits"] == dict.fromkeys(HOURLY_ASSETS, 0)
    files_project(tmp_path, bill, HOURS, name)
    run_backfill(project, None, None, "withdrawn", bars(), marts=False)
    assert lake.read("emissions").equals(then["emissions"][1])
    assert len(lake.restatements("emissions")) == 6


@pytest.mark.parametrize("where", ["first", pytest.param("last", marks=pytest.mark.slow)])
def test_a_late_row_restates_its_hour_alone(tmp_path: Path, where: str) -> None:
    """A row that arrives touches the hour it is about, wherever in the file it stands."""
    bill = focus_bill(HOURS)
    late = a_row_of(bill, 5)
    without = bill.take([i for i in range(bill.num_rows) if i != late])
    project = files_project(tmp_path, without, HOURS)
    run_backfill(project, None, None, "first load", bars(), marts=False)
    parts = [bill.slice(late, 1), without]
    files_project(tmp_path, pa.concat_tables(parts if where == "first" else parts[::-1]), HOURS)
    result = run_backfill(project, None, None, "late row", bars(), marts=False)
    assert result["restated_hours"]["activity_ledger"] == result["restated_hours"]["emissions"] == 1
    assert [r.slot for _, r, _ in lake_of(project).restatements("emissions")] == [slot(5)]


def new_factors(path: Path, project: Project, ratio: float) -> Path:
    """A CSV as a person writes it: the vCPU power measured anew."""
    with World(lake_of(project), Books.open(project.books_address)) as world:
        active = FactorStore(world.handle("accountant")).active(START).to_pylist()
    factor = next(f for f in active if f["factor_type"] == "power" and f["name"] == "simple/v1 vcpu")
    columns = [c for c in EMISSION_FACTORS.column_names if c not in ("factor_id", "version", "created_at")]
    row = {**factor, **{k: ratio * factor[k] for k in ("value", "value_lower", "value_upper")}}
    row["source"] = "measured, with a power meter"
    row["valid_from"] = "2019-01-01"
    text = {c: "" if row[c] is None else str(row[c]) for c in columns}
    pcsv.write_csv(pa.table({c: [v] for c, v in text.items()}), path)
    return path


def restate(project: Project, out: Path, factors: Path, reviewer: str) -> dict[str, object]:
    return run_restatement(project, None, None, "power measured anew", out, bars(), factors=factors, reviewer=reviewer)


def test_new_factors_restate_the_emissions_and_report_what_changed(tmp_path: Path) -> None:
    project = files_project(tmp_path, focus_bill(8), 8)
    run_backfill(project, None, None, "first load", bars(), marts=False)
    lake = lake_of(project)
    version, old = lake.version("emissions"), lake.read("emissions")
    ledger = lake.version("activity_ledger")
    factors = new_factors(tmp_path / "factors.csv", project, 1.5)

    for reviewer in ("accountant", "release", "planner", ""):
        with pytest.raises(PermissionRefused):
            restate(project, tmp_path / "report.csv", factors, reviewer)
    assert lake.version("emissions") == version and not (tmp_path / "report.csv").exists()

    result = restate(project, tmp_path / "report.csv", factors, "Ada Lovelace")
    assert result["commits"] == {"emissions": 1} and result["restated_hours"] == {"emissions": 8}
    assert lake.version("activity_ledger") == ledger
    assert lake.read("emissions", as_of=version).equals(old)
    assert {why for *_, why in lake.restatements("emissions")} == {"power measured anew"}

    new = lake.read("emissions")
    sums = {n: pc.sum(t.column("kg_location")).as_py() for n, t in (("before", old), ("after", new))}
    report = pcsv.read_csv(tmp_path / "report.csv").to_pylist()
    total = report[0]
    assert total["scope"] == "total"
    assert total["kg_location_before"] == pytest.approx(sums["before"])
    assert total["kg_location_after"] == pytest.approx(sums["after"])
    assert total["kg_location_delta"] == pytest.approx(sums["after"] - sums["before"])
    assert sums["after"] > 1.3 * sums["before"]
    for scope in ("region", "team_id"):
        parts = [r for r in report if r["scope"] == scope]
        assert len(parts) > 1
        for figure in ("rows", "rows_changed", "kg_location_before", "kg_location_after", "kg_location_delta"):
            assert sum(r[figure] for r in parts) == pytest.approx(total[figure]), (scope, figure)
    assert result["kg_location_delta"] == pytest.approx(total["kg_location_delta"])

    again = restate(project, tmp_path / "again.csv", factors, "Ada Lovelace")
    assert again["commits"] == {"emissions": 0} and again["rows_changed"] == 0


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("value", "much", "line 2, column value"),
        pytest.param("valid_from", "yesterday", "line 2, column valid_from", marks=pytest.mark.slow),
        pytest.param("bound_reading", "", "bound", marks=pytest.mark.slow),
        pytest.param("value_lower", "9", "bounds", marks=pytest.mark.slow),
        pytest.param("colour", "green", "column colour", marks=pytest.mark.slow),
    ],
)
def test_a_factor_that_cannot_be_is_named(tmp_path: Path, column: str, text: str, message: str) -> None:
    project = files_project(tmp_path, focus_bill(1), 1)
    run_backfill(project, None, None, "first load", bars(), marts=False)
    path = new_factors(tmp_path / "factors.csv", project, 1.5)
    with path.open(newline="") as file:
        (row,) = csv.DictReader(file)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*row, *({column} - set(row))])
        writer.writeheader()
        writer.writerow({**row, column: text})
    version = lake_of(project).version("emissions")
    with pytest.raises(ValueError, match=message):
        restate(project, tmp_path / "report.csv", path, "Ada Lovelace")
    assert lake_of(project).version("emissions") == version


def test_nothing_to_restate_is_said(tmp_path: Path) -> None:
    project = files_project(tmp_path, focus_bill(2), 2)
    with pytest.raises(ValueError, match="run `sust backfill` first"):
        run_restatement(project, None, None, "why", tmp_path / "r.csv", bars())


def test_a_range_outside_the_project_is_refused(tmp_path: Path) -> None:
    project = files_project(tmp_path, focus_bill(2), 2)
    with pytest.raises(ValueError, match="not within the project's hours"):
        run_backfill(project, START, START + 3 * HOUR, "why", bars(), marts=False)
    with pytest.raises(ValueError, match="not within the project's hours"):
        run_backfill(project, datetime(2025, 1, 1, tzinfo=UTC), None, "why", bars(), marts=False)

"""`sust raw-record`: the way back from a reference to the row of the bill."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sust_cli import T0, sust, usage, write_bill

from sust_dagster.settings import Project, simulated_project
from sust_dagster.world.lake import Lake


@pytest.fixture
def ledger(tmp_path: Path) -> tuple[Path, list[dict[str, object]], list[dict[str, object]]]:
    """A folder of two files, the ledger and the quarantine `sust ingest` makes of it."""
    rows = [usage(T0 + timedelta(hours=h), x_Note=f"note {h}") for h in range(5)]
    write_bill(tmp_path / "bills" / "a.csv", rows[:2])
    write_bill(tmp_path / "bills" / "b.csv", [rows[2], {**rows[3], "ConsumedQuantity": "much"}, rows[4]])
    ran = sust("ingest", "--billing", tmp_path / "bills", "--out", tmp_path / "ledger.parquet", "--json")
    assert ran.code == 0, ran.err
    tables = [pq.read_table(tmp_path / n).to_pylist() for n in ("ledger.parquet", "ledger.quarantine.parquet")]
    return tmp_path / "bills", tables[0], tables[1]


def test_file_row_and_all_columns_are_shown(ledger) -> None:
    bills, rows, (bad,) = ledger
    ref = next(r["raw_record_ref"] for r in rows if r["started_at"] == T0 + timedelta(hours=4))
    found = sust("raw-record", ref, "--billing", bills, "--json")
    assert found.code == 0, found.err
    document = found.json
    assert (document["file"], document["row"], document["went_to"]) == ("b.csv", 3, "activity_ledger")
    assert document["reference"] == ref
    assert document["record"]["x_Note"] == "note 4", "also the columns that nothing reads"
    shown = sust("raw-record", ref, "--billing", bills)
    assert shown.code == 0 and shown.out.startswith("b.csv, row 3 (activity_ledger)") and "note 4" in shown.out

    refused = sust("raw-record", bad["raw_record_ref"], "--billing", bills, "--json").json
    assert (refused["file"], refused["row"], refused["went_to"]) == ("b.csv", 2, "quarantine")
    assert refused["record"]["ConsumedQuantity"] == "much"
    assert (bad["file"], bad["row"]) == ("b.csv", 2), "the quarantine of plain files says it by itself"


def test_what_is_not_there_is_a_finding_and_nonsense_is_bad_input(ledger) -> None:
    bills, rows, _ = ledger
    ref = rows[0]["raw_record_ref"]
    gone = sust("raw-record", ref[:-1] + ("0" if ref[-1] != "0" else "1"), "--billing", bills)
    assert (gone.code, gone.out) == (1, "") and "no row of" in gone.err
    for arguments, said in (
        (("bills#row=3", "--billing", bills), "no reference to a raw record"),
        ((ref, "--billing", bills / "nothing.csv"), "does not exist"),
    ):
        ran = sust("raw-record", *arguments)
        assert (ran.code, ran.out) == (3, "") and said in ran.err


def in_project(project: Project) -> list[dict[str, object]]:
    project.save()
    ran = sust("--project", project.root, "backfill", "--no-marts", "--json")
    assert ran.code == 0, ran.err
    return Lake(project.lake_root).read("activity_ledger").to_pylist()


def test_the_projects_own_bills_are_searched(ledger, tmp_path: Path) -> None:
    bills, _, _ = ledger
    project = Project(
        root=tmp_path / "project", source="files", billing=[str(bills)], grid="static", start=T0,
        end=T0 + timedelta(hours=5), schema_pass_rate=0.5,
    )  # fmt: skip
    rows = in_project(project)
    assert {r["raw_record_ref"].split("#")[0] for r in rows} == {"bills"}
    found = sust("--project", project.root, "raw-record", rows[0]["raw_record_ref"], "--json").json
    assert (found["file"], found["row"]) == ("a.csv", 1)
    (bad,) = Lake(project.lake_root).read("quarantine").to_pylist()
    found = sust("--project", project.root, "raw-record", bad["raw_record_ref"], "--json").json
    assert (found["file"], found["row"]) == ("b.csv", 2)


def test_the_simulated_cloud_is_searched(tmp_path: Path) -> None:
    project = simulated_project(tmp_path / "project", days=1, seed=5)
    project = project.model_copy(update={"end": project.start + timedelta(hours=3)})
    row = in_project(project)[-1]
    found = sust("--project", project.root, "raw-record", row["raw_record_ref"], "--json").json
    assert found["file"] == f"simulated/{row['started_at']:%Y-%m-%dT%H}"
    assert found["record"]["ResourceId"] == row["resource_id"]

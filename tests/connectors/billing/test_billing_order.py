"""What a row becomes depends on the row alone: not on its place, its neighbours, its file or the files beside it."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from bills import FOCUS_ROW, INSTANCES, csv_text, ingest_paths
from hypothesis import given, settings
from hypothesis import strategies as st
from test_billing_formats import AZURE_ROW, CUR_ROW, GCP_ROW

from sust_dagster.agents.ingestor import IngestOptions, RecordReferenceError, find_record, ingest, ingest_range
from sust_dagster.connectors.billing import BillingError, FileBilling, TableBilling
from sust_dagster.connectors.billing.parsing import parse_numbers

START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
OPTIONS = IngestOptions(instances=INSTANCES)

#: Rows of each format that differ in what is empty, oddly written or unreadable.
SORTS: dict[str, list[dict[str, Any]]] = {
    "focus": [
        FOCUS_ROW,
        {**FOCUS_ROW, "ConsumedQuantity": "0.5", "Tags": '{"team": "search",  "tier":"ci"}', "BilledCost": "1e-3"},
        {**FOCUS_ROW, "ResourceId": "", "Tags": "", "SkuPriceDetails": "", "BilledCost": ""},
        {**FOCUS_ROW, "RegionId": "", "SkuMeter": "USW2-BoxUsage:m5.large"},
        {**FOCUS_ROW, "ConsumedQuantity": "iNf"},
        {**FOCUS_ROW, "ConsumedQuantity": "a lot"},
        {**FOCUS_ROW, "ChargePeriodEnd": "2026-10-01T05:00:00Z"},
        {**FOCUS_ROW, "ChargePeriodStart": "2026-10-01 03:30:00", "EffectiveCost": "N/A"},
    ],
    "cur": [
        {**CUR_ROW, "resourceTags/user:team": "a", "resourceTags/team": ""},
        {**CUR_ROW, "identity/LineItemId": "two", "resourceTags/user:team": "", "resourceTags/team": "b"},
        {**CUR_ROW, "identity/LineItemId": "", "resourceTags/user:team": "c", "resourceTags/team": "d"},
        {**CUR_ROW, "identity/LineItemId": "four", "product/instanceType": "", "resourceTags/user:team": ""},
        {**CUR_ROW, "identity/LineItemId": "five", "lineItem/LineItemType": "Something New"},
    ],
    "gcp": [
        {**GCP_ROW, "labels": '{"b": "1",  "team":"search"}'},
        {**GCP_ROW, "labels": "[]", "project.labels": '[{"key": "team", "value": "shop"}]'},
        {**GCP_ROW, "project.labels": '{"team" : "shop"}', "location.region": ""},
        {**GCP_ROW, "usage.amount": "1,5"},
    ],
    "azure": [
        AZURE_ROW,
        {**AZURE_ROW, "Tags": "", "AdditionalInfo": "", "Date": "10/06/2026"},
        {**AZURE_ROW, "Quantity": "nan"},
    ],
}


@pytest.mark.parametrize("name", SORTS)
def test_a_row_is_the_same_alone_and_among_others(write, name):
    rows = SORTS[name]
    columns = list(dict.fromkeys(n for row in rows for n in row))
    alone = [ingest_paths(write(csv_text([row], columns))) for row in rows]
    ledger = {r["activity_id"]: r for got in alone for r in got.rows}
    refused = {r["raw_record_ref"]: r for got in alone for r in got.quarantine.to_pylist()}
    assert len(ledger) >= 3 and refused
    for seed in range(3):
        shuffled = random.Random(seed).sample(rows, len(rows))
        together = ingest_paths(write(csv_text(shuffled, columns)))
        assert {r["activity_id"]: r for r in together.rows} == ledger
        assert {r["raw_record_ref"]: r for r in together.quarantine.to_pylist()} == refused


@given(st.lists(st.text("0123456789.+-eEinfINFa_, ", max_size=6), min_size=1, max_size=4))
def test_a_number_is_read_alike_whatever_stands_beside_it(texts):
    together, bad = parse_numbers(pa.array(texts))
    for i, text in enumerate(texts):
        value, unreadable = parse_numbers(pa.array([text]))
        assert (repr(value[0].as_py()), unreadable[0]) == (repr(together[i].as_py()), bad[i])


def test_the_order_of_columns_is_no_part_of_a_row(write):
    row = {k: v for k, v in CUR_ROW.items() if not k.startswith("identity/")}
    row |= {"resourceTags/user:team": "a", "resourceTags/user:stage": "b", "resourceTags/user:tier": "ci"}
    there = ingest_paths(write(csv_text([row])))
    back = ingest_paths(write(csv_text([row], list(row)[::-1])))
    assert there.ledger.equals(back.ledger)
    assert there.row["raw_record_ref"] == back.row["raw_record_ref"]


# -- bills and files --------------------------------------------------------------------------------------------


def stored(paths: Any, **hours: datetime) -> dict[str, list[dict[str, Any]]]:
    """What a range of a bill stores, in the order it is stored in."""
    start, end = hours.get("start", START), hours.get("end", END)
    result = ingest_range(FileBilling(paths).read(start, end), start, end, OPTIONS, undated=START)
    return {
        "ledger": result.ledger.sort_by("activity_id").to_pylist(),
        "quarantine": result.quarantine.sort_by("raw_record_ref").to_pylist(),
        "counts": result.counts.to_pylist(),
    }


def parts(folder: Path, rows: list[dict[str, Any]], files: int, seed: int) -> Path:
    """The rows in any order, spread over the parts of one export."""
    rng = random.Random(seed)
    rows = rng.sample(rows, len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    borders = sorted(rng.randrange(len(rows) + 1) for _ in range(files - 1))
    for i, (a, b) in enumerate(zip([0, *borders], [*borders, len(rows)], strict=True)):
        (folder / f"part-{i:05}.csv").write_text(csv_text(rows[a:b], list(FOCUS_ROW)))
    return folder


bills = st.lists(
    st.fixed_dictionaries(
        {
            "ResourceId": st.sampled_from(["i-1", "i-2", ""]),
            "ConsumedQuantity": st.sampled_from(["1", "0.5", "much", "inf"]),
            "BilledCost": st.sampled_from(["0.1", "0.2", "0.3", "1e500"]),
            "ChargePeriodStart": st.sampled_from(["2026-10-01T03:00:00Z", "2026-10-01T05:00:00Z", ""]),
            "ChargeCategory": st.sampled_from(["Usage", "Usage", "Usage", "Tax"]),
        }
    ).map(lambda change: {**FOCUS_ROW, **change}),
    min_size=1,
    max_size=14,
)


@settings(max_examples=20, deadline=None)
@given(bills, st.integers(1, 4), st.integers(0, 2**16))
def test_what_is_stored_depends_on_the_rows_alone(tmp_path_factory, rows, files, seed):
    """Among the rows are equal ones, and ones that are equal but for their cost: whichever comes first."""
    folder = tmp_path_factory.mktemp("bill") / "export"
    first = stored(parts(folder, rows, 1, 0))
    assert stored(parts(folder, rows, files, seed)) == first
    assert sum(r["rows"] for r in first["counts"]) == len(rows)
    # The bill is the folder; a file that comes to lie in it changes no label.
    (folder / "2025").mkdir()
    (folder / "2025" / "part-00000.csv").write_text(csv_text([{**FOCUS_ROW, "ChargePeriodStart": "2025-01-01"}]))
    assert stored(folder) == first
    (folder / "2025" / "part-00000.csv").unlink()
    (folder / "2025").rmdir()


def test_equal_usage_of_other_cost_is_told_apart_by_content(write):
    """What the second pass is for: streaming numbers such rows as they come, a range does not."""
    rows = [{**FOCUS_ROW, "BilledCost": cost} for cost in ("1", "2", "3")]
    there, back = csv_text(rows), csv_text(rows[::-1])

    def costs(path: Path, run: Any) -> dict[str, float]:
        return {r["activity_id"]: r["cost_usd"] for r in run(path)}

    def streamed(path: Path) -> list[dict[str, Any]]:
        return [r for result in ingest(FileBilling(path).read(), OPTIONS) for r in result.ledger.to_pylist()]

    assert costs(write(there), streamed) != costs(write(back), streamed)
    ranged = [costs(write(text), lambda path: stored(path)["ledger"]) for text in (there, back)]
    assert ranged[0] == ranged[1]
    assert sorted(ranged[0].values()) == [1, 2, 3]


def test_which_line_is_the_duplicate_does_not_depend_on_the_order(write):
    """Two lines of one id, and a second delivery with one more of a line than the first."""
    ids = [{**CUR_ROW, "lineItem/UnblendedCost": cost} for cost in ("1", "2")]
    kept = [stored(write(csv_text(order)))["ledger"] for order in (ids, ids[::-1])]
    assert kept[0] == kept[1] and len(kept[0]) == 1
    first = [{**FOCUS_ROW, "BilledCost": "5"}]
    second = [{**FOCUS_ROW, "BilledCost": cost} for cost in ("5", "7")]
    kept = [
        stored([write(csv_text(first), "a.csv"), write(csv_text(order), "b.csv")])["ledger"]
        for order in (second, second[::-1])
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 2


@settings(max_examples=10, deadline=None)
@given(bills, st.integers(0, 2**16), st.data())
def test_inserting_and_deleting_rows_moves_no_other_row(tmp_path_factory, rows, seed, data):
    """References and ids of the rows that stay are as they were, whatever came before them in the file."""
    folder = tmp_path_factory.mktemp("bill") / "export"
    before = stored(parts(folder, rows, 2, 0))
    gone = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    others = [{**FOCUS_ROW, "ResourceId": f"new-{i}", "ConsumedQuantity": q} for i, q in enumerate(("1", "x"))]
    left = [row for i, row in enumerate(rows) if i not in gone]
    after = stored(parts(folder, [*others, *left], 3, seed))
    # Of rows that are equal, how many there are is what counts; so rows with an equal one that went are left out.
    keys = ("ResourceId", "ConsumedQuantity", "ChargePeriodStart")
    touched = {tuple(rows[i][k] for k in keys) for i in gone}
    untouched = [row for row in left if tuple(row[k] for k in keys) not in touched]
    alone = stored(parts(folder, untouched, 1, 0)) if untouched else {"ledger": [], "quarantine": []}
    for table, key in (("ledger", "activity_id"), ("quarantine", "raw_record_ref")):
        for snapshot in (before, after):
            found = {row[key]: row for row in snapshot[table]}
            assert all(found.get(row[key]) == row for row in alone[table]), table


# -- from a reference back to its row ---------------------------------------------------------------------------


def rows_of(folder: Path) -> dict[tuple[str, int], dict[str, str]]:
    """Every row of the CSV files of a folder, as Python's own reader sees them."""
    found = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=1):
                found[path.name, number] = row
    return found


@settings(max_examples=10, deadline=None)
@given(bills, st.integers(1, 3), st.integers(0, 2**16))
def test_every_reference_leads_to_a_row_that_makes_the_same(tmp_path_factory, rows, files, seed):
    folder = parts(tmp_path_factory.mktemp("bill") / "export", rows, files, seed)
    source, table = FileBilling(folder), stored(folder)
    all_rows = rows_of(folder)
    seen = set()
    for name, column in (("activity_ledger", "ledger"), ("quarantine", "quarantine")):
        for row in {r["raw_record_ref"]: r for r in table[column]}.values():
            found = find_record(source.read(), row["raw_record_ref"], OPTIONS)
            assert found is not None and (found.table, found.reference) == (name, row["raw_record_ref"])
            seen.add((found.file, found.row))
            original = all_rows[found.file, found.row]
            assert {k: v or "" for k, v in source.raw_row(found.file, found.row).items()} == original
            if name == "activity_ledger":
                slices = [r for r in table["ledger"] if r["raw_record_ref"] == row["raw_record_ref"]]
                assert float(original["BilledCost"]) == pytest.approx(sum(r["billed_cost"] for r in slices))
    skipped = sum(r["rows"] for r in table["counts"] if r["outcome"] == "skipped")
    assert len(seen) == len(rows) - skipped


def test_a_row_that_is_there_no_more_is_not_found(write):
    path = write(csv_text([FOCUS_ROW]))
    (row,) = stored(path)["ledger"]
    write(csv_text([{**FOCUS_ROW, "ConsumedQuantity": "2"}]))
    assert find_record(FileBilling(path).read(), row["raw_record_ref"], OPTIONS) is None
    write(csv_text([{**FOCUS_ROW, "BilledCost": "9"}]))
    found = find_record(FileBilling(path).read(), row["raw_record_ref"], OPTIONS)
    assert found is not None, "a new price is the same usage"


def test_a_bill_under_another_name_is_searched_by_content(write):
    (row,) = stored(write(csv_text([FOCUS_ROW]), "october.csv"))["ledger"]
    moved = write(csv_text([{**FOCUS_ROW, "ResourceId": "i-9"}, FOCUS_ROW]), "archive/2026.csv")
    found = find_record(FileBilling(moved).read(), row["raw_record_ref"], OPTIONS)
    assert found is not None
    assert (found.file, found.row) == ("2026.csv", 2)
    assert found.reference == row["raw_record_ref"].replace("october.csv", "2026.csv")


def test_malformed_rows_are_found_and_shown_as_text(write):
    path = write(csv_text([FOCUS_ROW]) + "only,three,fields\n")
    (bad,) = stored(path)["quarantine"]
    source = FileBilling(path)
    found = find_record(source.read(), bad["raw_record_ref"], OPTIONS)
    assert found is not None and (found.table, found.row) == ("quarantine", 2)
    assert source.raw_row("bill.csv", 2) == {"text": "only,three,fields"}
    for label, row in (("bill.csv", 3), ("other.csv", 1)):
        with pytest.raises(BillingError):
            source.raw_row(label, row)


@pytest.mark.parametrize("text", ["", "bill.csv", "bill.csv#row=7", "bill.csv#0123", "bill.csv#" + "g" * 32])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(RecordReferenceError, match="raw_record_ref"):
        find_record([], text, OPTIONS)


def test_streams_are_found_by_their_hour():
    table = pa.Table.from_pylist(
        [{**FOCUS_ROW, "ResourceId": f"i-{i}", "ChargePeriodStart": f"2026-10-01T0{i // 3}:00:00Z",
          "ChargePeriodEnd": f"2026-10-01T0{i // 3 + 1}:00:00Z"} for i in range(9)]
    )  # fmt: skip

    def read(start: datetime, end: datetime) -> pa.Table:
        hours = [datetime.fromisoformat(t) for t in table.column("ChargePeriodStart").to_pylist()]
        return table.filter(pa.array([start <= h < end for h in hours]))

    source = TableBilling(read, "cloud")
    day = (START, START.replace(hour=3))
    ledger = ingest_range(source.read(*day), *day, OPTIONS).ledger.to_pylist()
    assert {r["raw_record_ref"].split("#")[0] for r in ledger} == {"cloud"}
    for row in ledger:
        found = find_record(source.read(*day), row["raw_record_ref"], OPTIONS)
        assert found is not None
        assert found.file == f"cloud/{row['started_at']:%Y-%m-%dT%H}"
        assert source.raw_row(found.file, found.row)["ResourceId"] == row["resource_id"]

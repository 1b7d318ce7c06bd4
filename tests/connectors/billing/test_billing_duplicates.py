"""Overlapping files, repeated rows, parts of one export: what is the same line and what is not."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pyarrow as pa
import pytest
from bills import FOCUS_ROW, INSTANCES, csv_text, ingest_paths
from test_billing_formats import AZURE_ROW, CUR_ROW, GCP_ROW

from sust_dagster.agents.ingestor import IngestOptions, ingest_range
from sust_dagster.connectors.billing import FileBilling, TableBilling, from_arrow


def rows(n: int, **changes: str) -> list[dict[str, str]]:
    return [{**FOCUS_ROW, "ResourceId": f"i-{i}", **changes} for i in range(n)]


def test_identical_lines_of_one_focus_file_are_legitimate(write):
    got = ingest_paths(write(csv_text([FOCUS_ROW] * 3)))
    assert got.counts == (3, 3, 0, 0)
    assert sum(r["vcpu_hours"] for r in got.rows) == 6


def test_the_same_rows_in_a_second_file_are_duplicates(write):
    first = write(csv_text(rows(10)), "october-20.csv")
    second = write(csv_text(rows(15)), "october-31.csv")
    got = ingest_paths([first, second])
    assert got.counts == (25, 15, 0, 10)
    assert got.skipped == {"duplicate": 10}
    assert {r["raw_record_ref"].split("#")[0] for r in got.rows[:10]} == {"october-20.csv"}


def test_repeated_lines_overlap_by_their_number(write):
    first = write(csv_text([FOCUS_ROW] * 2), "a.csv")
    second = write(csv_text([FOCUS_ROW] * 5), "b.csv")
    assert ingest_paths([first, second]).counts == (7, 5, 0, 2)
    assert ingest_paths([second, first]).counts == (7, 5, 0, 2)


def test_three_overlapping_files(write):
    paths = [write(csv_text([FOCUS_ROW] * n), f"{name}.csv") for name, n in (("a", 2), ("b", 1), ("c", 3))]
    assert ingest_paths(paths).counts == (6, 3, 0, 3)


def test_the_same_path_twice(write):
    path = write(csv_text(rows(4)))
    assert ingest_paths([path, path]).counts == (8, 4, 0, 4)


def test_restated_cost_is_the_same_usage(write):
    first = write(csv_text(rows(3)), "a.csv")
    assert ingest_paths([first, write(csv_text(rows(3, BilledCost="9")), "b.csv")]).skipped == {"duplicate": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"ResourceId": "other"},
        {"ConsumedQuantity": "0.5"},
        {"ChargePeriodStart": "2026-10-01T05:30:00Z"},
        {"SubAccountId": "7"},
        {"SkuMeter": "SpotUsage:m5.large"},
        {"Tags": "{}"},
        {"ChargeClass": "Correction"},
        {"RegionId": "eu-north-1"},
    ],
)
def test_different_usage_is_no_duplicate(write, change):
    first = write(csv_text([FOCUS_ROW]), "a.csv")
    assert ingest_paths([first, write(csv_text([{**FOCUS_ROW, **change}]), "b.csv")]).counts == (2, 2, 0, 0)


def test_parts_of_one_export_are_one_delivery(write):
    folder = write(csv_text([FOCUS_ROW] * 2), "export/focus-00001.csv").parent
    write(csv_text([FOCUS_ROW] * 3), "export/focus-00002.csv")
    assert ingest_paths(folder).counts == (5, 5, 0, 0)
    # Files by date are deliveries of their own: they may overlap.
    write(csv_text([FOCUS_ROW]), "daily/bill-20261001.csv")
    other = write(csv_text([FOCUS_ROW]), "daily/bill-20261002.csv").parent
    assert ingest_paths(other).counts == (2, 1, 0, 1)


def test_cur_lines_are_known_by_their_id(write):
    twice = [CUR_ROW, CUR_ROW, {**CUR_ROW, "identity/LineItemId": "other"}]
    got = ingest_paths(write(csv_text(twice)))
    assert got.counts == (3, 2, 0, 1)
    later = {**CUR_ROW, "identity/TimeInterval": "2026-10-01T06:00:00Z/2026-10-01T07:00:00Z"}
    assert ingest_paths(write(csv_text([CUR_ROW, later]), "b.csv")).counts == (2, 2, 0, 0)
    restated = {**CUR_ROW, "lineItem/UnblendedCost": "0.09", "lineItem/UsageAmount": "0.9"}
    assert ingest_paths(write(csv_text([CUR_ROW, restated]), "c.csv")).skipped == {"duplicate": 1}


def test_cur_without_ids_falls_back_to_content(write):
    row = {k: v for k, v in CUR_ROW.items() if not k.startswith("identity/")}
    first = write(csv_text([row] * 2), "a.csv")
    assert ingest_paths([first, write(csv_text([row] * 2), "b.csv")]).counts == (4, 2, 0, 2)


def test_a_duplicate_of_a_split_row_does_not_hide_the_machine(write):
    split = {**CUR_ROW, "lineItem/UsageType": "EKS-EC2-vCPU-Hours"}
    assert ingest_paths(write(csv_text([split, CUR_ROW]))).counts == (2, 1, 0, 1)


def test_gcp_rows_of_two_export_times_are_two_usages(write):
    first = write(csv_text([GCP_ROW]), "a.csv")
    again = write(csv_text([GCP_ROW, {**GCP_ROW, "export_time": "2026-10-01T15:00:00Z"}]), "b.csv")
    assert ingest_paths([first, again]).counts == (3, 2, 0, 1)


def test_azure_month_to_date_exports_overlap(write):
    day1 = write(csv_text([AZURE_ROW]), "mtd-1.csv")
    day2 = write(csv_text([AZURE_ROW, {**AZURE_ROW, "Date": "10/06/2026"}]), "mtd-2.csv")
    got = ingest_paths([day1, day2])
    assert got.counts == (3, 2, 0, 1)
    assert got.ledger.num_rows == 48


class TestIds:
    def test_ids_survive_a_new_name_another_order_and_another_encoding(self, write):
        texts = rows(5)
        a = ingest_paths(write(csv_text(texts), "a.csv")).ledger.column("activity_id").to_pylist()
        b = ingest_paths(write(csv_text(texts[::-1]).encode("utf-16"), "sub/b.csv")).ledger
        assert set(a) == set(b.column("activity_id").to_pylist())

    def test_numbers_written_otherwise_are_the_same_line(self, write):
        a = ingest_paths(write(csv_text(rows(1, ConsumedQuantity="1")), "a.csv")).row["activity_id"]
        b = ingest_paths(write(csv_text(rows(1, ConsumedQuantity="1.000")), "b.csv")).row["activity_id"]
        assert a == b

    def test_a_known_id(self, write):
        """Ids are part of the contract: this value may change only with a migration."""
        assert ingest_paths(write(csv_text([FOCUS_ROW]))).row["activity_id"] == "1b40bbc8-4baf-5a3a-9a0e-7493d1ea55f0"

    def test_ranges_side_by_side_are_one_range(self, write):
        long = {**FOCUS_ROW, "ChargePeriodStart": "2026-10-01T00:20:00Z", "ChargePeriodEnd": "2026-10-01T07:10:00Z"}
        texts = [*rows(20), long, long, {**long, "ConsumedQuantity": "x"}]
        texts += [{**r, "ChargePeriodStart": "2026-10-01T02:00:00Z", "ChargePeriodEnd": "2026-10-01T03:00:00Z"}
                  for r in rows(6)]  # fmt: skip
        texts += [{**FOCUS_ROW, "ChargeCategory": "Tax", "ChargePeriodEnd": "2026-11-01T00:00:00Z"}]
        path = write(csv_text(texts) + "broken,row\n")
        options = IngestOptions(instances=INSTANCES)
        first, last = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 1, 8, tzinfo=UTC)
        whole = ingest_range(FileBilling(path).read(first, last), first, last, options, undated=first)
        hours = [datetime(2026, 10, 1, h, tzinfo=UTC) for h in range(9)]
        parts = [ingest_range(FileBilling(path).read(a, b), a, b, options, undated=first) for a, b in pairwise(hours)]
        for name, keys in (
            ("ledger", ["started_at", "activity_id"]),
            ("quarantine", ["raw_record_ref"]),
            ("counts", ["hour", "outcome", "class_name"]),
        ):
            order = [(k, "ascending") for k in keys]
            together = pa.concat_tables([getattr(p, name) for p in parts]).sort_by(order)
            assert together.equals(getattr(whole, name).sort_by(order)), name
        assert whole.summary() == {
            "rows_read": 31, "rows_ledger": 28, "rows_quarantined": 2, "rows_skipped": 1, "ledger_slices": 42,
        }  # fmt: skip

    def test_references_of_tables_do_not_depend_on_the_range(self):
        table = pa.Table.from_pylist(
            [{**FOCUS_ROW, "ResourceId": f"i-{i}", "ChargePeriodStart": f"2026-10-01T0{i // 3}:00:00Z",
              "ChargePeriodEnd": f"2026-10-01T0{i // 3 + 1}:00:00Z"} for i in range(9)]
        )  # fmt: skip

        def read(start, end):
            hours = [datetime.fromisoformat(t) for t in table.column("ChargePeriodStart").to_pylist()]
            return table.filter(pa.array([start <= h < end for h in hours]))

        source = TableBilling(read, "cloud")
        hours = [datetime(2026, 10, 1, h, tzinfo=UTC) for h in range(4)]

        def refs(start, end):
            return [
                ref
                for batch in source.read(start, end)
                for ref in zip(*(batch.normal.column(c).to_pylist() for c in ("x_File", "x_Row")), strict=True)
            ]

        assert refs(hours[1], hours[3]) == refs(hours[1], hours[2]) + refs(hours[2], hours[3])
        assert refs(hours[0], hours[1])[0] == ("cloud/2026-10-01T00", 1)

    def test_arrow_tables_number_their_rows(self):
        batch = from_arrow(pa.Table.from_pylist([FOCUS_ROW] * 2), "memory")
        assert batch.normal.column("x_Row").to_pylist() == [1, 2]

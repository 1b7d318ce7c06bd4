"""`sust account` end to end: known kg, each slice in its own hour, both files, byte by byte."""

from __future__ import annotations

import json
import random
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sust_cli import T0, emissions, sust, usage, write_bill, write_grid

from sust_dagster.world.schemas import ACCOUNT_COLUMNS, EMISSIONS, QUARANTINE

CONTRACT_KEYS = {
    "rows_read", "rows_ledger", "rows_quarantined", "rows_skipped", "energy_kwh", "kg_location", "kg_location_lower",
    "kg_location_upper", "kg_market", "kg_embodied", "cost_usd", "seconds",
}  # fmt: skip


def test_four_vcpus_for_twelve_minutes_at_350_g_are_1_54_g(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0, hours=0.2)])
    grid = write_grid(tmp_path / "grid.csv", (T0, "us-east-1", 350))
    said = sust("account", "--billing", bill, "--grid", grid, "--out", tmp_path / "e.parquet", "--json").json
    (row,) = emissions(tmp_path / "e.parquet")
    assert row["kg_location"] == pytest.approx(0.00154)
    assert row["energy_kwh"] == pytest.approx(0.004)
    assert row["facility_kwh"] == pytest.approx(0.0044)
    assert row["kg_market"] == row["kg_location"]
    assert row["kg_location_lower"] < row["kg_location"] < row["kg_location_upper"]
    assert (row["region"], row["team_id"], row["methodology"]) == ("us-east-1", "search", "simple/v1")
    assert said["kg_location"] == pytest.approx(0.00154)
    assert said.keys() >= CONTRACT_KEYS
    assert (said["rows_read"], said["rows_ledger"], said["slices_no_intensity"]) == (1, 1, 0)
    assert said["cost_usd"] == pytest.approx(row["cost_usd"]) == pytest.approx(0.2)


def test_eight_vcpus_and_a_gpu_for_six_hours_are_785_g(tmp_path):
    details = json.dumps({"InstanceType": "p3.2xlarge", "CoreCount": 8, "GpuCount": 1})
    rows = [usage(T0 + timedelta(hours=h), vcpus=8, SkuPriceDetails=details) for h in range(6)]
    grid = write_grid(tmp_path / "grid.csv", *((T0 + timedelta(hours=h), "us-east-1", 350) for h in range(6)))
    said = sust(
        "account", "--billing", write_bill(tmp_path / "bill.csv", rows), "--grid", grid, "--out",
        tmp_path / "e.parquet", "--json",
    ).json  # fmt: skip
    assert said["kg_location"] == pytest.approx(0.7854)


def test_each_slice_meets_its_own_hour_and_region(tmp_path):
    random_hours = random.Random(7)
    regions = ("us-east-1", "us-west-2", "eu-north-1")
    hours = [T0 + timedelta(hours=h) for h in range(72)]
    grams = {(at, r): round(random_hours.uniform(10, 900), 3) for at in hours for r in regions}
    rows = [
        usage(random_hours.choice(hours), hours=random_hours.choice((0.1, 0.5, 1.0)), vcpus=v, region=r)
        for v in range(1, 60)
        for r in regions
    ]
    rows.append(usage(T0, hours=48, vcpus=77, ChargePeriodEnd="2026-10-03T00:00:00Z"))  # many hours in one row
    random_hours.shuffle(rows)
    grid = write_grid(tmp_path / "grid.csv", *((at, r, g) for (at, r), g in grams.items()))
    said = sust(
        "account", "--billing", write_bill(tmp_path / "bill.csv", rows), "--grid", grid, "--out",
        tmp_path / "e.parquet", "--json",
    ).json  # fmt: skip
    found = emissions(tmp_path / "e.parquet")
    assert said["ledger_slices"] == len(found) == len(rows) - 1 + 48
    for row in found:
        hour = row["started_at"].replace(minute=0, second=0, microsecond=0)
        expected = row["vcpu_hours"] * 0.005 * 1.1 * grams[hour, row["region"]] / 1000
        assert row["kg_location"] == pytest.approx(expected), row
    # Negative control: the mean of the region would be another number.
    mean = {r: sum(g for (_, region), g in grams.items() if region == r) / len(hours) for r in regions}
    wrong = [row for row in found if row["kg_location"] == pytest.approx(row["energy_kwh"] * 1.1 * mean[row["region"]])]
    assert not wrong
    assert said["kg_location"] == pytest.approx(sum(r["kg_location"] for r in found))


def test_rows_years_apart_keep_their_order_and_their_hours(tmp_path):
    times = [T0.replace(year=y) for y in (2026, 2003, 2026, 2015, 2003)]
    rows = [usage(at, vcpus=i + 1) for i, at in enumerate(times)]
    grid = write_grid(tmp_path / "grid.csv", *((T0.replace(year=y), "us-east-1", y - 1900) for y in (2003, 2015, 2026)))
    sust("account", "--billing", write_bill(tmp_path / "b.csv", rows), "--grid", grid, "--out", tmp_path / "e.parquet")
    found = pq.read_table(tmp_path / "e.parquet").to_pylist()
    assert [r["vcpu_hours"] for r in found] == [1, 2, 3, 4, 5]
    assert [r["intensity_kgco2_kwh"] for r in found] == pytest.approx([(at.year - 1900) / 1000 for at in times])


def test_files_hold_the_contract_columns_first_and_plain_types(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0), {**usage(T0, vcpus=2), "ConsumedQuantity": "lots"}])
    ran = sust("account", "--billing", bill, "--out", tmp_path / "e.parquet", "--json")
    schema = pq.read_schema(tmp_path / "e.parquet")
    assert tuple(schema.names[: len(ACCOUNT_COLUMNS)]) == ACCOUNT_COLUMNS
    assert set(schema.names) == {c.name for c in EMISSIONS.columns}
    assert {n: schema.field(n).type for n in schema.names} == {f.name: f.type for f in EMISSIONS.arrow}
    refused = pq.read_table(tmp_path / "e.quarantine.parquet")
    assert refused.schema.names == [*QUARANTINE.arrow.names, "file", "row"]
    assert (refused["file"].to_pylist(), refused["row"].to_pylist()) == (["bill.csv"], [2])
    assert refused["reason"].to_pylist() == ["bad_number"]
    assert (ran.json["rows_quarantined"], ran.json["rows_ledger"]) == (1, 1)
    assert ran.json["quarantine"] == str(tmp_path / "e.quarantine.parquet")
    assert f"1 rows are quarantined, each with its reason: {tmp_path / 'e.quarantine.parquet'}" in ran.err


def test_the_quarantine_file_is_always_written_so_an_old_one_never_stays(tmp_path):
    out = tmp_path / "e.parquet"
    sust("account", "--billing", write_bill(tmp_path / "bad.csv", [usage(T0, ConsumedQuantity="x")]), "--out", out)
    assert pq.read_table(tmp_path / "e.quarantine.parquet").num_rows == 1
    sust("account", "--billing", write_bill(tmp_path / "good.csv", [usage(T0)]), "--out", out)
    assert pq.read_table(tmp_path / "e.quarantine.parquet").num_rows == 0


def test_a_bill_without_a_usable_row_gives_empty_files_and_zero(tmp_path):
    bill = write_bill(tmp_path / "bad.csv", [usage(T0, ConsumedQuantity="x")])
    said = sust("account", "--billing", bill, "--out", tmp_path / "e.parquet", "--json").json
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 0
    assert set(pq.read_schema(tmp_path / "e.parquet").names) == {c.name for c in EMISSIONS.columns}
    assert (said["ledger_slices"], said["kg_location"], said["cost_usd"]) == (0, 0.0, 0.0)


def test_again_gives_the_same_bytes_in_both_files(tmp_path):
    regions = ("us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1")
    rows = [usage(T0 + timedelta(hours=h), vcpus=v, region=r) for h in range(30) for v in (2, 4) for r in regions]
    bill = write_bill(tmp_path / "bill.csv", [*rows, usage(T0, ConsumedQuantity="x")])
    once, again, other = tmp_path / "1.parquet", tmp_path / "2.parquet", tmp_path / "3.parquet"
    sust("account", "--billing", bill, "--out", once)
    sust("account", "--billing", bill, "--out", again)
    sust("account", "--billing", bill, "--out", other, "--method", "instance-power/v1")
    for suffix in (".parquet", ".quarantine.parquet"):
        assert once.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    assert once.read_bytes() != other.read_bytes()
    # Words that occur twice in a dictionary make Parquet give it up, and write bytes that differ from run to run.
    chunks = pq.ParquetFile(once).metadata.row_group(0)
    columns = {chunks.column(i).path_in_schema: chunks.column(i).encodings for i in range(chunks.num_columns)}
    assert "RLE_DICTIONARY" in columns["provider_pue_factor_key"]


def test_money_in_another_currency_is_shown_as_billed_and_needs_a_rate(tmp_path):
    rows = [usage(T0), usage(T0, vcpus=2, BillingCurrency="CAD"), usage(T0, vcpus=8, BillingCurrency="CAD")]
    bill = write_bill(tmp_path / "bill.csv", rows)
    plain = sust("account", "--billing", bill, "--out", tmp_path / "e.parquet", "--json").json
    assert plain["cost_usd"] == pytest.approx(0.2)
    assert set(plain["cost_by_currency"]) == {"CAD", "USD"}
    assert plain["cost_by_currency"]["CAD"] == pytest.approx(0.4)
    rated = sust("account", "--billing", bill, "--fx", "cad=0.5", "--out", tmp_path / "e.parquet", "--json").json
    assert rated["cost_usd"] == pytest.approx(0.4)
    only = write_bill(tmp_path / "cad.csv", rows[1:])
    none = sust("account", "--billing", only, "--out", tmp_path / "e.parquet", "--json").json
    assert none["cost_usd"] is None
    said = sust("account", "--billing", only, "--out", tmp_path / "e.parquet").out
    assert ["cost", "not", "estimated"] in [line.split() for line in said.splitlines()]
    assert ["billed", "0.4", "CAD"] in [line.split() for line in said.splitlines()]


def test_instruments_make_the_market_figure_another(tmp_path):
    bill = write_bill(tmp_path / "bill.csv", [usage(T0)])
    header = "provider,region,start_year,end_year,factor_kg_per_kwh,kind"
    path = tmp_path / "instruments.csv"
    path.write_text(f"{header}\naws,us-east-1,2026,2026,x,PPA\n", encoding="utf-8")
    ran = sust("account", "--billing", bill, "--instruments", path, "--out", tmp_path / "e.parquet")
    assert (ran.code, "instruments.csv" in ran.err) == (3, True)


def test_memory_does_not_grow_with_the_number_of_batches(tmp_path, monkeypatch):
    """Many small batches of many months: lookups are made once a month, not once a batch."""
    from sust_dagster.faces import calculation

    made = []
    real = calculation.hourly
    monkeypatch.setattr(calculation, "hourly", lambda *a, **k: made.append(a[1:3]) or real(*a, **k))
    source = calculation.StaticGrid()
    calculate = calculation.Calculation(source, method="simple/v1")
    write_bill(tmp_path / "b.csv", [usage(T0 + timedelta(hours=31 * h), vcpus=2 + h % 3) for h in range(120)])
    sust("ingest", "--billing", tmp_path / "b.csv", "--out", tmp_path / "l.parquet")
    ledger = pq.read_table(tmp_path / "l.parquet")
    whole = calculate(ledger)
    first = len(made)
    assert first == len(set(made)) == 6
    pieces = [calculate(ledger.slice(i, 7)) for i in range(0, ledger.num_rows, 7)]
    assert len(made) == first
    text = [c for c in whole.column_names if pa.types.is_dictionary(whole.schema.field(c).type)]
    together = pa.concat_tables(pieces)
    for name in whole.column_names:
        expected, found = whole[name], together[name]
        assert (found.to_pylist() if name in text else found.combine_chunks()) == (
            expected.to_pylist() if name in text else expected.combine_chunks()
        ), name

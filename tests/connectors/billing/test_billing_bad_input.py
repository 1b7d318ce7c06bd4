"""Bad bills: a bad row is quarantined with its reason, a bad file is an error that names the fix."""

from __future__ import annotations

import gzip
import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from bills import FOCUS_ROW, csv_text, ingest_paths

from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.connectors.billing import BillingError, FileBilling


def only(got):
    (row,) = got.quarantine.to_pylist()
    return row


class TestRows:
    def test_wrong_number_of_fields(self, write):
        text = csv_text([FOCUS_ROW, FOCUS_ROW, FOCUS_ROW]).splitlines()
        text[2] = "only,three,fields"
        got = ingest_paths(write("\n".join(text) + "\n"))
        assert got.counts == (3, 2, 1, 0)
        bad = only(got)
        assert got.bad == [("bill.csv", 2)]
        assert bad["raw_record_ref"] == f"bill.csv#{hashlib.md5(bad['raw_record'].encode()).hexdigest()}"
        assert bad["reason"] == "wrong_number_of_fields"
        assert bad["value"] == f"3 fields instead of {len(FOCUS_ROW)}"
        assert json.loads(bad["raw_record"]) == {"text": "only,three,fields"}
        assert "quote values" in bad["fix"]
        assert got.numbers == [1, 3]
        assert bad["quarantined_for"] == datetime(2026, 10, 1, 5, tzinfo=UTC)

    def test_rows_keep_their_numbers_around_many_bad_ones(self, write):
        lines = csv_text([FOCUS_ROW] * 3000).splitlines()
        bad = set(range(7, 3000, 13))
        for row in bad:
            lines[row] = "x"
        got = ingest_paths(write("\n".join(lines)), block_bytes=50_000)
        assert {row for _, row in got.bad} == bad
        assert set(got.numbers) == set(range(1, 3001)) - bad

    @pytest.mark.parametrize(
        ("change", "reason", "column", "value"),
        [
            ({"ConsumedQuantity": "a lot"}, "bad_number", "ConsumedQuantity", "a lot"),
            ({"ConsumedQuantity": "1,5"}, "bad_number", "ConsumedQuantity", "1,5"),
            ({"ConsumedQuantity": "1.234,5"}, "bad_number", "ConsumedQuantity", "1.234,5"),
            ({"BilledCost": "$3"}, "bad_number", "BilledCost", "$3"),
            ({"ConsumedQuantity": ""}, "missing_quantity", "ConsumedQuantity", None),
            ({"ConsumedQuantity": "NaN"}, "not_finite", "ConsumedQuantity", "NaN"),
            ({"ConsumedQuantity": "inf"}, "not_finite", "ConsumedQuantity", "inf"),
            ({"ConsumedQuantity": "-Infinity"}, "not_finite", "ConsumedQuantity", "-Infinity"),
            ({"ConsumedQuantity": "1e308"}, "out_of_range", "ConsumedQuantity", "1e308"),
            ({"BilledCost": "1e308"}, "out_of_range", "BilledCost", "1e308"),
            ({"BilledCost": "inf"}, "not_finite", "BilledCost", "inf"),
            ({"ChargePeriodStart": "yesterday"}, "bad_time", "ChargePeriodStart", "yesterday"),
            ({"ChargePeriodStart": "2026-02-30T00:00:00Z"}, "bad_time", "ChargePeriodStart", "2026-02-30T00:00:00Z"),
            ({"ChargePeriodEnd": "10/01/2026"}, "bad_time", "ChargePeriodEnd", "10/01/2026"),
            ({"ChargePeriodEnd": "2026-10-01T04:00:00Z"}, "end_before_start", "ChargePeriodEnd",
             "2026-10-01T04:00:00Z"),
            ({"ChargePeriodEnd": "2026-10-01T05:00:00Z"}, "empty_period", "ChargePeriodEnd", "2026-10-01T05:00:00Z"),
            ({"ChargePeriodEnd": ""}, "missing_period", "ChargePeriodEnd", None),
            ({"ChargePeriodEnd": "2029-10-01T05:00:00Z"}, "period_too_long", "ChargePeriodEnd", "2029-10-01T05:00:00Z"),
            ({"ChargePeriodStart": "1970-01-01T00:00:00Z"}, "time_out_of_range", "ChargePeriodStart",
             "1970-01-01T00:00:00Z"),
            ({"ChargeCategory": "Gift"}, "unknown_charge_type", "ChargeCategory", "Gift"),
            ({"ChargeCategory": ""}, "unknown_charge_type", "ChargeCategory", None),
        ],
    )  # fmt: skip
    def test_a_bad_value_costs_its_row(self, focus, change, reason, column, value):
        got = focus({}, change, {"ResourceId": "i-3"})
        assert got.counts == (3, 2, 1, 0)
        bad = only(got)
        assert (bad["reason"], bad["column"], bad["value"]) == (reason, column, value)
        assert got.bad == [("bill.csv", 2)]
        assert bad["fix"]
        raw = json.loads(bad["raw_record"])
        assert raw["ResourceId"] == "i-0001"
        assert raw[column] == value
        assert sum(r["usage_hours"] for r in got.rows) == 2.0

    def test_invalid_utf_8_in_single_rows(self, write):
        rows = [{**FOCUS_ROW, "ResourceId": f"i-{i}"} for i in range(40)]
        data = csv_text(rows).encode().replace(b"i-7,", b"i-\xff\xfe7,").replace(b"i-9,", b"i-\xe9,")
        got = ingest_paths(write(data))
        assert got.counts == (40, 38, 2, 0)
        assert got.reasons == {"not_utf8": 2}
        first = got.quarantine.to_pylist()[0]
        assert (got.bad[0], first["column"]) == (("bill.csv", 8), "ResourceId")
        assert "\ufffd" in first["value"]

    def test_a_row_both_malformed_and_not_utf_8(self, write):
        data = csv_text([FOCUS_ROW] * 20).encode() + b"x,\xff\n"
        assert ingest_paths(write(data)).reasons == {"wrong_number_of_fields": 1}

    def test_zero_usage_stays(self, focus):
        assert focus({"ConsumedQuantity": "0"}).row["resource_qty"] == 0.0

    def test_zones_and_offsets(self, focus):
        got = focus(
            {"ChargePeriodStart": "2026-10-25T02:30:00+02:00", "ChargePeriodEnd": "2026-10-25T02:30:00+01:00"},
            {"ChargePeriodStart": "2026-03-29T01:30:00+01:00", "ChargePeriodEnd": "2026-03-29T03:30:00+02:00"},
            {"ChargePeriodStart": "2026-10-01T05:00:00.250Z", "ChargePeriodEnd": "2026-10-01 05:45:00 UTC"},
            {"ChargePeriodStart": "2026-10-01T05:00Z", "ChargePeriodEnd": "2026-10-01T05:30:00+0000"},
        )
        assert got.reasons == {}
        # The hour that daylight saving repeats is two hours apart in the texts and one hour long in UTC.
        autumn = [r for r, number in zip(got.rows, got.numbers, strict=True) if number == 1]
        assert autumn[0]["started_at"] == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
        assert autumn[-1]["ended_at"] == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
        spring = [r for r, number in zip(got.rows, got.numbers, strict=True) if number == 2]
        assert spring[-1]["ended_at"] - spring[0]["started_at"] == timedelta(hours=1)

    def test_two_currencies(self, focus):
        got = focus({}, {"BillingCurrency": "CAD"}, {"BillingCurrency": ""})
        usd, cad, none = got.rows
        assert (usd["cost_usd"], usd["quality"]) == (0.096, "ok")
        assert (cad["cost_usd"], cad["billed_cost"], cad["billing_currency"]) == (None, 0.096, "CAD")
        assert cad["quality"] == "no_fx_rate"
        assert (none["cost_usd"], none["quality"]) == (None, "no_fx_rate")
        rated = focus({"BillingCurrency": "CAD"}, options=IngestOptions(fx_usd={"CAD": 0.5})).row
        assert (rated["cost_usd"], rated["quality"]) == (0.048, "ok")

    def test_unknown_region_and_unit_are_flagged(self, focus):
        got = focus({"RegionId": "atlantis-9"}, {"RegionId": "", "SkuMeter": "x"}, {"ConsumedUnit": "Furlongs"})
        strange, missing, unit = got.rows
        assert (strange["region"], strange["quality"]) == ("atlantis-9", "unknown_region")
        assert missing["region"] == "unknown"
        assert "unknown_region" in missing["quality"]
        assert "unknown_unit" in unit["quality"]
        assert unit["resource_qty"] == 1.0

    def test_more_hours_than_the_period_has(self, focus):
        row = focus({"ConsumedQuantity": "7"}).row
        assert (row["usage_hours"], row["quality"]) == (7.0, "usage_exceeds_period")

    def test_formulas_in_names_are_data(self, focus):
        evil = "=cmd|' /C calc'!A0"
        row = focus({"ResourceId": evil, "Tags": json.dumps({"team": "@SUM(1)", "tier": "batch"})}).row
        assert (row["resource_id"], row["team_id"]) == (evil, "@SUM(1)")


class TestFiles:
    def test_missing(self, tmp_path):
        with pytest.raises(BillingError, match=r"nothing\.csv: does not exist; check the path"):
            FileBilling(tmp_path / "nothing.csv")

    def test_no_paths(self):
        with pytest.raises(BillingError, match="no bill was named"):
            FileBilling([])

    def test_empty_folder(self, tmp_path):
        (tmp_path / "notes.md").write_text("x")
        with pytest.raises(BillingError, match="holds no bill"):
            FileBilling(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\xff\xfe"])
    def test_empty_file(self, write, content):
        with pytest.raises(BillingError, match=r"bill\.csv: is empty; export it again"):
            ingest_paths(write(content))

    def test_header_alone_is_a_bill_of_no_rows(self, write):
        assert ingest_paths(write(csv_text([FOCUS_ROW]).splitlines()[0] + "\n\n")).counts == (0, 0, 0, 0)
        assert ingest_paths(write(csv_text([FOCUS_ROW]).splitlines()[0])).counts == (0, 0, 0, 0)

    def test_required_columns(self, write):
        row = {k: v for k, v in FOCUS_ROW.items() if k not in ("ConsumedQuantity", "ServiceName")}
        with pytest.raises(BillingError) as caught:
            ingest_paths(write(csv_text([row])))
        assert "looks like focus-1.1, but required columns are missing: ConsumedQuantity, ServiceName" in str(
            caught.value
        )
        assert (caught.value.file, caught.value.column) == ("bill.csv", "ConsumedQuantity")

    def test_truncated_gzip(self, write):
        data = gzip.compress(csv_text([{**FOCUS_ROW, "ResourceId": f"i-{i * 7919}"} for i in range(5000)]).encode())
        with pytest.raises(BillingError, match=r"bill\.csv\.gz.*truncated or damaged.*fetch the file again"):
            ingest_paths(write(data[: len(data) // 2], "bill.csv.gz"))

    def test_damaged_gzip(self, write):
        data = bytearray(gzip.compress(csv_text([FOCUS_ROW] * 5000).encode()))
        data[40:80] = b"\x00" * 40
        with pytest.raises(BillingError, match="truncated or damaged"):
            ingest_paths(write(bytes(data), "bill.csv.gz"))

    def test_damaged_parquet(self, write):
        with pytest.raises(BillingError, match="is no readable Parquet file"):
            ingest_paths(write(b"PAR1" + b"\x00" * 100, "bill.parquet"))

    @pytest.mark.parametrize(("magic", "name"), [(b"PK\x03\x04rest", "zip"), (b"\xd0\xcf\x11\xe0rest", "excel")])
    def test_archives_and_workbooks(self, write, magic, name):
        with pytest.raises(BillingError, match=f"is a {name} file; unpack it, or export"):
            ingest_paths(write(magic))

    def test_latin_1(self, write):
        rows = [{**FOCUS_ROW, "ResourceId": f"caf\xe9-{i}"} for i in range(50)]
        with pytest.raises(BillingError, match=r"50 of the first 50 rows are not UTF-8; export the file as UTF-8"):
            ingest_paths(write(csv_text(rows).encode("latin-1")))

    def test_utf_16_without_mark(self, write):
        with pytest.raises(BillingError, match="UTF-16 without a byte-order mark"):
            ingest_paths(write(csv_text([FOCUS_ROW]).encode("utf-16-le")))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_encodings(self, write, encoding):
        rows = [{**FOCUS_ROW, "ResourceId": f"grün-日本-{i}"} for i in range(3000)]
        got = ingest_paths(write(csv_text(rows).encode(encoding)), block_bytes=100_000)
        assert got.counts == (3000, 3000, 0, 0)
        assert got.rows[2999]["resource_id"] == "grün-日本-2999"

    @pytest.mark.parametrize("delimiter", [";", "\t"])
    def test_other_delimiters(self, write, delimiter):
        import csv as module
        import io

        out = io.StringIO()
        writer = module.DictWriter(out, list(FOCUS_ROW), delimiter=delimiter)
        writer.writeheader()
        writer.writerow(FOCUS_ROW)
        assert ingest_paths(write(out.getvalue())).counts == (1, 1, 0, 0)

    @pytest.mark.parametrize("rows", [40, 4000])
    def test_a_quote_that_is_never_closed(self, write, rows):
        plain = {k: v for k, v in FOCUS_ROW.items() if '"' not in v}
        text = csv_text([{**plain, "ResourceId": f"i-{i}"} for i in range(rows)]).replace("i-5,", '"i-5,', 1)
        with pytest.raises(BillingError, match=r"bill\.csv, row 6: a quoted value is never closed"):
            ingest_paths(write(text), block_bytes=100_000)

    def test_line_breaks_inside_quotes(self, write):
        rows = [{**FOCUS_ROW, "ResourceId": f"i\n{i}"} for i in range(2000)]
        got = ingest_paths(write(csv_text(rows)), block_bytes=20_000)
        assert got.counts == (2000, 2000, 0, 0)
        assert got.numbers[1999] == 2000

    def test_columns_of_one_name(self, write):
        header, row = csv_text([FOCUS_ROW]).splitlines()
        got = ingest_paths(write(f"{header},Tags\n{row},zzz\n"))
        assert got.row["team_id"] == "search"

    def test_unknown_kind_of_url(self):
        with pytest.raises(BillingError, match=r"ftp://host/x: ftp:// is not read; use a path, or s3://"):
            FileBilling("ftp://host/x")

    def test_bad_order_of_dates(self, write):
        with pytest.raises(BillingError, match="give 'mdy' or 'dmy'"):
            FileBilling(write(csv_text([FOCUS_ROW])), dates="ymd")  # ty: ignore[invalid-argument-type]

    def test_an_error_in_the_second_file_comes_after_the_first(self, write):
        good = write(csv_text([FOCUS_ROW]), "a.csv")
        source = FileBilling([good, write("x,y\n1,2\n", "b.csv")])
        batches = source.read()
        assert next(batches).normal.num_rows == 1
        with pytest.raises(BillingError, match=r"b\.csv"):
            next(batches)

    def test_stopping_early_ends_the_reader(self, write):
        import threading

        source = FileBilling(write(csv_text([FOCUS_ROW] * 5000)), block_bytes=50_000)
        batches = source.read()
        next(batches)
        batches.close()
        assert not [t for t in threading.enumerate() if t.name == "bill-reader"]

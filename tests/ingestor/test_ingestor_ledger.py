"""Rows in, ledger and quarantine out: conservation, flags, options, and that no row is lost."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normal import ROW, normal_rows

from sust_dagster.agents.ingestor import (
    BillBatch,
    Flag,
    IngestOptions,
    IngestResult,
    OptionError,
    Rejects,
    ingest,
    ingest_range,
    normal_table,
    to_ledger,
)
from sust_dagster.agents.ingestor.normal_form import CHARGE_KINDS, FLAG_DOCS, NormalFormError, flag_text
from sust_dagster.agents.ingestor.quarantine import REASONS
from sust_dagster.agents.ingestor.resources import InstanceTableError, hours_of_month
from sust_dagster.world.schemas import ACTIVITY_LEDGER, INGEST_COUNTS, QUARANTINE, RESOURCE_TYPES

START = datetime(2026, 10, 1, tzinfo=UTC)
amounts = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: round(v, 6))
rows = st.lists(
    st.fixed_dictionaries(
        {
            "ConsumedQuantity": amounts,
            "BilledCost": amounts,
            "ChargePeriodStart": st.integers(0, 60 * 24 * 40).map(lambda m: START + timedelta(minutes=m)),
            "minutes": st.integers(-30, 60 * 24 * 3),
            "ConsumedUnit": st.sampled_from(["Hours", "GB", "GB-Mo", "Requests", "Strange", None]),
            "x_ChargeKind": st.sampled_from(["usage", "usage", "usage", "tax", "gift", None]),
            "ResourceId": st.sampled_from(["a", "b", None]),
            "x_Delivery": st.sampled_from([0, 0, 1]),
        }
    ),
    min_size=1,
    max_size=25,
)


def made(given_rows):
    changes = []
    for r in sorted(given_rows, key=lambda r: r["x_Delivery"]):
        change = {k: v for k, v in r.items() if k != "minutes"}
        change["ChargePeriodEnd"] = r["ChargePeriodStart"] + timedelta(minutes=r["minutes"])
        changes.append(change)
    return normal_rows(*changes)


@settings(max_examples=120, deadline=None)
@given(rows, st.sampled_from(["flat", "office-hours"]))
def test_every_row_ends_in_one_place_and_amounts_are_kept(given_rows, shape):
    table = made(given_rows)
    result = to_ledger(table, IngestOptions(load_shape=shape))
    assert result.rows_read == table.num_rows == result.rows_ledger + result.rows_quarantined + result.rows_skipped
    assert pc.sum(result.counts.column("rows")).as_py() == table.num_rows
    ledger = ACTIVITY_LEDGER.conform(result.ledger)
    QUARANTINE.conform(result.quarantine)
    assert set(ledger.column("resource_type").to_pylist()) <= set(RESOURCE_TYPES)
    ids = ledger.column("activity_id").to_pylist()
    assert len(set(ids)) == len(ids)
    source = {r["x_Row"]: r for r in table.to_pylist()}
    totals: dict[int, list[float]] = {}
    refs: dict[str, int] = {}
    for row, number in zip(ledger.to_pylist(), result.ledger_at.column("row").to_pylist(), strict=True):
        assert refs.setdefault(row["raw_record_ref"], number) == number
        total = totals.setdefault(number, [0.0, 0.0, 0.0])
        total[0] += row["cost_usd"]
        total[1] += row["resource_qty"]
        total[2] += row["usage_hours"]
        assert (
            row["started_at"]
            < row["ended_at"]
            <= row["started_at"].replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        )
        long = source[number]["ChargePeriodEnd"] - source[number]["ChargePeriodStart"] > timedelta(hours=1)
        assert ("shaped" in row["quality"].split(";")) == long
        assert (row["charge_class"] == "correction") == (source[number]["ConsumedQuantity"] < 0)
    assert len(totals) == len(refs) == result.rows_ledger
    for number, (cost, quantity, hours) in totals.items():
        row = source[number]
        month = hours_of_month(np.array([int(row["ChargePeriodStart"].timestamp() * 1e6)]))[0]
        # A machine without a unit is billed by the hour; two vCPUs each.
        factor = {"Hours": 2.0, None: 2.0, "GB-Mo": month}.get(row["ConsumedUnit"], 1.0)
        assert cost == pytest.approx(row["BilledCost"], rel=1e-9, abs=1e-9)
        assert quantity == pytest.approx(row["ConsumedQuantity"] * factor, rel=1e-9, abs=1e-9)
        if row["ConsumedUnit"] == "Hours":
            assert hours == pytest.approx(row["ConsumedQuantity"], rel=1e-9, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 30))
def test_batches_of_any_size_give_the_same(given_rows, most):
    table = made(given_rows)
    whole = to_ledger(table)
    run = ingest([BillBatch("bill.csv", table.slice(i, 3)) for i in range(0, table.num_rows, 3)])
    run._max_slices = most
    parts = list(run)
    ledger = pa.concat_tables([p.ledger for p in parts])
    assert ledger.equals(whole.ledger)
    assert run.summary.skipped == whole.skipped
    assert run.summary.rows_read == whole.rows_read
    assert run.summary.as_dict()["rows_ledger"] == whole.rows_ledger


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(1, 30 * 24))
def test_windows_side_by_side_are_the_whole(given_rows, border):
    table = made(given_rows)
    batch = BillBatch("bill.csv", table)
    middle, last = START + timedelta(hours=border), START + timedelta(days=90)
    first = START - timedelta(days=1)
    whole = ingest_range([batch], first, last)
    left, right = ingest_range([batch], first, middle), ingest_range([batch], middle, last, undated=first)
    order = [("activity_id", "ascending")]
    assert pa.concat_tables([left.ledger, right.ledger]).sort_by(order).equals(whole.ledger.sort_by(order))
    assert left.rows_read + right.rows_read == whole.rows_read == table.num_rows
    INGEST_COUNTS.conform(whole.counts)
    references = [("raw_record_ref", "ascending")]
    both = pa.concat_tables([left.quarantine, right.quarantine])
    assert both.sort_by(references).equals(whole.quarantine.sort_by(references))


def test_no_rows():
    result = to_ledger(normal_rows())
    assert (result.rows_read, result.ledger.num_rows, result.quarantine.num_rows) == (0, 0, 0)
    assert result.ledger.schema.equals(ACTIVITY_LEDGER.arrow)


def test_counts_that_do_not_add_up_are_refused():
    result = to_ledger(normal_rows({}))
    with pytest.raises(AssertionError, match="rows went missing"):
        IngestResult(**{**vars(result), "rows_read": 2})


def test_quarantined_rows_without_a_raw_table_show_the_normal_row():
    (bad,) = to_ledger(normal_rows({"ConsumedQuantity": float("nan")})).quarantine.to_pylist()
    assert (bad["reason"], bad["column"]) == ("not_finite", "ConsumedQuantity")
    assert json.loads(bad["raw_record"])["ResourceId"] == "i-1"
    assert bad["quarantined_for"] == datetime(2026, 10, 1, 5, tzinfo=UTC)


def test_undated_rejects_go_to_the_projects_hour():
    rejects = Rejects(
        rows=pa.array([7]),
        reason=pa.array(["wrong_number_of_fields"]),
        column=pa.nulls(1, pa.string()),
        value=pa.array(["x"]),
        raw=pa.array(["{}"]),
        hour=pa.nulls(1, pa.timestamp("us", tz="UTC")),
    )
    batch = BillBatch("bill.csv", normal_rows({}), rejects)
    five, seven = datetime(2026, 10, 1, 5, tzinfo=UTC), datetime(2026, 10, 1, 7, tzinfo=UTC)
    assert ingest_range([batch], five, seven, undated=five).summary()["rows_quarantined"] == 1
    elsewhere = ingest_range([batch], five, seven, undated=START)
    assert elsewhere.summary() == {
        "rows_read": 1, "rows_ledger": 1, "rows_quarantined": 0, "rows_skipped": 0, "ledger_slices": 1,
    }  # fmt: skip
    at_home = ingest_range([batch], START, START + timedelta(hours=1), undated=START)
    assert at_home.quarantine.column("quarantined_for").to_pylist() == [START]
    assert at_home.counts.to_pylist()[0]["class_name"] == "wrong_number_of_fields"
    (first,) = ingest([batch])
    assert first.quarantine.column("quarantined_for").to_pylist() == [five]


def test_machine_sizes_from_the_reference_table():
    table = pa.table(
        {
            "provider": ["aws", "aws"],
            "instance_type": ["m5.large", "p3.2xlarge"],
            "vcpus": [2, 8],
            "memory_gib": [8.0, 61.0],
            "gpus": [0, 1],
            "gpu_model": ["", "V100"],
        }
    )
    bare = {"x_VCpus": None, "x_Gpus": None}
    changes = (
        {**bare, "x_InstanceType": "m5.large"},
        {**bare, "x_InstanceType": "db.m5.large", "SkuMeter": "InstanceUsage:db.m5.large"},
        {**bare, "x_InstanceType": "p3.2xlarge"},
        {**bare, "x_InstanceType": "m99.large"},
    )
    plain, database, gpu, unknown = to_ledger(normal_rows(*changes), IngestOptions(instances=table)).ledger.to_pylist()
    assert (plain["vcpus"], plain["memory_gib"], plain["gpus"], plain["gpu_model"]) == (2, 8, 0, None)
    assert database["vcpus"] == 2
    assert (gpu["gpus"], gpu["gpu_model"], gpu["resource_type"]) == (1, "V100", "gpu")
    assert (unknown["vcpus"], unknown["quality"]) == (None, "unknown_instance")


@pytest.mark.parametrize("size", [0.0, -1.0, None])
def test_a_size_of_nothing_is_no_size(size):
    (row,) = to_ledger(normal_rows({"x_VCpus": size})).ledger.to_pylist()
    assert (row["vcpus"], row["quality"]) == (None, "unknown_instance")


def test_serverless_memory_becomes_vcpus_and_says_so():
    change = {"ConsumedUnit": "Lambda-GB-Second", "ConsumedQuantity": 3600.0, "SkuMeter": "Lambda-GB-Second",
              "x_InstanceType": None, "x_VCpus": None}  # fmt: skip
    (row,) = to_ledger(normal_rows(change)).ledger.to_pylist()
    assert row["vcpu_hours"] == pytest.approx(1024 / 1769)
    assert row["quality"] == "derived_vcpus"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cost_basis": "list"}, "cost basis 'list' is unknown"),
        ({"fx_usd": {"EUR": 0.0}}, r"rates of \['EUR'\]"),
        ({"fx_usd": {"EUR": float("nan")}}, r"rates of \['EUR'\]"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(OptionError, match=message):
        IngestOptions(**options)


def test_an_instance_table_without_its_columns():
    with pytest.raises(InstanceTableError, match=r"lacks \['vcpus'"):
        to_ledger(normal_rows({}), IngestOptions(instances=pa.table({"provider": ["aws"], "instance_type": ["x"]})))


def test_the_normal_form_is_checked():
    with pytest.raises(NormalFormError, match=r"unknown columns \['Colour'\]"):
        normal_table({"Colour": pa.array(["red"])}, 1)
    with pytest.raises(NormalFormError, match=r"columns \['x_File'"):
        normal_table({"SkuId": pa.array(["a"])}, 1)
    good = {n: pa.array([ROW.get(n) or "1"]) for n in ("x_File", "x_Provider", "x_ChargeKind")}
    with pytest.raises(NormalFormError, match="column BilledCost"):
        normal_table({**good, "x_Row": pa.array([1]), "BilledCost": pa.array(["much"])}, 1)


def test_everything_named_is_documented():
    assert set(FLAG_DOCS) == {f.name.lower() for f in Flag if f.name}
    assert all(CHARGE_KINDS.values())
    assert all(REASONS.values())
    assert flag_text(np.array([0, 3, 1], np.uint32)).to_pylist() == [
        "ok", "naive_timestamp;shaped", "naive_timestamp",
    ]  # fmt: skip


def test_the_ledger_knows_nothing_of_cost_when_it_comes_to_usage():
    """Negative control: whatever a row costs, its usage is the same."""
    usage = [
        to_ledger(normal_rows({"BilledCost": cost})).ledger.column("vcpu_hours").to_pylist()
        for cost in (0.0, 5.0, -3.0, 1e6, None)
    ]
    assert usage == [[2.0]] * 5


def test_a_purchase_never_becomes_activity():
    """Negative control: the same row with another kind of charge leaves no ledger row."""
    for kind in CHARGE_KINDS:
        result = to_ledger(normal_rows({"x_ChargeKind": kind}))
        assert result.ledger.num_rows == (1 if kind == "usage" else 0)
        assert result.skipped == ({} if kind == "usage" else {kind: 1})

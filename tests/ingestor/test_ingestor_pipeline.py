"""Batches: put together where that is safe, cut where they would grow too large, counted as they go."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from normal import normal_rows

from sust_dagster.agents.ingestor import BillBatch, Ingestion, IngestSummary, Rejects, ingest
from sust_dagster.agents.ingestor.pipeline import gathered

START = datetime(2026, 10, 1, tzinfo=UTC)


def batch(label, rows, rejects=0, columns=None):
    table = normal_rows(*({"x_File": label, "ResourceId": f"{label}-{i}"} for i in range(rows)))
    bad = Rejects(
        rows=pa.array(range(100, 100 + rejects), pa.int64()),
        reason=pa.array(["bad_number"] * rejects, pa.string()),
        column=pa.nulls(rejects, pa.string()),
        value=pa.nulls(rejects, pa.string()),
        raw=pa.array(["{}"] * rejects, pa.string()),
        hour=pa.nulls(rejects, pa.timestamp("us", tz="UTC")),
    )
    return BillBatch(label, table, bad, source_columns=columns or {})


def test_small_neighbours_are_put_together():
    batches = [batch("a", 3), batch("b", 3), batch("c", 3), batch("d", 9)]
    assert [b.normal.num_rows for b in gathered(batches, rows=7)] == [6, 3, 9]
    assert [b.normal.num_rows for b in gathered([], rows=7)] == []


def test_batches_with_rejects_or_of_another_shape_stay_alone():
    batches = [batch("a", 2), batch("b", 2, rejects=1), batch("c", 2), batch("d", 2, columns={"BilledCost": "cost"})]
    assert [b.label for b in gathered(batches)] == ["a", "b", "c", "d"]
    run = ingest(batches)
    results = list(run)
    bad = [row for result in results for row in result.quarantine.to_pylist()]
    assert [r["raw_record_ref"] for r in bad] == [f"b#{hashlib.md5(b'{}').hexdigest()}"]
    assert [row for result in results for row in result.quarantine_at.to_pylist()] == [{"file": "b", "row": 100}]
    assert dict(run.summary.files) == {"a": 2, "b": 3, "c": 2, "d": 2}


def test_rows_keep_their_file():
    results = list(ingest([batch("a", 2), batch("b", 2)]))
    at = pa.concat_tables([r.ledger_at for r in results])
    assert [tuple(row.values()) for row in at.to_pylist()] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    refs = pa.concat_tables([r.ledger for r in results]).column("raw_record_ref").to_pylist()
    assert [r.split("#")[0] for r in refs] == ["a", "a", "b", "b"] and len(set(refs)) == 4


def test_long_periods_are_taken_in_steps():
    month = {"ChargePeriodStart": START, "ChargePeriodEnd": START + timedelta(days=31)}
    table = normal_rows(*({**month, "ResourceId": f"i-{i}"} for i in range(10)))
    run = Ingestion([BillBatch("bill.csv", table)], max_slices=2000)
    sizes = [r.ledger.num_rows for r in run]
    assert sum(sizes) == 10 * 744
    assert max(sizes) <= 3 * 744
    assert run.summary.rows_ledger == 10


def test_the_summary_is_plain_and_adds_up():
    table = normal_rows(
        {"BillingCurrency": "CAD"},
        {"x_ChargeKind": "tax"},
        {"ConsumedQuantity": float("inf")},
        {"ResourceId": "i-2", "Tags": None},
    )
    run = ingest([BillBatch("bill.csv", table)])
    assert isinstance(run.summary, IngestSummary)
    list(run)
    assert run.summary.as_dict() == {
        "rows_read": 4,
        "rows_ledger": 2,
        "rows_quarantined": 1,
        "rows_skipped": 1,
        "ledger_slices": 2,
        "skipped": {"tax": 1},
        "quarantined": {"not_finite": 1},
        "quality": {"no_fx_rate": 1, "no_tier": 1, "unmapped_team": 1},
        "files": {"bill.csv": 4},
        "cost_usd": 0.1,
        "vcpu_hours": 4.0,
        "first": "2026-10-01T05:00:00+00:00",
        "last": "2026-10-01T06:00:00+00:00",
    }
    assert run.summary.service_hours.table().num_rows == 1


def test_times_without_a_zone_are_refused():
    with pytest.raises(ValueError, match="has no zone"):
        ingest([], window=(START.replace(tzinfo=None), START))

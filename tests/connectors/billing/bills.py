"""Small bills for the tests, and the way from a bill to ledger, quarantine and counts."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sust_dagster.agents.ingestor import IngestOptions, IngestSummary, ingest
from sust_dagster.agents.ingestor.sorting import POSITIONS
from sust_dagster.connectors.billing import FileBilling
from sust_dagster.world.schemas import ACTIVITY_LEDGER, QUARANTINE

FOCUS_ROW: dict[str, Any] = {
    "BilledCost": "0.096",
    "BillingAccountId": "111122223333",
    "BillingCurrency": "USD",
    "BillingPeriodStart": "2026-10-01T00:00:00Z",
    "BillingPeriodEnd": "2026-11-01T00:00:00Z",
    "ChargeCategory": "Usage",
    "ChargeClass": "",
    "ChargeDescription": "m5.large Linux On-Demand instance-hours",
    "ChargePeriodStart": "2026-10-01T05:00:00Z",
    "ChargePeriodEnd": "2026-10-01T06:00:00Z",
    "ConsumedQuantity": "1",
    "ConsumedUnit": "Hours",
    "EffectiveCost": "0.08",
    "ProviderName": "AWS",
    "RegionId": "us-east-1",
    "ResourceId": "i-0001",
    "ServiceCategory": "Compute",
    "ServiceName": "Amazon Elastic Compute Cloud",
    "SkuMeter": "BoxUsage:m5.large",
    "SkuPriceDetails": '{"InstanceType":"m5.large","CoreCount":2,"MemorySize":8}',
    "SubAccountId": "444455556666",
    "Tags": '{"team":"search","service":"index","workload":"rank","job":"rank-7","tier":"batch"}',
}

INSTANCES = pa.table(
    {
        "provider": ["aws", "aws", "aws", "azure", "gcp"],
        "instance_type": ["m5.large", "p3.2xlarge", "t3.large", "Standard_D2s_v3", "e2-medium"],
        "vcpus": [2, 8, 2, 2, 2],
        "memory_gib": [8.0, 61.0, 8.0, 8.0, 4.0],
        "gpus": [0, 1, 0, 0, 0],
        "gpu_model": ["", "V100", "", "", ""],
    }
)


def csv_text(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV; the columns are those of the first row unless given."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@dataclass
class Ingested:
    """What became of a bill."""

    ledger: pa.Table
    quarantine: pa.Table
    summary: IngestSummary
    ledger_at: pa.Table
    quarantine_at: pa.Table

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.ledger.to_pylist()

    @property
    def numbers(self) -> list[int]:
        """Row number in the bill of each ledger row."""
        return self.ledger_at.column("row").to_pylist()

    @property
    def bad(self) -> list[tuple[str, int]]:
        """File and row number of each quarantined row."""
        return [(r["file"], r["row"]) for r in self.quarantine_at.to_pylist()]

    @property
    def row(self) -> dict[str, Any]:
        (only,) = self.rows
        return only

    @property
    def reasons(self) -> dict[str, int]:
        return dict(self.summary.quarantined)

    @property
    def skipped(self) -> dict[str, int]:
        return dict(self.summary.skipped)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        s = self.summary
        return s.rows_read, s.rows_ledger, s.rows_quarantined, s.rows_skipped


def ingest_paths(paths: Any, options: IngestOptions | None = None, **arguments: Any) -> Ingested:
    """Ingest files and check that every row ended in one place and every table is as declared."""
    run = ingest(FileBilling(paths, **arguments).read(), options or IngestOptions(instances=INSTANCES))
    results = list(run)
    ledger = pa.concat_tables([ACTIVITY_LEDGER.empty(), *(r.ledger for r in results)])
    quarantine = pa.concat_tables([QUARANTINE.empty(), *(r.quarantine for r in results)])
    names = ("ledger_at", "quarantine_at")
    at = [pa.concat_tables([POSITIONS.empty_table(), *(getattr(r, name) for r in results)]) for name in names]
    assert [t.num_rows for t in at] == [ledger.num_rows, quarantine.num_rows]
    for table in (ledger, quarantine):
        assert table.column("raw_record_ref").null_count == 0
    refs = quarantine.column("raw_record_ref").to_pylist()
    assert len(set(refs)) == len(refs)
    s = run.summary
    assert s.rows_read == s.rows_ledger + s.rows_quarantined + s.rows_skipped
    assert s.rows_quarantined == quarantine.num_rows
    assert s.rows_skipped == sum(s.skipped.values())
    assert s.rows_read == sum(s.files.values())
    ids = ledger.column("activity_id").to_pylist()
    assert len(set(ids)) == len(ids)
    return Ingested(ACTIVITY_LEDGER.conform(ledger), QUARANTINE.conform(quarantine), s, *at)

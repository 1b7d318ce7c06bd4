"""Rows in the normal form for the tests, given as differences from a usual row."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sust_dagster.agents.ingestor import NORMAL, normal_table

ROW: dict[str, Any] = {
    "x_File": "bill.csv",
    "x_Delivery": 0,
    "x_Format": "focus-1.2",
    "x_Flags": 0,
    "x_Provider": "aws",
    "x_ChargeKind": "usage",
    "ChargePeriodStart": datetime(2026, 10, 1, 5, tzinfo=UTC),
    "ChargePeriodEnd": datetime(2026, 10, 1, 6, tzinfo=UTC),
    "BilledCost": 0.1,
    "BillingCurrency": "USD",
    "ConsumedQuantity": 1.0,
    "ConsumedUnit": "Hours",
    "ServiceName": "Amazon Elastic Compute Cloud",
    "SkuMeter": "BoxUsage:m5.large",
    "RegionId": "us-east-1",
    "ResourceId": "i-1",
    "x_InstanceType": "m5.large",
    "x_VCpus": 2.0,
    "x_Gpus": 0.0,
    "Tags": '{"team":"search","tier":"batch"}',
}


def normal_rows(*changes: dict[str, Any]) -> pa.Table:
    """A normal table of the usual row with these changes, numbered from 1."""
    rows = [{**ROW, "x_Row": i + 1, **c} for i, c in enumerate(changes)]
    rows = [{"x_Bill": r["x_File"], **r} for r in rows]
    columns = {}
    for field in NORMAL:
        values = [r.get(field.name) for r in rows]
        if pa.types.is_dictionary(field.type):
            columns[field.name] = pa.array(values, pa.string()).dictionary_encode()
        elif field.name in ("x_Flags", "x_Delivery"):
            columns[field.name] = pa.array([v or 0 for v in values], field.type)
        else:
            columns[field.name] = pa.array(values, field.type)
    return normal_table(columns, len(rows))

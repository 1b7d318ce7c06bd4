"""Small tables the accountant's tests are written in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from sust_dagster.world.schemas import ACTIVITY_LEDGER, GRID_INTENSITY

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def grid_rows(
    regions: dict[str, list[float]], *, start: datetime = T0, system=(0.8, 1.25), hour=(0.95, 1.05), **columns
) -> pa.Table:
    """GRID_INTENSITY rows: region -> kg/kWh per hour from ``start``; NaN leaves the hour out."""
    rows = [
        {
            "ts": start + i * HOUR,
            "region": region,
            "intensity_kgco2_kwh": value,
            "source": "test",
            "zone": None,
            "signal": "average",
            "method": "lifecycle",
            "estimated": False,
            "quality": "ok",
            "system_rel_lower": system[0],
            "system_rel_upper": system[1],
            "hour_rel_lower": hour[0],
            "hour_rel_upper": hour[1],
            **columns,
        }
        for region, values in regions.items()
        for i, value in enumerate(values)
        if not np.isnan(value)
    ]
    return GRID_INTENSITY.conform(pa.Table.from_pylist(rows, GRID_INTENSITY.arrow) if rows else GRID_INTENSITY.empty())


def ledger_row(number: int = 0, **columns) -> dict[str, object]:
    """One compute slice: 4 vCPU for 12 minutes in us-east-1, the founding design's CI job."""
    started = columns.get("started_at", T0)
    row: dict[str, object] = {
        "activity_id": f"activity-{number}",
        "job_id": f"job-{number}",
        "workload_id": "ci",
        "service_name": "CI",
        "team_id": "platform",
        "cloud_provider": "aws",
        "region": "us-east-1",
        "instance_type": "m5.xlarge",
        "resource_type": "compute",
        "resource_qty": 0.8,
        "resource_unit": "vCPU-h",
        "cost_usd": 0.15,
        "workload_category": "balanced",
        "started_at": started,
        "ended_at": started + timedelta(minutes=12),
        "source": "billing_api",
        "usage_hours": 0.2,
        "vcpus": 4.0,
        "gpus": 0.0,
        "vcpu_hours": 0.8,
        "gpu_hours": 0.0,
        "memory_gib": 16.0,
        "charge_class": "usage",
        "quality": "ok",
    }
    return row | columns


def ledger(*rows: dict[str, object]) -> pa.Table:
    """Ledger rows in ACTIVITY_LEDGER shape."""
    return ACTIVITY_LEDGER.conform(pa.Table.from_pylist(list(rows), ACTIVITY_LEDGER.arrow))

"""Worlds and helpers the simulator's tests share."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.placements import Placements

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="session")
def start() -> datetime:
    return START


@pytest.fixture(scope="session")
def cloud() -> FakeCloud:
    return FakeCloud(42)


@pytest.fixture(scope="session")
def placed_cloud() -> FakeCloud:
    """A month in which every movable group of five workloads is placed somehow."""
    hours = pa.array([START.replace(day=d, hour=h) for d in range(1, 29) for h in range(24)], pa.timestamp("us", "UTC"))

    def rows(workload_id: str, **given: object) -> pa.Table:
        columns: dict[str, object] = {"workload_id": pa.repeat(workload_id, len(hours)), "requested_hour": hours}
        for name, value in given.items():
            columns[name] = pa.repeat(value, len(hours))
        return pa.table(columns)

    placements = (
        Placements.from_rows(rows("etl-orders", region="eu-north-1", delay_hours=7.0, spot=True, vcpus_scale=0.5))
        .with_rows(rows("train-ranking", region="us-west-2", delay_hours=24.0, spot=True))
        .with_rows(rows("ci-checkout-build", region="us-west-2", delay_hours=2.0))
        .with_rows(rows("svc-cart", vcpus_scale=0.5))
        .with_rows(rows("dev-data", delay_hours=3.5))
    )
    return FakeCloud(42, placements=placements)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the project; tests that need it are skipped where it is not there."""
    path = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no shared data at ../shared/data ({path})")
    return path

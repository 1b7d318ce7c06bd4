"""Small problems for the planner's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from sust_dagster.agents.planner.problem import Places, Problem
from sust_dagster.world.schemas import UPCOMING_JOBS

DAY = datetime(2026, 2, 2, tzinfo=UTC)
#: Hours since the epoch of DAY's first.
FIRST_HOUR = int(DAY.timestamp()) // 3600
REGIONS = ("us-east-1", "eu-north-1", "eu-west-1")


def problem(n: int, **arrays: Any) -> Problem:
    """``n`` one-hour jobs of 1 kW at home in the first region, three regions, 48 hours; ``arrays`` replace fields."""
    regions = arrays.pop("regions", REGIONS)
    r = len(regions)
    carbon = arrays.pop("carbon", np.tile(np.array([[0.4], [0.1], [0.3]])[:r], (1, 48)))
    hours = carbon.shape[1]
    home = np.asarray(arrays.pop("home", np.zeros(n, np.int64)))
    egress = np.full((r, r), 0.02)
    np.fill_diagonal(egress, 0.0)
    places = Places(
        allowed=arrays.pop("allowed", np.ones((r, r), bool)),
        egress_usd_per_gb=arrays.pop("egress_usd_per_gb", egress),
        penalty_usd=arrays.pop("penalty_usd", np.zeros((r, r))),
        latency_delta_ms=arrays.pop("latency_delta_ms", np.full((r, r), 10.0) * (1 - np.eye(r))),
    )
    plain: dict[str, Any] = {
        "regions": regions,
        "first_hour": FIRST_HOUR,
        "carbon": carbon,
        "price": np.ones((r, 1)),
        "capacity": np.full((r, hours), np.inf),
        "available": np.ones((r, hours), bool),
        "places": places,
        "place": home.copy(),
        "home": home,
        "start_hours": np.zeros(n),
        "duration_hours": np.ones(n),
        "kw": np.ones(n),
        "vcpus": np.full(n, 4.0),
        "money": np.ones(n),
        "data_gb": np.zeros(n),
        "max_delay": np.full(n, 24, np.int64),
    }
    return Problem(**{**plain, **arrays})


def upcoming(rows: list[dict[str, Any]]) -> pa.Table:
    """UPCOMING_JOBS rows; what a row does not say is that of a build expected once."""
    plain = {
        "planned_for": DAY, "job_id": "group", "workload_id": "build", "team_id": "search", "service_tier": "ci",
        "cloud_provider": "aws", "region": "us-east-1", "category": "sustainable", "requested_start": DAY,
        "duration_hours": 1.0, "vcpus": 4.0, "gpus": 0.0, "it_kw": 1.0, "cost_usd": 1.0, "expected_count": 1.0,
        "runs_seen": 50, "origin": "schedule", "quality": "ok", "instance_type": "c5.xlarge",
    }  # fmt: skip
    full = [{**plain, "job_id": f"group-{k}", **r} for k, r in enumerate(rows)]
    table = pa.Table.from_pylist(
        full, pa.schema([f for f in UPCOMING_JOBS.arrow if f.name in {k for r in full for k in r}])
    )
    return UPCOMING_JOBS.conform(table)

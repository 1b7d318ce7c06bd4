"""The hold-out arm of a plan: drawn by workload and hour alone, and left as it is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.agents.planner.holdout import planned_and_held_out
from sust_dagster.world.holdout import held_out

T0 = datetime(2026, 1, 5, 4, tzinfo=UTC)


def groups(workloads: int, hours: int) -> pa.Table:
    rows = [(f"w{w}", T0 + timedelta(hours=h)) for w in range(workloads) for h in range(hours)]
    return pa.table(
        {
            "workload_id": [w for w, _ in rows],
            "requested_start": pa.array([h for _, h in rows], pa.timestamp("us", tz="UTC")),
            "job_id": [f"{w}@{h:%d%H}" for w, h in rows],
        }
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.1]))
def test_what_is_left_out_is_what_the_draw_says_and_nothing_else(seed: int, share: float) -> None:
    whole = groups(20, 24)
    planned, stay = planned_and_held_out(whole, seed, share)
    drawn = held_out(seed, whole["workload_id"], whole["requested_start"], share)
    assert stay == drawn.sum()
    assert planned.num_rows + stay == whole.num_rows
    assert not held_out(seed, planned["workload_id"], planned["requested_start"], share).any()


def test_the_share_is_what_was_asked_for() -> None:
    whole = groups(200, 100)
    _, stay = planned_and_held_out(whole, 42, 0.05)
    assert abs(stay / whole.num_rows - 0.05) < 4 * (0.05 * 0.95 / whole.num_rows) ** 0.5


def test_no_share_leaves_the_plan_alone() -> None:
    whole = groups(3, 3)
    assert planned_and_held_out(whole, 42, 0.0) == (whole, 0)
    assert planned_and_held_out(whole.slice(0, 0), 42, 0.05)[1] == 0

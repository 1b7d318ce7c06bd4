"""Rows that fit any declared table, and decisions in any state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from sust_dagster.world.books import Books
from sust_dagster.world.decisions import TRANSITIONS, Event, Transition, event_of
from sust_dagster.world.schemas import BOOL, FLOAT, INT, STRING, TIMESTAMP, Agent, TableSpec

START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday: a slot of every partition but the month
MONTH = datetime(2026, 1, 1, tzinfo=UTC)
LENGTH = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=31)}

PROPOSAL = {
    "workload_id": "nightly-etl",
    "team_id": "data",
    "service_tier": "batch",
    "planned_for": "2026-01-06T00:00:00+00:00",
    "issued_at": "2026-01-05T03:00:00+00:00",
    "objective": "effective-cost",
    "policy_version": 1,
    "action_type": "region_shift",
    "current_config": {"region": "us-east-1", "start": "2026-01-05T03:00:00Z"},
    "proposed_config": {"region": "us-west-2", "start": "2026-01-05T03:00:00Z"},
    "est_carbon_delta_kg": -1.5,
    "est_carbon_delta_kg_lower": -2.0,
    "est_carbon_delta_kg_upper": -1.0,
    "est_cost_delta_usd": 0.25,
    "cost_before_usd": 40.0,
    "est_latency_delta_ms": 12.0,
    "confidence": 0.9,
    "workload_category": "balanced",
    "rationale_text": "Oregon's grid is cleaner",
    "risk_level": "low",
}

#: What leads to each state.
PATHS = {
    "proposed": (),
    "approved": ("proposed",),
    "rejected": ("proposed",),
    "expired": ("proposed",),
    "executing": ("proposed", "approved"),
    "executed": ("proposed", "approved", "executing"),
    "failed": ("proposed", "approved", "executing"),
    "verified": ("proposed", "approved", "executing", "executed"),
}
OWNERS: dict[str, Agent] = {to: agent for _, to, agent in TRANSITIONS}


def sample(spec: TableSpec, i: int = 0, **changes: Any) -> dict[str, Any]:
    """A row of a table; each ``i`` has a key of its own."""
    at = MONTH if spec.partition == "month" else START
    values = {STRING: f"text-{i}", FLOAT: 1.5 + i, INT: i, BOOL: True, TIMESTAMP: at}
    return {c.name: values[c.type] for c in spec.stored} | changes


def sample_table(spec: TableSpec, rows: int = 1, **changes: Any) -> pa.Table:
    return pa.Table.from_pylist([sample(spec, i, **changes) for i in range(rows)], schema=spec.arrow)


def slot(spec: TableSpec) -> tuple[datetime, datetime]:
    begin = MONTH if spec.partition == "month" else START
    return begin, begin + LENGTH[spec.partition]


def step(recommendation: str, to_status: str, **fields: Any) -> Transition:
    """A transition that is in order wherever its state is."""
    given: dict[str, Any] = {"reason": "as planned", "plan_hash": f"plan-{recommendation}"}
    if to_status == "proposed":
        given["payload"] = PROPOSAL
    return Transition(recommendation, to_status, **(given | fields))


def bring_to(books: Books, recommendation: str, to_status: str) -> None:
    """Walk a recommendation to a state, each step by its own agent."""
    for status in (*PATHS[to_status], to_status):
        books.decide(OWNERS[status], [step(recommendation, status)], START)


def event(
    recommendation: str, to_status: str, sequence: int, from_status: str | None, **changes: Any
) -> dict[str, Any]:
    """A decision event as a plain row, in order or not."""
    transition = step(recommendation, to_status)
    history: list[Event] = [
        {"sequence": i, "to_status": from_status, "plan_hash": transition.plan_hash} for i in range(sequence)
    ]
    row = event_of(transition, changes.pop("agent", OWNERS[to_status]), history, START)
    return row | {"from_status": from_status} | changes

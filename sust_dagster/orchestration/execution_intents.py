"""Intents as rows and events: what the execution desk writes into the books, and how it is read back.

Belongs here: payloads of the outbox, transitions of an execution, the order a target gets, queries for both. Does not
belong here: when any of it is written (``execution_desk``), what a change is (``agents.executor``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sust_dagster.agents.executor.fallback import FellBack
from sust_dagster.agents.executor.orders import Change, baseline_of
from sust_dagster.agents.executor.outbox import Attempt, Row, in_order, row
from sust_dagster.connectors.targets import Applied, Order, Preview
from sust_dagster.world.access import AgentSnapshot
from sust_dagster.world.canonical import content_hash
from sust_dagster.world.decisions import Event, Transition, is_human, proposal_of


@dataclass(frozen=True)
class Prepared:
    """A change as it was shown before the transaction."""

    change: Change | None
    preview: Preview | None
    frozen: str
    fell_back: tuple[FellBack, ...]
    refusal: str | None = None
    """The target's no; then nothing is sent."""
    unavailable: str | None = None
    rest: tuple[Mapping[str, Any], ...] = ()
    """Groups that follow when the canary does well."""


def intent_payload(history: Sequence[Event], made: Prepared) -> dict[str, Any]:
    """Payload of an intent: the exact change, what it replaces, and the baseline, frozen before acting."""
    change, preview = made.change, made.preview
    assert change is not None
    baseline = baseline_of(history)
    return {
        "target": change.target,
        "part": change.part,
        "order": order_json(change),
        "change": {} if preview is None else dict(preview.change),
        "before": {} if preview is None else dict(preview.before),
        "text": "" if preview is None else preview.text,
        "change_hash": made.frozen,
        "baseline": baseline,
        "baseline_hash": content_hash(baseline),
        "fell_back": [f.as_json() for f in made.fell_back],
        "rest": [dict(p) for p in made.rest],
    }


def first_row(change: Change, said: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    of = {"intent_id": change.intent_id, "recommendation_id": change.recommendation_id}
    return row(of, 0, "intended", said, now)


def executing(history: Sequence[Event], change: Change, said: Mapping[str, Any]) -> Transition:
    payload = {
        "target": change.target,
        "intent_id": change.intent_id,
        "change_hash": said["change_hash"],
        "baseline_hash": said["baseline_hash"],
        "fell_back": [f["job_id"] for f in said["fell_back"]],
    }
    return Transition(
        change.recommendation_id,
        "executing",
        f"approved until {proposal_of(history[-1:]).get('holds_until')}; the intent is written",
        plan_hash=change.plan_hash,
        policy_version=history[-1]["policy_version"],
        payload=payload,
    )


def ended(first: Event, target: str, to_status: str, reason: str, said: Mapping[str, Any]) -> Transition:
    payload = {"target": target, "execution_ref": said.get("ref")}
    return Transition(first["recommendation_id"], to_status, reason, plan_hash=first["plan_hash"], payload=payload)


def result_of(step: Attempt, found: Applied) -> dict[str, Any]:
    return {"attempt": step.number, "ref": found.ref, "detail": dict(found.detail), "read_back": "as wanted"}


def order_json(change: Change) -> dict[str, Any]:
    """An order's fields as JSON, but for its key."""
    fields = {name: getattr(change, name) for name in ORDER_FIELDS}
    return {**fields, "planned_for": change.planned_for.isoformat()}


ORDER_FIELDS = (
    "recommendation_id", "plan_hash", "workload_id", "team_id", "service_tier", "action_type", "planned_for", "current",
    "proposed", "facts",
)  # fmt: skip


def order_of(change: Change) -> Order:
    return order_from(order_json(change), change.intent_id)


def order_from(fields: Mapping[str, Any], intent_id: str) -> Order:
    """The order of an intent, from its fields as JSON."""
    return Order(
        intent_id=intent_id,
        recommendation_id=fields["recommendation_id"],
        plan_hash=fields["plan_hash"],
        workload_id=fields["workload_id"],
        team_id=fields["team_id"],
        service_tier=fields["service_tier"],
        action_type=fields["action_type"],
        planned_for=datetime.fromisoformat(fields["planned_for"]),
        current=fields["current"],
        proposed=fields["proposed"],
        facts=fields["facts"],
    )


def overdue(history: Sequence[Event], now: datetime) -> str | None:
    """Why it is too late to apply what was begun in time; None where it is not."""
    approved = next((e for e in history if e["to_status"] == "approved"), None)
    until = None if approved is None else proposal_of([approved]).get("holds_until")
    if not isinstance(until, str):
        return "approval_expired: it names no instant until which it counts"
    return None if now < datetime.fromisoformat(until) else f"approval_expired: it counted until {until}"


def rejections_of(snapshot: AgentSnapshot, history: Sequence[Event]) -> int:
    """How often people rejected this plan, in whatever recommendation it came."""
    return rejections_among(snapshot, [history])[history[0]["plan_hash"]]


def rejections_among(snapshot: AgentSnapshot, histories: Iterable[Sequence[Event]]) -> Counter[str]:
    """How often people rejected each of these plans, in whatever recommendation it came, by plan hash."""
    where = {"plan_hash": sorted({history[0]["plan_hash"] for history in histories})}
    said = snapshot.read_books("approvals", {**where, "verdict": "reject"}).to_pylist()
    events = snapshot.read_books("decision_events", {**where, "to_status": "rejected"}).to_pylist()
    return Counter(row["plan_hash"] for row in [*said, *(e for e in events if is_human(e["actor"]))])


def intents_of(snapshot: AgentSnapshot, recommendations: Sequence[str]) -> dict[str, list[Row]]:
    """Rows of the intents of some recommendations, in order, by intent."""
    found: dict[str, list[Row]] = {}
    for made in snapshot.read_books("outbox", {"recommendation_id": list(recommendations)}).to_pylist():
        found.setdefault(made["intent_id"], []).append(made)
    return {intent: in_order(rows) for intent, rows in found.items()}


def largest_first(histories: Mapping[str, Sequence[Event]]) -> list[str]:
    """The largest saving first, so that a cap leaves out the least."""

    def saving(recommendation: str) -> float:
        kg = proposal_of(histories[recommendation]).get("est_carbon_delta_kg")
        return float(kg) if isinstance(kg, int | float) else 0.0

    return sorted(histories, key=lambda r: (saving(r), r))

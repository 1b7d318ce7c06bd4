"""The state machine of decisions: which transition is allowed, by whom, and what its event must carry.

Belongs here: the transition table, the rules an event must meet, the fold of events into a state. Pure
functions over plain rows. Does not belong here: storage (``books``), who holds which verb on which table
(``permissions``), the judgement whether to approve (the governance agent).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sust_dagster.world.canonical import content_hash
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import ACTION_TYPES, AGENTS, CATEGORIES, DECISION_EVENTS, Agent

DecisionVerb = Literal["propose", "approve", "execute", "verify"]
Event = dict[str, Any]

#: (from, to, agent): every transition there is. No state but these, no way back, one agent each.
TRANSITIONS: tuple[tuple[str | None, str, Agent], ...] = (
    (None, "proposed", "planner"),
    ("proposed", "approved", "governance"),
    ("proposed", "rejected", "governance"),
    ("proposed", "expired", "governance"),
    ("approved", "executing", "executor"),
    ("approved", "expired", "governance"),
    ("executing", "executed", "executor"),
    ("executing", "failed", "executor"),
    ("executed", "verified", "verifier"),
)

#: The verb of the permission matrix that a transition into a state needs.
VERB_BY_STATUS: Mapping[str, DecisionVerb] = {
    "proposed": "propose",
    "approved": "approve",
    "rejected": "approve",
    "expired": "approve",
    "executing": "execute",
    "executed": "execute",
    "failed": "execute",
    "verified": "verify",
}

#: Transitions that name the plan they are about: an edited plan voids an approval.
BOUND_TO_PLAN = ("proposed", "approved", "executing")

RISK_LEVELS = ("low", "medium", "high")

#: Proposals of these risks may be approved without signatures, if the policy says so; any other needs two people.
RISK_WITHOUT_SIGNATURES = ("low", "medium")
SIGNERS_OF_HIGH_RISK = 2


class TransitionRefused(ValueError):  # noqa: N818 - a refusal is an answer, not a fault
    """The event does not follow from the recommendation's state, or lacks what its transition needs."""

    def __init__(self, recommendation_id: str, to_status: str, why: str) -> None:
        self.recommendation_id = recommendation_id
        self.to_status = to_status
        super().__init__(f"recommendation {recommendation_id}: no transition to '{to_status}': {why}")


@dataclass(frozen=True)
class Transition:
    """What an agent asks for: a recommendation's next state, who decided it and why."""

    recommendation_id: str
    to_status: str
    reason: str
    actor: str | None = None
    """Who decided: an account; none = the agent itself."""
    role: str | None = None
    plan_hash: str | None = None
    """SHA-256 of the canonical plan; must be given, and be the proposed one, to approve and to execute."""
    policy_version: int | None = None
    payload: Mapping[str, Any] | None = None
    """The proposal's fields on 'proposed'; references (``execution_ref``, ...) on others."""


@dataclass(frozen=True)
class Decided:
    """The event of a transition, and whether this call is the one that appended it."""

    event: Event
    appended: bool


def is_human(actor: str) -> bool:
    """Whether an actor is an account and not one of the agents."""
    return actor not in AGENTS


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _config(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    return isinstance(value, dict)


def _instant(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


#: What the payload of a 'proposed' event must hold, by the names of the recommendations table. Carbon and
#: cost are both in it: no recommendation without the two estimates.
PROPOSAL_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "workload_id": (_text, "a text"),
    "team_id": (_text, "a text"),
    "service_tier": (lambda v: v is None or _text(v), "a text or null"),
    "planned_for": (_instant, "an instant as ISO text with its zone"),
    "issued_at": (_instant, "an instant as ISO text with its zone"),
    "objective": (_text, "a text"),
    "policy_version": (_whole, "a whole number"),
    "action_type": (lambda v: v in ACTION_TYPES, f"one of {', '.join(ACTION_TYPES)}"),
    "current_config": (_config, "a JSON object"),
    "proposed_config": (_config, "a JSON object"),
    "est_carbon_delta_kg": (_number, "a finite number"),
    "est_carbon_delta_kg_lower": (_number, "a finite number"),
    "est_carbon_delta_kg_upper": (_number, "a finite number"),
    "est_cost_delta_usd": (_number, "a finite number"),
    "cost_before_usd": (_number, "a finite number"),
    "confidence": (lambda v: _number(v) and 0 <= v <= 1, "a number from 0 to 1"),
    "workload_category": (lambda v: v in CATEGORIES, f"one of {', '.join(CATEGORIES)}"),
    "rationale_text": (_text, "a text"),
    "risk_level": (lambda v: v in RISK_LEVELS, f"one of {', '.join(RISK_LEVELS)}"),
}


#: What a plan is: the fields of a proposal that its hash is taken over.
PLAN_FIELDS = ("workload_id", "planned_for", "action_type", "objective", "policy_version", "proposed_config")


def plan_hash(proposal: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical plan in a proposal's fields: what an approval is bound to.

    ``planned_for`` is an instant or its ISO text, ``proposed_config`` an object or its JSON text; both forms give the
    same hash. Raises ``KeyError`` for a missing field, ``ValueError`` for one that has no canonical form.
    """
    plan = {name: proposal[name] for name in PLAN_FIELDS}
    if not isinstance(plan["planned_for"], datetime):
        plan["planned_for"] = datetime.fromisoformat(plan["planned_for"])
    plan["planned_for"] = plan["planned_for"].astimezone(UTC).isoformat()
    if isinstance(plan["proposed_config"], str):
        plan["proposed_config"] = json.loads(plan["proposed_config"])
    return content_hash(plan)


def fold(events: Iterable[Event]) -> str | None:
    """The state a recommendation is in after its events; ``None`` before the first."""
    last = max(events, key=lambda e: e["sequence"], default=None)
    return None if last is None else last["to_status"]


def event_of(transition: Transition, agent: Agent, history: Sequence[Event], now: datetime) -> Event:
    """The event this transition would append after ``history`` (ordered by sequence). Not yet checked."""
    sequence = len(history)
    from_status = history[-1]["to_status"] if history else None
    payload = None if transition.payload is None else _canonical(transition)
    plan_hash = transition.plan_hash
    if plan_hash is None and history and transition.to_status not in BOUND_TO_PLAN:
        plan_hash = history[0]["plan_hash"]
    return {
        "event_id": _event_id(transition.recommendation_id, sequence, transition.to_status),
        "recommendation_id": transition.recommendation_id,
        "sequence": sequence,
        "from_status": from_status,
        "to_status": transition.to_status,
        "agent": agent,
        "actor": transition.actor or agent,
        "role": transition.role,
        "reason": transition.reason,
        "plan_hash": plan_hash,
        "policy_version": transition.policy_version,
        "payload": payload,
        "occurred_at": now,
    }


def _event_id(recommendation_id: str, sequence: int, to_status: str) -> str:
    return uuid5("decision_event", recommendation_id, sequence, to_status)


def proposal_of(history: Sequence[Event]) -> dict[str, Any]:
    """The fields of the proposal a history begins with; empty where there are none that can be read."""
    try:
        fields = json.loads(history[0]["payload"]) if history else {}
    except (TypeError, ValueError):
        fields = {}
    return fields if isinstance(fields, dict) else {}


def needs_signatures(history: Sequence[Event]) -> bool:
    """Whether the proposal's own risk asks for the signatures of two people; what is not known does."""
    return proposal_of(history).get("risk_level") not in RISK_WITHOUT_SIGNATURES


def check_event(
    event: Event, history: Sequence[Event], rejected_by: Mapping[str, str], signers: Collection[str] = ()
) -> None:
    """Raise :class:`TransitionRefused` unless ``event`` may follow ``history``.

    ``rejected_by`` maps the hash of each plan a person rejected to that person; ``signers`` are the accounts whose
    signatures under this very plan hold at the event's instant.
    """

    def refuse(why: str) -> TransitionRefused:
        return TransitionRefused(event["recommendation_id"], event["to_status"], why)

    to_status, agent, actor = event["to_status"], event["agent"], event["actor"]
    state = fold(history)
    owners = [a for f, t, a in TRANSITIONS if (f, t) == (state, to_status)]
    if not owners:
        allowed = [t for f, t, _ in TRANSITIONS if f == state]
        raise refuse(f"it is {_described(history)}; from there: {', '.join(allowed) or 'nothing, the state is final'}")
    if agent not in owners:
        raise refuse(f"that is the {owners[0]}'s to say, not the {agent}'s")
    if not is_human(actor) and actor != agent:
        raise refuse(f"actor '{actor}' is an agent and not the {agent}")
    if event["sequence"] != len(history) or event["from_status"] != state:
        raise refuse(f"the event says {event['sequence']} after {event['from_status']}, it is {len(history)}, {state}")
    if event["event_id"] != _event_id(event["recommendation_id"], event["sequence"], to_status):
        raise refuse(f"its event_id {event['event_id']} is not the one of this transition")
    if not _text(event["reason"]):
        raise refuse("no reason is given")
    _check_plan(event, history, rejected_by, refuse)
    if to_status == "proposed":
        _check_proposal(event["payload"], refuse)
    if to_status == "approved" and needs_signatures(history):
        people = sorted({s for s in signers if is_human(s)} - {history[0]["actor"]})
        if len(people) < SIGNERS_OF_HIGH_RISK:
            raise refuse(
                f"a high-risk plan needs the signatures of two people; signed: {', '.join(people) or 'nobody'}"
            )


def _check_plan(
    event: Event,
    history: Sequence[Event],
    rejected_by: Mapping[str, str],
    refuse: Callable[[str], TransitionRefused],
) -> None:
    to_status, plan_hash = event["to_status"], event["plan_hash"]
    if to_status in BOUND_TO_PLAN and not _text(plan_hash):
        raise refuse("it must name the plan_hash it is about")
    if history and plan_hash is not None and plan_hash != history[0]["plan_hash"]:
        raise refuse(f"it is about plan {plan_hash}, proposed was {history[0]['plan_hash']}")
    if to_status in BOUND_TO_PLAN and plan_hash in rejected_by:
        raise refuse(f"{rejected_by[plan_hash]} rejected plan {plan_hash}; that is final for this plan")


def _check_proposal(payload: str | None, refuse: Callable[[str], TransitionRefused]) -> None:
    fields = proposal_of([{"payload": payload}])
    if not fields:
        raise refuse("its payload is not a JSON object with the proposal's fields, such as workload_id")
    for name, (valid, wanted) in PROPOSAL_FIELDS.items():
        if not valid(fields.get(name)):
            raise refuse(f"its payload's {name} must be {wanted}, it is {fields.get(name)!r}")
    latency = fields.get("est_latency_delta_ms")
    if latency is not None and not _number(latency):
        raise refuse(f"its payload's est_latency_delta_ms must be a finite number or null, it is {latency!r}")


def same_event(one: Event, other: Event) -> bool:
    """Whether two rows are the same event, column for column."""
    return all(one.get(c) == other.get(c) for c in DECISION_EVENTS.column_names)


def _described(history: Sequence[Event]) -> str:
    if not history:
        return "not proposed yet"
    last = history[-1]
    return f"{last['to_status']} by {last['actor']} since {last['occurred_at'].isoformat()}"


def _canonical(transition: Transition) -> str:
    try:
        return json.dumps(
            transition.payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        why = f"its payload is not JSON: {error}"
        raise TransitionRefused(transition.recommendation_id, transition.to_status, why) from error

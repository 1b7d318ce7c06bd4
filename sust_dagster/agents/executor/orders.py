"""What is to be carried out: the change of one approval, read back from its decision events.

Belongs here: the fields of an order, the idempotency key, the baseline that is frozen before acting, and what "the
same change, byte for byte" means. Does not belong here: whether it may be carried out (``limits``, governance), how an
outside system does it (the targets), what to do when a place is closed (``fallback``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sust_dagster.world.canonical import canonical_json, content_hash
from sust_dagster.world.decisions import PLAN_FIELDS, Event, proposal_of
from sust_dagster.world.ids import uuid5

#: What of a change one intent carries out: all of it, the first share of production work, or what is left of that.
Part = Literal["all", "canary", "rest"]

#: Fields of a proposal that people read beside a change. They decide nothing.
FACTS = (
    "est_carbon_delta_kg", "est_carbon_delta_kg_lower", "est_carbon_delta_kg_upper", "est_cost_delta_usd",
    "est_latency_delta_ms", "confidence", "risk_level", "risk_reasons", "rationale_text", "workload_category",
)  # fmt: skip

#: Fields of a proposal that say how things stood before: what a verified saving is measured against.
BASELINE = (
    "workload_id", "team_id", "service_tier", "workload_category", "planned_for", "issued_at", "action_type",
    "current_config", "est_carbon_delta_kg", "est_carbon_delta_kg_lower", "est_carbon_delta_kg_upper",
    "est_cost_delta_usd", "cost_before_usd", "expected_runs", "kg_before",
)  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One approved change with its idempotency key; the desk hands it to a target as an ``Order``."""

    intent_id: str
    recommendation_id: str
    plan_hash: str
    workload_id: str
    team_id: str
    service_tier: str | None
    action_type: str
    planned_for: datetime
    current: Mapping[str, Any]
    proposed: Mapping[str, Any]
    facts: Mapping[str, Any]
    target: str
    part: Part = "all"

    @property
    def placements(self) -> list[Mapping[str, Any]]:
        """The job groups it places, in the order of the plan."""
        return list(self.proposed.get("placements", ()))

    def of(self, placements: Sequence[Mapping[str, Any]], part: Part | None = None) -> Change:
        """The same change with these groups; ``part``: as that part of it, under a key of its own."""
        part = part or self.part
        key = intent_id(self.recommendation_id, self.plan_hash, self.target, part)
        return replace(self, intent_id=key, part=part, proposed={**self.proposed, "placements": list(placements)})


def intent_id(recommendation_id: str, plan_hash: str, target: str, part: Part = "all") -> str:
    """The idempotency key of a change: the same recommendation, plan and target never get two."""
    return uuid5("intent", recommendation_id, plan_hash, target, *(() if part == "all" else (part,)))


def change_of(history: Sequence[Event], target: str) -> Change:
    """The change that the events of a recommendation propose, for a target.

    Raises ``KeyError`` or ``ValueError`` for a proposal that cannot be read; nothing of it is guessed.
    """
    first = history[0]
    fields = proposal_of(history)
    return Change(
        intent_id=intent_id(first["recommendation_id"], first["plan_hash"], target),
        recommendation_id=first["recommendation_id"],
        plan_hash=first["plan_hash"],
        workload_id=fields["workload_id"],
        team_id=fields["team_id"],
        service_tier=fields.get("service_tier"),
        action_type=fields["action_type"],
        planned_for=datetime.fromisoformat(fields["planned_for"]),
        current=config(fields["current_config"]),
        proposed=config(fields["proposed_config"]),
        facts={name: fields[name] for name in FACTS if name in fields},
        target=target,
    )


def plan_of(history: Sequence[Event]) -> dict[str, Any]:
    """The plan in a proposal: the fields its hash is taken over. Raises ``KeyError`` where one is missing."""
    fields = proposal_of(history)
    return {name: fields[name] for name in PLAN_FIELDS}


def baseline_of(history: Sequence[Event]) -> dict[str, Any]:
    """How things stood, as proposed; what the proposal does not say is null."""
    fields = proposal_of(history)
    return {name: config(v) if name == "current_config" else v for name in BASELINE for v in (fields.get(name),)}


def config(value: Any) -> dict[str, Any]:
    """A configuration, given as an object or as its JSON text."""
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict):
        raise ValueError(f"a configuration is a JSON object, not {value!r}")
    return value


def change_hash(change: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """SHA-256 of what will be sent and of the state it replaces: what is frozen in the same breath as the intent."""
    return content_hash({"change": change, "before": before})


def same_bytes(one: Any, other: Any) -> bool:
    """Whether two JSON values have the same canonical text."""
    return canonical_json(one) == canonical_json(other)

"""A policy with people in it, and the parts of a decision, in order unless a test spoils them."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sust_dagster.agents.governance import Decision, Policy, decide, default_policy, read_policy
from sust_dagster.agents.governance.versions import PolicyVersion
from sust_dagster.world.canonical import canonical_json, content_hash
from sust_dagster.world.decisions import plan_hash
from sust_dagster.world.schemas import ACTION_TYPES

NOW = datetime(2026, 1, 6, 4, tzinfo=UTC)
SINCE = datetime(2026, 1, 1, tzinfo=UTC)
PLANNED_FOR = datetime(2026, 1, 7, tzinfo=UTC)

PEOPLE = {
    "platform": ["dana", "eve"],
    "members": ["max"],
    "team_leads": {"data": ["ada", "ben"], "ml": ["cleo", "dana"]},
}


def document(**changes: Any) -> dict[str, Any]:
    """The default policy with people, as JSON values; ``changes`` by 'section__field'."""
    made = json.loads(default_policy().document)
    made["roles"] = copy.deepcopy(PEOPLE)
    for name, value in changes.items():
        *path, last = name.split("__")
        part = made
        for step in path:
            part = part[step]
        part[last] = value
    return made


def policy(**changes: Any) -> Policy:
    return read_policy(canonical_json(document(**changes)))


def row_of(made: dict[str, Any], version: int = 1, **changes: Any) -> dict[str, Any]:
    """A row of the policies table for a document, in order or not."""
    text = canonical_json(made)
    return {
        "policy_id": "default",
        "version": version,
        "document": text,
        "document_hash": content_hash(made),
        "author": "release",
        "approved_by": "release",
        "valid_from": SINCE,
        "created_at": SINCE,
    } | changes


def version(made: Policy | None = None, number: int = 1) -> PolicyVersion:
    made = made or policy()
    return PolicyVersion(number, made, made.document_hash, "release", SINCE, SINCE)


def config(action_type: str = "region_shift", **changes: Any) -> dict[str, Any]:
    group = {"job_id": "g1", "requested_start": "2026-01-07T03:00:00Z", "region": "us-west-2", "delay_hours": 3}
    other = group | {"job_id": "g2", "region": "eu-north-1", "delay_hours": 0}
    return {"action_type": action_type, "vcpus_scale": "1", "spot": False, "placements": [group, other]} | changes


def proposal(**changes: Any) -> dict[str, Any]:
    """A low-risk proposal; its plan hash is that of what it says unless given."""
    made: dict[str, Any] = {
        "recommendation_id": "rec-1",
        "authors": ["planner"],
        "proposed_at": NOW - timedelta(hours=1),
        "workload_id": "etl-orders",
        "team_id": "data",
        "service_tier": "batch",
        "workload_category": "sustainable",
        "action_type": "region_shift",
        "planned_for": PLANNED_FOR,
        "issued_at": NOW - timedelta(hours=1),
        "objective": "effective-cost",
        "policy_version": 1,
        "current_config": {"regions": ["us-east-1"], "start": "as requested"},
        "proposed_config": config(),
        "est_carbon_delta_kg": -1.5,
        "est_carbon_delta_kg_lower": -2.0,
        "est_carbon_delta_kg_upper": -1.0,
        "est_cost_delta_usd": 0.25,
        "cost_before_usd": 40.0,
        "confidence": 0.95,
        "risk_level": "low",
        "data_class": "internal",
    }
    made |= changes
    return {"plan_hash": plan_hash(made), **made}


def record(**changes: Any) -> dict[str, Any]:
    """What the books say around it: nothing against it, and every action often approved before."""
    precedents = dict.fromkeys(ACTION_TYPES, 40)
    return {"state": "proposed", "rejections": 0, "actions_that_day": 0, "precedents": precedents} | changes


def signature(of: dict[str, Any], signer: str, role: str, **changes: Any) -> dict[str, Any]:
    return {
        "approval_id": f"{signer}-{role}",
        "recommendation_id": of["recommendation_id"],
        "plan_hash": of["plan_hash"],
        "signer": signer,
        "role": role,
        "verdict": "approve",
        "reason": "looked at it",
        "policy_version": 1,
        "signed_at": NOW - timedelta(minutes=10),
        "expires_at": NOW + timedelta(hours=20),
    } | changes


def both(of: dict[str, Any]) -> list[dict[str, Any]]:
    """What a high-risk plan of team data needs."""
    return [signature(of, "ada", "team-lead"), signature(of, "dana", "platform")]


def inputs(**changes: Any) -> dict[str, Any]:
    """Everything a decision is made from."""
    return {
        "proposal": proposal(),
        "policy": row_of(document()),
        "signatures": [],
        "record": record(),
        "now": NOW,
    } | changes


def decided(**changes: Any) -> Decision:
    return decide(**inputs(**changes))


def failed(decision: Decision) -> list[str]:
    return [c.name for c in decision.failed]

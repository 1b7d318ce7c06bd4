"""What the planner writes is what governance reads: the same plan hash, and every field a decision needs."""

from __future__ import annotations

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from governance_cases import NOW, PLANNED_FOR, config, version
from governance_world import desk, policies, state

from sust_dagster.agents.governance import assess, may_execute
from sust_dagster.agents.governance.inputs import Proposal, governed
from sust_dagster.agents.planner.recommend import hash_of, proposals
from sust_dagster.world.access import World
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.decisions import Transition, plan_hash
from sust_dagster.world.schemas import ACTION_TYPES, FLOAT, INT, RECOMMENDATIONS, STRING, TIMESTAMP

MOMENT = NOW - timedelta(hours=1)
FILLER = {STRING: "text", FLOAT: 1.0, INT: 1, TIMESTAMP: MOMENT}


def recommendations(**changes: Any) -> pa.Table:
    """One row as the planner makes it: every declared column, the plan hashed by the planner's own function."""
    outlook: Any = SimpleNamespace(
        planned_for=PLANNED_FOR, objective=SimpleNamespace(name="effective-cost"), policy_version=1
    )
    row = {c.name: FILLER[c.type] for c in RECOMMENDATIONS.columns} | {
        "recommendation_id": "rec-1",
        "workload_id": "etl-orders",
        "team_id": "data",
        "service_tier": "batch",
        "workload_category": "sustainable",
        "action_type": "region_shift",
        "planned_for": PLANNED_FOR,
        "objective": "effective-cost",
        "current_config": canonical_json({"regions": ["us-east-1"], "vcpus_scale": "1"}),
        "proposed_config": canonical_json(config()),
        "plan_hash": hash_of("etl-orders", outlook, "region_shift", config()),
        "est_carbon_delta_kg": -1.5,
        "est_carbon_delta_kg_lower": -2.0,
        "est_carbon_delta_kg_upper": -1.0,
        "est_cost_delta_usd": -0.25,
        "confidence": 0.95,
        "risk_level": "high",
        "risk_reasons": "not_assessed",
    }
    return RECOMMENDATIONS.conform(pa.Table.from_pylist([row | changes], RECOMMENDATIONS.arrow))


def propose(world: World, table: pa.Table) -> None:
    for payload in proposals(table, "planner"):
        name, digest = payload["recommendation_id"], payload["plan_hash"]
        wanted = Transition(name, "proposed", payload["rationale_text"], plan_hash=digest, payload=payload)
        world.handle("planner").transitions([wanted], now=MOMENT)


def test_both_hash_the_same_plan() -> None:
    (payload,) = proposals(recommendations(), "planner")
    assert plan_hash(payload) == payload["plan_hash"]
    assert plan_hash({**payload, "proposed_config": canonical_json(config(spot=True))}) != payload["plan_hash"]


def test_a_recommendation_runs_through(world: World) -> None:
    counts = desk(world).precedents()
    assert set(counts) == set(ACTION_TYPES)
    table = assess(recommendations(), policies(world).in_force(NOW), counts)
    assert table.select(["risk_level", "risk_reasons"]).to_pylist() == [{"risk_level": "low", "risk_reasons": "ok"}]
    propose(world, RECOMMENDATIONS.conform(table))
    assert desk(world).review(NOW).approved == ("rec-1",)
    history = world.books.read("decision_events", {"recommendation_id": "rec-1"}).to_pylist()
    assert all(c.ok for c in may_execute(history, json.loads(history[0]["payload"]), 0, NOW))


def test_what_was_not_assessed_is_high(world: World) -> None:
    propose(world, recommendations())
    (case,) = desk(world).review(NOW).waiting
    assert (case.decision.risk.level, case.decision.risk.reasons) == ("high", ("stated_by_proposal",))
    assert state(world, "rec-1") == "proposed"


def test_every_column_a_decision_reads_is_declared() -> None:
    (payload,) = proposals(assess(recommendations(), version(), dict.fromkeys(ACTION_TYPES, 40)), "planner")
    event = {
        "recommendation_id": "rec-1", "plan_hash": payload["plan_hash"], "actor": "planner", "occurred_at": MOMENT,
        "payload": json.dumps(payload),
    }  # fmt: skip
    assert Proposal.model_validate(governed(event)).authors == ["planner", "planner"]

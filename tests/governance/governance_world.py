"""A world with books, a policy with people, and plans that a planner proposed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from governance_cases import NOW, PLANNED_FOR, SINCE, config

from sust_dagster.orchestration.decision_desk import DecisionDesk
from sust_dagster.orchestration.policy_desk import PolicyDesk
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.decisions import Transition, plan_hash
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import ACTION_TYPES

PROPOSED_AT = NOW - timedelta(hours=1)
#: Long before anything a test does: what made its action types no news.
LONG_AGO = SINCE + timedelta(hours=1)


@contextmanager
def open_world(address: str | Path) -> Iterator[World]:
    with World(Lake(Path(str(address)).parent / "lake"), Books.open(address), clock=lambda: NOW) as world:
        yield world


def payload(**changes: Any) -> dict[str, Any]:
    """A proposal as the planner writes it into its event."""
    return {
        "workload_id": "etl-orders",
        "team_id": "data",
        "service_tier": "batch",
        "workload_category": "sustainable",
        "action_type": "region_shift",
        "planned_for": PLANNED_FOR.isoformat(),
        "issued_at": PROPOSED_AT.isoformat(),
        "objective": "effective-cost",
        "policy_version": 1,
        "current_config": {"regions": ["us-east-1"]},
        "proposed_config": config(changes.get("action_type", "region_shift")),
        "est_carbon_delta_kg": -1.5,
        "est_carbon_delta_kg_lower": -2.0,
        "est_carbon_delta_kg_upper": -1.0,
        "est_cost_delta_usd": 0.25,
        "cost_before_usd": 40.0,
        "confidence": 0.95,
        "rationale_text": "cleaner there",
        "risk_level": "low",
        "proposed_by": "planner",
    } | changes


def propose(world: World, name: str, *, at: datetime = PROPOSED_AT, actor: str | None = None, **changes: Any) -> str:
    """Propose a plan; returns its hash."""
    fields = payload(workload_id=f"workload-of-{name}") | changes
    digest = plan_hash(fields)
    wanted = Transition(name, "proposed", "a better plan", actor=actor, plan_hash=digest, payload=fields)
    world.handle("planner").transitions([wanted], now=at)
    return digest


def make_precedents(world: World, actions: Sequence[str] = ACTION_TYPES, count: int = 20) -> None:
    """Approve each action so often, long ago, that none of them is news."""
    names = [f"old-{action}-{i}" for action in actions for i in range(count)]
    old = {"planned_for": LONG_AGO.isoformat()}
    plans = {n: payload(workload_id=n, action_type=n.split("-")[1], **old) for n in names}
    world.handle("planner").transitions(
        [Transition(n, "proposed", "old", plan_hash=plan_hash(p), payload=p) for n, p in plans.items()], now=LONG_AGO
    )
    world.handle("governance").transitions(
        [Transition(n, "approved", "old", plan_hash=plan_hash(p)) for n, p in plans.items()], now=LONG_AGO
    )
    executor = world.handle("executor")
    for status in ("executing", "executed"):
        executor.transitions(
            [Transition(n, status, "old", plan_hash=plan_hash(p)) for n, p in plans.items()], now=LONG_AGO
        )


def desk(world: World) -> DecisionDesk:
    return DecisionDesk(world.handle("governance"))


def policies(world: World) -> PolicyDesk:
    return PolicyDesk(world.handle("governance"))


def state(world: World, name: str) -> str | None:
    with world.books.snapshot() as snapshot:
        return snapshot.state(name)

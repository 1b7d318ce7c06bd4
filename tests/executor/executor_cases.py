"""Approved changes and outsides that fail on request."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sust_dagster.agents.executor.canary import CanaryRules
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable
from sust_dagster.orchestration.execution_desk import ExecutionDesk
from sust_dagster.world.access import AgentHandle, World
from sust_dagster.world.books import Books
from sust_dagster.world.decisions import Event, Transition, event_of, plan_hash
from sust_dagster.world.lake import Lake

NOW = datetime(2026, 1, 7, 3, 10, tzinfo=UTC)
DAY = datetime(2026, 1, 7, tzinfo=UTC)
PROPOSED_AT = NOW - timedelta(minutes=20)
APPROVED_AT = NOW - timedelta(minutes=10)
UNTIL = NOW + timedelta(hours=23)
WORKLOAD = "ci-checkout-build"


def group(hour: int, region: str = "us-west-2", delay: int = 0, workload: str = WORKLOAD) -> dict[str, Any]:
    start = DAY + timedelta(hours=hour)
    return {
        "job_id": f"{workload}@us-east-1/4c0g@{start:%Y-%m-%dT%HZ}",
        "requested_start": (start + timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "delay_hours": delay,
    }


def config(
    action_type: str = "region_shift", groups: list[dict[str, Any]] | None = None, **changes: Any
) -> dict[str, Any]:
    placements = [group(5), group(6)] if groups is None else groups
    return {"action_type": action_type, "vcpus_scale": "1", "spot": False, "placements": placements} | changes


def payload(**changes: Any) -> dict[str, Any]:
    """A proposal as the planner writes it into its event."""
    return {
        "workload_id": WORKLOAD,
        "team_id": "checkout",
        "service_tier": "ci",
        "workload_category": "balanced",
        "action_type": "region_shift",
        "planned_for": DAY.isoformat(),
        "issued_at": PROPOSED_AT.isoformat(),
        "objective": "min-carbon",
        "policy_version": 1,
        "current_config": {"regions": ["us-east-1"], "start": "as requested"},
        "proposed_config": config(changes.get("action_type", "region_shift")),
        "est_carbon_delta_kg": -1.5,
        "est_carbon_delta_kg_lower": -2.0,
        "est_carbon_delta_kg_upper": -1.0,
        "est_cost_delta_usd": 0.25,
        "cost_before_usd": 40.0,
        "confidence": 0.95,
        "rationale_text": "cleaner there",
        "risk_level": "low",
        "kg_before": 3.0,
        "expected_runs": 9.0,
    } | changes


def history(*states: str, until: datetime = UNTIL, name: str = "rec-1", **changes: Any) -> list[Event]:
    """Events of a recommendation up to a state, as the books would hold them; not checked."""
    fields = payload(**changes)
    agents = {"proposed": "planner", "approved": "governance", "rejected": "governance", "expired": "governance"}
    events: list[Event] = []
    for state in ("proposed", *states):
        said = fields if state == "proposed" else {"holds_until": until.isoformat()} if state == "approved" else None
        wanted = Transition(name, state, "because", plan_hash=plan_hash(fields), payload=said)
        at = PROPOSED_AT if state == "proposed" else APPROVED_AT
        events.append(event_of(wanted, agents.get(state, "executor"), events, at))
    return events


@contextmanager
def open_world(folder: Path) -> Iterator[World]:
    with World(Lake(folder / "lake"), Books.open(folder / "books.db"), clock=lambda: NOW) as world:
        yield world


def propose(world: World, name: str, **changes: Any) -> str:
    fields = payload(**changes)
    digest = plan_hash(fields)
    wanted = Transition(name, "proposed", "a better plan", plan_hash=digest, payload=fields)
    world.handle("planner").transitions([wanted], now=PROPOSED_AT)
    return digest


def approve(world: World, name: str, digest: str, *, until: datetime = UNTIL, at: datetime = APPROVED_AT) -> None:
    said = {"holds_until": until.isoformat()}
    wanted = Transition(name, "approved", "fine", plan_hash=digest, policy_version=1, payload=said)
    world.handle("governance").transitions([wanted], now=at)


def approved(world: World, name: str, **changes: Any) -> str:
    digest = propose(world, name, **changes)
    approve(world, name, digest)
    return digest


def state(world: World, name: str) -> str | None:
    with world.books.snapshot() as snapshot:
        return snapshot.state(name)


def outbox(world: World, name: str) -> list[dict[str, Any]]:
    rows = world.books.read("outbox", {"recommendation_id": name}).to_pylist()
    return [r | {"said": json.loads(r["payload"])} for r in rows]


class Crash(BaseException):
    """The process dies here; nobody catches it."""


class Outside:
    """A system that keeps one document per workload. What it holds is all that lasts."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.applied: list[str] = []
        """Intent of every change that took effect, in order; undone ones stay in."""
        self.undone: list[str] = []


class Ledgered:
    """A target over :class:`Outside`, right in every respect; its calls go through ``through``."""

    def __init__(self, outside: Outside, through: Callable[[str, Callable[[], Any]], Any] | None = None) -> None:
        self.outside = outside
        self._through = through or (lambda _name, call: call())

    @property
    def name(self) -> str:
        return "simulated"

    def preview(self, order: Order) -> Preview:
        return self._through("preview", lambda: self._preview(order))

    def find(self, order: Order, preview: Preview) -> Applied | None:
        return self._through("find", lambda: self._find(order, preview))

    def apply(self, order: Order, preview: Preview) -> Applied:
        return self._through("apply", lambda: self._apply(order, preview))

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        return self._through("read_back", lambda: self._read_back(order, preview))

    def rollback(self, order: Order, preview: Preview) -> None:
        return self._through("rollback", lambda: self._rollback(order, preview))

    def _preview(self, order: Order) -> Preview:
        change = {"set": json.loads(json.dumps(dict(order.proposed)))}
        return Preview(self.name, json.dumps(change), change, {"was": self._content(order.workload_id)})

    def _content(self, workload: str) -> Any:
        return copy.deepcopy(self.outside.documents.get(workload, {"content": None}))["content"]

    def _find(self, order: Order, preview: Preview) -> Applied | None:
        there = self.outside.documents.get(order.workload_id)
        return Applied(order.intent_id) if there and there["intent"] == order.intent_id else None

    def _apply(self, order: Order, preview: Preview) -> Applied:
        if self._already(order, preview):
            return Applied(order.intent_id)
        if self._content(order.workload_id) != preview.before["was"]:
            raise TargetRefused("changed_since", "somebody else was here")
        self.outside.documents[order.workload_id] = {"content": preview.change["set"], "intent": order.intent_id}
        self.outside.applied.append(order.intent_id)
        return Applied(order.intent_id)

    def _already(self, order: Order, preview: Preview) -> bool:
        return self._find(order, preview) is not None

    def _read_back(self, order: Order, preview: Preview) -> tuple[str, ...]:
        return () if self._content(order.workload_id) == preview.change["set"] else ("it is otherwise",)

    def _rollback(self, order: Order, preview: Preview) -> None:
        if Ledgered._find(self, order, preview) is not None:
            self.outside.documents[order.workload_id] = {"content": preview.before["was"], "intent": None}
            self.outside.undone.append(order.intent_id)


class Faults:
    """What befalls each call, drawn from a seed: nothing, no answer before or after, a no, a fault, a crash."""

    KINDS = ("before", "after", "after", "refused", "crash_before", "crash_after", "error")
    #: How often a call fails while there are faults left; before anything is begun, seldom.
    SHARE: Mapping[str, float] = {"preview": 0.1, "books": 0.05}

    def __init__(self, seed: int, count: int) -> None:
        self.draw = random.Random(seed)
        self.share = self.draw.choice([0.15, 0.3, 0.6])
        self.left = count
        self.met: list[str] = []

    def next(self, name: str) -> str:
        if self.left == 0 or self.draw.random() >= self.SHARE.get(name, self.share):
            return "fine"
        self.left -= 1
        kind = self.draw.choice(self.KINDS)
        self.met.append(f"{name}:{kind}")
        return kind

    def __call__(self, name: str, call: Callable[[], Any]) -> Any:
        kind = self.next(name)
        if kind == "before":
            raise TargetUnavailable("no answer")
        if kind == "crash_before":
            raise Crash
        if kind == "refused" and name in ("apply", "preview"):
            raise TargetRefused("conflict", "it says no")
        if kind == "error":
            raise KeyError("a fault in the target")
        answer = call()
        if kind == "after":
            raise TargetUnavailable("the reply is lost")
        if kind == "crash_after":
            raise Crash
        return answer


class Mortal:
    """A handle whose process may die right before or right after anything is written to the books."""

    def __init__(self, handle: AgentHandle, faults: Faults) -> None:
        self._handle, self._faults = handle, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def append(self, table: str, rows: Any) -> Any:
        with self._dying():
            return self._handle.append(table, rows)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        with self._dying(), self._handle.transaction() as transaction:
            yield transaction

    @contextmanager
    def _dying(self) -> Iterator[None]:
        kind = self._faults.next("books")
        if kind == "crash_before":
            raise Crash
        yield
        if kind.startswith("crash"):
            raise Crash


def desk(world: World, target: Any, handle: Any = None, **changes: Any) -> ExecutionDesk:
    given: dict[str, Any] = {"target": "simulated", "lease": timedelta(0)} | changes
    return ExecutionDesk(handle or world.handle("executor"), {"simulated": target}, **given)


#: Rules by which nothing is watched; for tests about something else.
UNWATCHED = CanaryRules(tiers=frozenset())

"""What the books say about some recommendations, gathered for one moment, and what may be decided on it.

Belongs here: the queries, and handing their rows to governance. Does not belong here: writing (``decision_desk``),
the rules (``agents.governance``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sust_dagster.agents.governance import Decision, decide, governed
from sust_dagster.orchestration.policy_desk import InForce, in_force
from sust_dagster.world.access import AgentSnapshot
from sust_dagster.world.books_schema import DECISION_LOG_VIEW, TABLES_SQL
from sust_dagster.world.decisions import Event, is_human
from sust_dagster.world.schemas import ACTION_TYPES

#: Approvals older than this cover no day that is still to come: a policy lets them count for a week at most.
_LOOK_BACK = timedelta(days=9)


@dataclass(frozen=True)
class Case:
    """One recommendation as it stands: its fields, and what may be decided about it now."""

    recommendation_id: str
    proposal: Mapping[str, Any]
    decision: Decision


@dataclass
class Docket:
    """Rows of the books about some recommendations, gathered in a handful of queries."""

    policy: InForce
    histories: Mapping[str, Sequence[Event]]
    signatures: dict[str, list[dict[str, Any]]]
    rejections: Counter[str]
    precedents: Counter[str]
    actions: Counter[tuple[str, str]]
    now: datetime
    proposals: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proposals = {r: governed(events[0]) for r, events in self.histories.items()}

    def decide(self, recommendation: str, more: Sequence[Mapping[str, Any]] = ()) -> Decision:
        """The decision on a recommendation, as if ``more`` signatures were there."""
        record = {
            "state": self.state(recommendation),
            "rejections": self.rejections[self.histories[recommendation][0]["plan_hash"]],
            "actions_that_day": self.actions[_team_day(self.proposals[recommendation])],
            "precedents": {a: self.precedents[a] for a in ACTION_TYPES},
        }
        signatures = [*self.signatures.get(recommendation, []), *more]
        return decide(self.proposals[recommendation], self.policy.row, signatures, record, self.now)

    def case(self, recommendation: str) -> Case:
        proposal = self.proposals[recommendation]
        return Case(recommendation, proposal, self.decide(recommendation))

    def state(self, recommendation: str) -> str:
        return self.histories[recommendation][-1]["to_status"]

    def ordered(self) -> list[str]:
        """The recommendations, the largest saving first, so that a rate limit leaves out the least."""

        def saving(recommendation: str) -> float:
            kg = self.proposals[recommendation].get("est_carbon_delta_kg")
            return float(kg) if isinstance(kg, int | float) else 0.0

        return sorted(self.histories, key=lambda r: (saving(r), r))

    def approve(self, recommendation: str) -> None:
        """Count an approval that is about to be written."""
        proposal = self.proposals[recommendation]
        self.precedents[proposal["action_type"]] += 1
        self.actions[_team_day(proposal)] += 1


def _team_day(proposal: Mapping[str, Any]) -> tuple[str, str]:
    """Team and day that the rate limit counts by."""
    day = proposal.get("planned_for")
    return str(proposal.get("team_id")), f"{day:%Y-%m-%d}" if isinstance(day, datetime) else str(day)[:10]


def in_state(snapshot: AgentSnapshot, status: str) -> list[str]:
    """Ids of the recommendations in a state."""
    found = snapshot.read_books("decision_log", {"status": status}, columns=["recommendation_id"])
    return found.column("recommendation_id").to_pylist()


def gather(snapshot: AgentSnapshot, recommendations: Sequence[str], now: datetime) -> Docket:
    histories = grouped(snapshot, "decision_events", {"recommendation_id": list(recommendations)})
    for recommendation in recommendations:
        if recommendation not in histories:
            raise ValueError(f"there is no recommendation {recommendation}; `sust proposals` lists them")
    plans = [events[0]["plan_hash"] for events in histories.values()]
    return Docket(
        policy=in_force(snapshot, now),
        histories=histories,
        signatures=grouped(snapshot, "approvals", {"recommendation_id": list(recommendations)}),
        rejections=_rejections(snapshot, plans),
        precedents=Counter(precedents(snapshot)),
        actions=_actions(snapshot, now),
        now=now,
    )


def precedents(snapshot: AgentSnapshot, before: datetime | None = None) -> dict[str, int]:
    """Approvals so far (or ``before`` an instant) by action type; every type is there."""
    approved = DECISION_LOG_VIEW.c.approved_at
    when = approved.is_not(None) if before is None else approved < before
    done = snapshot.read_books("decision_log", None, when, columns=["action_type"])
    counted = Counter(done.column("action_type").to_pylist())
    return {action: counted[action] for action in ACTION_TYPES}


def grouped(snapshot: AgentSnapshot, table: str, where: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in snapshot.read_books(table, where).to_pylist():
        found.setdefault(row["recommendation_id"], []).append(row)
    return found


def _rejections(snapshot: AgentSnapshot, plans: Sequence[str]) -> Counter[str]:
    """How often people rejected each plan, in whatever recommendation it came."""
    said = snapshot.read_books("approvals", {"verdict": "reject", "plan_hash": list(plans)}).to_pylist()
    events = snapshot.read_books("decision_events", {"to_status": "rejected", "plan_hash": list(plans)}).to_pylist()
    people = [e for e in events if is_human(e["actor"])]
    return Counter(row["plan_hash"] for row in [*said, *people])


def _actions(snapshot: AgentSnapshot, now: datetime) -> Counter[tuple[str, str]]:
    """Approvals by team and planned day, of the days that may still come."""
    recent = TABLES_SQL["decision_events"].c.occurred_at > now - _LOOK_BACK
    events = snapshot.read_books("decision_events", {"to_status": "approved"}, recent, columns=["recommendation_id"])
    where = {"recommendation_id": events.column("recommendation_id").to_pylist(), "sequence": 0}
    return Counter(_team_day(governed(e)) for e in snapshot.read_books("decision_events", where).to_pylist())

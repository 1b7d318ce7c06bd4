"""Verifications at the lake and the books: executed changes and their settled usage in, outcomes out.

Belongs here: which tables a verification reads and what is joined to what. Does not belong here: any arithmetic
(``agents.verifier``), evidence (``evidence_desk``).

A day of execution is verified from what the lake held before a moment: the runs its changes placed, asked for until the
day after, and the hours of the grid they would have met. Before its data is settled an outcome is disqualified, not
guessed; a later verification of the same day restates it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.factors import FactorSet, NamedFactor
from sust_dagster.agents.verifier import Verified, named_factors, signal_matrix, verify
from sust_dagster.agents.verifier.inputs import CLAIM_SCHEMA
from sust_dagster.agents.verifier.runs import (
    EMISSIONS_COLUMNS,
    LEDGER_COLUMNS,
    MOVE_SCHEMA,
    REQUEST_SCHEMA,
    Moved,
    moved,
    places_of,
)
from sust_dagster.agents.verifier.service.cost import cost_delta
from sust_dagster.agents.verifier.service.drift import alerts, divergence, drift
from sust_dagster.agents.verifier.service.sla import sla
from sust_dagster.connectors.market import market_at, workload_register
from sust_dagster.connectors.run_log import PRICE_SCHEMA, list_prices, requests_of
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.books_schema import TABLES_SQL
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.decisions import Event, Transition, proposal_of
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import OUTCOMES

#: Whole days after the day of execution until its data counts as settled.
SETTLE_DAYS = 3
#: Hour (UTC) of the daily verification, when the night's late data is in.
VERIFY_HOUR = 5
#: An outcome that is not settled so many days after its execution stays disqualified.
WINDOW_DAYS = 7
#: Gate of an outcome whose time has not come.
UNSETTLED = "sufficiency.unsettled_data"
#: No run asked for under a change begins later than this after the day of execution, or runs longer.
LONGEST = timedelta(days=4)

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def days_to_verify(now: datetime, start: datetime) -> tuple[datetime, datetime] | None:
    """First and last day of execution that a verification at ``now`` covers; None while none has settled.

    The last is the newest whose data is settled; what could not be verified then is tried again until it is as old as
    the window allows. All days of these months are covered: credit is a share of a month's total.
    """
    last = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1 + SETTLE_DAYS)
    first = (last - timedelta(days=WINDOW_DAYS - SETTLE_DAYS)).replace(day=1)
    return (max(first, start.replace(hour=0)), last) if last >= start.replace(hour=0) else None


@dataclass(frozen=True)
class Case:
    """One executed recommendation: its events, and the intents that carried it out, as the books hold them."""

    outcome_id: str
    history: Sequence[Event]
    intents: Sequence[Mapping[str, Any]]
    """Of each intent that was done: ``row`` as written at first, and its ``payload`` as an object."""

    @property
    def recommendation_id(self) -> str:
        return self.history[0]["recommendation_id"]

    @property
    def executed(self) -> Event:
        return next(e for e in self.history if e["to_status"] == "executed")

    @property
    def begun(self) -> Event:
        return next(e for e in self.history if e["to_status"] == "executing")

    @cached_property
    def proposal(self) -> dict[str, Any]:
        return proposal_of(self.history)


@dataclass(frozen=True)
class VerifiedDay:
    """What a verification of some days found, with everything it was made from."""

    cases: Sequence[Case]
    moved: Moved
    claims: pa.Table
    grid: pa.Table
    factors: Mapping[str, NamedFactor]
    factor_set: FactorSet
    verified: Verified
    costs: pa.Table
    until: datetime


@dataclass(frozen=True)
class Divergences:
    """Verified outcomes against their estimates, in standard deviations of the plan interval."""

    outcomes: pa.Table
    alerts: pa.Table
    drift: pa.Table
    """By action type: whether they drift one way."""


def divergences_of(day: VerifiedDay) -> Divergences:
    """How far the outcomes of a verification are from what was promised."""
    rows = day.verified.outcomes
    action = {c.outcome_id: c.proposal["action_type"] for c in day.cases}
    against = pa.table(
        {
            "outcome_id": rows.column("outcome_id"),
            "scope": pa.array([action[o] for o in rows.column("outcome_id").to_pylist()], pa.string()),
            "executed_on": rows.column("executed_on"),
            "estimated_kg": rows.column("claimed_delta_kg"),
            "plan_ci_lower": rows.column("plan_ci_lower"),
            "plan_ci_upper": rows.column("plan_ci_upper"),
            "measured_kg": rows.column("measured_carbon_delta_kg"),
        }
    )
    found = divergence(against)
    return Divergences(found, alerts(found), drift(found))


class VerificationDesk:
    """Outcomes as the verifier's handle may read and write them. ``now`` is always given: no clock here."""

    def __init__(self, project: ProjectResource) -> None:
        self._project = project
        self._handle = project.handle("verifier")

    def cases(self, start: datetime, end: datetime) -> list[Case]:
        """Recommendations that were executed in ``[start, end)``, in order of their ids."""
        when = TABLES_SQL["decision_events"].c.occurred_at
        with self._handle.snapshot() as snapshot:
            found = snapshot.read_books(
                "decision_events", {"to_status": "executed"}, when >= start, when < end, columns=["recommendation_id"]
            )
            ids = sorted(set(found.column("recommendation_id").to_pylist()))
            events = snapshot.read_books("decision_events", {"recommendation_id": ids}).to_pylist()
            rows = snapshot.read_books("outbox", {"recommendation_id": ids}).to_pylist()
        histories: dict[str, list[Event]] = {}
        for event in events:
            # That it was verified is said of the evidence, so it can be no part of it: else each look would change it.
            if event["to_status"] != "verified":
                histories.setdefault(event["recommendation_id"], []).append(event)
        intents: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda r: (r["intent_id"], r["sequence"])):
            intents.setdefault(row["intent_id"], []).append(row)
        done: dict[str, list[dict[str, Any]]] = {}
        for made in intents.values():
            if made[-1]["state"] == "done":
                said = {"row": made[0], "payload": json.loads(made[0]["payload"])}
                done.setdefault(made[0]["recommendation_id"], []).append(said)
        return [Case(uuid5("outcome", r), histories[r], done.get(r, [])) for r in ids]

    def verify(self, start: datetime, end: datetime, now: datetime) -> VerifiedDay | None:
        """Verify what was executed in ``[start, end)`` from what was known at ``now``; None where nothing was."""
        cases = self.cases(start, end)
        if not cases:
            return None
        project = self._project.project
        until = now.replace(minute=0, second=0, microsecond=0)
        moves = self._moves(cases)
        first, last = self._span(moves, start, end)
        until = min(until, last + LONGEST)
        requests = requests_of(project, first, last)
        ledger = self._handle.read_lake("activity_ledger", first, until, columns=_LEDGER)
        emissions = self._handle.read_lake("emissions", first, until, columns=EMISSIONS_COLUMNS)
        grid = self._handle.read_lake("grid_intensity", first - _DAY, until)
        _, _, factor_set = next(iter(self._project.factor_epochs(first, first + _HOUR)))
        homes = pc.unique(requests.column("home_region")).to_pylist() if requests is not None else []
        providers = pc.unique(ledger.column("cloud_provider")).to_pylist()
        places = places_of(factor_set, project.method, [(p, r) for p in providers for r in homes])
        runs = moved(moves, REQUEST_SCHEMA.empty_table() if requests is None else requests, ledger, emissions, places)
        prices = list_prices(project, first, until)
        costs = self._costs(cases, runs, PRICE_SCHEMA.empty_table() if prices is None else prices)
        claims = self._claims(cases, runs, costs, self._sla(cases, runs, start), now, until)
        factors = named_factors(factor_set, _keys(runs))
        verified = verify(claims, runs.slices, runs.leakage, signal_matrix(grid), factors, seed=project.seed)
        return VerifiedDay(cases, runs, claims, grid, factors, factor_set, verified, costs, until)

    def record(self, rows: pa.Table, now: datetime) -> int:
        """Make executed recommendations verified whose outcome is known; how many were not so before.

        An outcome whose data is not settled leaves its recommendation executed; one that is restated later changes its
        row and its evidence, not the decision's history.
        """
        known = {
            r["recommendation_id"]: r
            for r in rows.select(
                ["recommendation_id", "outcome_id", "verification_status", "reason", "evidence_chain"]
            ).to_pylist()
            if UNSETTLED not in (r["reason"] or "").split(";")
        }
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            events = transaction.read_books("decision_events", {"recommendation_id": sorted(known)}).to_pylist()
            last = {e["recommendation_id"]: e for e in events}
            wanted = [
                Transition(
                    recommendation,
                    "verified",
                    f"{row['verification_status']}{': ' + row['reason'] if row['reason'] else ''}",
                    plan_hash=last[recommendation]["plan_hash"],
                    payload={"outcome_id": row["outcome_id"], "evidence_chain": row["evidence_chain"]},
                )
                for recommendation, row in sorted(known.items())
                if last[recommendation]["to_status"] == "executed"
            ]
            return sum(d.appended for d in transaction.transitions(wanted, now=now))

    def watch(self, day: VerifiedDay, now: datetime) -> Divergences:
        """Raise an alert for each outcome more than three plan standard deviations from its estimate, once each."""
        found = divergences_of(day)
        with self._handle.transaction() as transaction:
            names = {c.outcome_id: c.proposal["workload_id"] for c in day.cases}
            for row in found.alerts.to_pylist():
                kind, subject = f"outcome_{row['kind']}", row["outcome_id"]
                text = f"{names[subject]}: {row['message']}; `sust evidence show {subject}` has what it rests on"
                raise_alert(transaction, "verifier", kind, subject, text, actor=None, now=now)
        return found

    # -- inputs -------------------------------------------------------------------------------------

    def _moves(self, cases: Sequence[Case]) -> pa.Table:
        """The groups that the done intents placed, with the home region the frozen plan names for each."""
        planned = sorted({datetime.fromisoformat(c.proposal["planned_for"]) for c in cases})
        placed = self._handle.read_lake(
            "placements", planned[0], planned[-1] + _DAY, columns=["recommendation_id", "job_id", "home_region"]
        )
        home = {(r["recommendation_id"], r["job_id"]): r["home_region"] for r in placed.to_pylist()}
        rows = [
            {
                "outcome_id": case.outcome_id,
                "workload_id": row["workload_id"],
                "requested_hour": datetime.fromisoformat(row["requested_hour"]),
                "home_region": home.get((case.recommendation_id, row["groups"][0]), "unknown"),
                "vcpus_scale": float(row["vcpus_scale"]),
            }
            for case in cases
            for intent in case.intents
            for row in intent["payload"]["change"].get("placements", ())
        ]
        return pa.Table.from_pylist(rows, MOVE_SCHEMA)

    @staticmethod
    def _span(moves: pa.Table, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """Hours that the runs of these changes were asked for in."""
        if not moves.num_rows:
            return start, end
        bounds = pc.min_max(moves.column("requested_hour")).as_py()
        return bounds["min"], bounds["max"] + _HOUR

    def _costs(self, cases: Sequence[Case], runs: Moved, prices: pa.Table) -> pa.Table:
        usage = runs.usage
        # What the same hours would have been billed as at home: the size the workload had before.
        configs = {c.outcome_id: json.loads(c.proposal.get("current_config") or "{}") for c in cases}
        sku = {outcome: config.get("instance_type") for outcome, config in configs.items()}
        names = [
            sku.get(o) or t
            for o, t in zip(*(usage.column(n).to_pylist() for n in ("outcome_id", "instance_type")), strict=True)
        ]
        slices = pa.table(
            {
                "outcome_id": usage.column("outcome_id"),
                "sku": pa.array(names, pa.string()),
                "home_region": usage.column("home_region"),
                "original_at": usage.column("original_at"),
                "usage_amount": usage.column("usage_hours"),
                "billed_usd": usage.column("cost_usd"),
            }
        )
        outcomes = pa.array([c.outcome_id for c in cases], pa.string())
        return cost_delta(slices, runs.egress.select(["outcome_id", "billed_usd"]), prices, outcomes)

    def _sla(self, cases: Sequence[Case], runs: Moved, start: datetime) -> pa.Table:
        register = {r["workload_id"]: r for r in workload_register(self._project.project).to_pylist()}
        latency = market_at(self._project.project, start).latency
        rtt = {} if latency is None else {(r["from_region"], r["to_region"]): r["rtt_ms"] for r in latency.to_pylist()}
        category = {c.outcome_id: c.proposal.get("workload_category") for c in cases}
        rows = runs.runs.to_pylist()
        known = [register.get(r["workload_id"], {}) for r in rows]
        table = pa.table(
            {
                "outcome_id": pa.array([r["outcome_id"] for r in rows], pa.string()),
                "run_id": pa.array([r["run_id"] for r in rows], pa.string()),
                "category": pa.array([category.get(r["outcome_id"]) for r in rows], pa.string()),
                "requested_start": runs.runs.column("requested_at"),
                "started_at": runs.runs.column("started_at"),
                "ended_at": runs.runs.column("ended_at"),
                "max_delay_hours": pa.array([k.get("max_delay_hours") for k in known], pa.float64()),
                "deadline": pa.nulls(len(rows), pa.timestamp("us", tz="UTC")),
                "sla_latency_ms": pa.array([k.get("sla_latency_ms") for k in known], pa.float64()),
                "round_trip_ms": pa.array(
                    [
                        0.0 if r["home_region"] == r["region"] else rtt.get((r["home_region"], r["region"]))
                        for r in rows
                    ],
                    pa.float64(),
                ),
            }
        )
        # A run that two changes claim is looked at for each by itself; neither has a number (``ambiguous_runs``).
        own = table.column("run_id").to_pylist()
        twice = {run for run, n in Counter(own).items() if n > 1}
        shared = {o for o, run in zip(table.column("outcome_id").to_pylist(), own, strict=True) if run in twice}
        alone = pc.is_in(table.column("outcome_id"), pa.array(sorted(shared), pa.string()))
        parts = [(table.filter(pc.invert(alone)), [c.outcome_id for c in cases if c.outcome_id not in shared])]
        parts += [(table.filter(pc.equal(table.column("outcome_id"), o)), [o]) for o in sorted(shared)]
        none = pa.table({"run_id": pa.array([], pa.string()), "needs_run_id": pa.array([], pa.string())})
        return pa.concat_tables([sla(rows, none, pa.array(ids, pa.string())) for rows, ids in parts])

    def _claims(
        self, cases: Sequence[Case], runs: Moved, costs: pa.Table, promises: pa.Table, now: datetime, until: datetime
    ) -> pa.Table:
        """One row per case, as CLAIM_SCHEMA."""
        found = runs.runs.to_pylist()
        by_outcome: dict[str, list[dict[str, Any]]] = {}
        for run in found:
            by_outcome.setdefault(run["outcome_id"], []).append(run)
        claimed_by: dict[str, set[str]] = {}
        for run in found:
            claimed_by.setdefault(run["run_id"], set()).add(run["outcome_id"])
        cost = {r["outcome_id"]: r for r in costs.to_pylist()}
        kept = {r["outcome_id"]: r for r in promises.to_pylist()}
        rows = []
        for case in cases:
            own, fields = by_outcome.get(case.outcome_id, []), case.proposal
            at = case.executed["occurred_at"]
            settles = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1 + SETTLE_DAYS)
            ended = all(r["ended_at"] is not None and r["ended_at"] < until for r in own)
            vague = [r for r in own if r["home_region"] != r["planned_home_region"] or len(claimed_by[r["run_id"]]) > 1]
            promise = kept[case.outcome_id]
            detail = {"promises": json.loads(promise["sla_detail"] or "{}"), "reason": promise["reason"]}
            detail["cost_reason"] = cost[case.outcome_id]["reason"]
            rows.append(
                {
                    "outcome_id": case.outcome_id,
                    "decision_id": case.executed["event_id"],
                    "recommendation_id": case.recommendation_id,
                    "team_id": fields["team_id"],
                    "executed_on": at.replace(hour=0, minute=0, second=0, microsecond=0),
                    "claimed_delta_kg": fields["est_carbon_delta_kg"],
                    "claimed_delta_kg_lower": fields["est_carbon_delta_kg_lower"],
                    "claimed_delta_kg_upper": fields["est_carbon_delta_kg_upper"],
                    "measured_cost_delta_usd": cost[case.outcome_id]["measured_cost_delta_usd"],
                    "sla_compliant": promise["sla_compliant"],
                    "sla_detail": canonical_json(detail),
                    "executed_at": at,
                    "baseline_frozen_at": case.begun["occurred_at"] if case.intents else None,
                    "baseline_signal": None,
                    "baseline_method": None,
                    "settled": now >= settles and ended,
                    "restated": False,
                    "runs_expected": len(own),
                    "runs_ambiguous": len(vague),
                }
            )
        return pa.Table.from_pylist(rows, CLAIM_SCHEMA)


#: The ledger's columns, and whose provider they are of.
_LEDGER = (*LEDGER_COLUMNS, "cloud_provider")


def _keys(runs: Moved) -> list[str]:
    """Every power, PUE and leakage factor the inputs name."""
    columns = [
        runs.slices.column(n) for n in runs.slices.column_names if n.endswith("factor_key") or "_factor_key_" in n
    ]
    columns.append(runs.leakage.column("factor_key"))
    names = {name for column in columns for name in pc.unique(column).to_pylist() if name is not None}
    return sorted(names)


def outcome_rows(day: VerifiedDay, evidence: Mapping[str, str]) -> pa.Table:
    """OUTCOMES of a verification, with the hash of each one's evidence."""
    table = day.verified.outcomes
    chain = pa.array([evidence.get(o) for o in table.column("outcome_id").to_pylist()], pa.string())
    at = table.column_names.index("evidence_chain")
    return OUTCOMES.conform(table.set_column(at, "evidence_chain", chain))

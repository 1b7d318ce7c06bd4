"""Verifications at the lake and the books: executed changes and their settled usage in, outcomes out.

Belongs here: which tables a verification reads and what is joined to what. Does not belong here: any arithmetic
(``agents.verifier``), evidence (``evidence_desk``).

A day of execution is verified from what the lake held before a moment: the runs its changes placed, asked for until the
day after, and the hours of the grid they would have met. Before its data is settled an outcome is disqualified, not
guessed; a later verification of the same day restates it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import product
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.factors import FactorSet, NamedFactor
from sust_dagster.agents.verifier import Verified, named_factors, signal_matrix, verify
from sust_dagster.agents.verifier.causal.comparison import Comparison, compare, usage_factors, with_usage_ratio
from sust_dagster.agents.verifier.claims import CASE_SCHEMA, claims_of
from sust_dagster.agents.verifier.runs import (
    EMISSIONS_COLUMNS,
    LEDGER_COLUMNS,
    PLACED_SCHEMA,
    REQUEST_SCHEMA,
    SPAN_COLUMNS,
    Moved,
    factor_keys,
    moved,
    moves_of,
    places_of,
    spans,
)
from sust_dagster.agents.verifier.service.cost import at_home, cost_delta
from sust_dagster.agents.verifier.service.dependencies import dependencies, waits_for
from sust_dagster.agents.verifier.service.drift import alerts, divergence, drift
from sust_dagster.agents.verifier.service.promises import promised_runs
from sust_dagster.agents.verifier.service.sla import sla
from sust_dagster.connectors.market import market_at, workload_register
from sust_dagster.connectors.run_log import PRICE_SCHEMA, list_prices, requests_of
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.books_schema import TABLES_SQL
from sust_dagster.world.decisions import Event, Transition, proposal_of
from sust_dagster.world.ids import uuid5
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import OUTCOMES

#: Whole days after the day of execution until its data counts as settled.
SETTLE_DAYS = 3
#: Hour (UTC) of the daily verification, when the night's late data is in.
VERIFY_HOUR = 5
#: An outcome that is not settled so many days after its execution stays disqualified.
WINDOW_DAYS = 7
#: Gate of an outcome whose time has not come.
UNSETTLED = "sufficiency.unsettled_data"
#: Tables of the lake that a verification is made from, and whose files its evidence names.
READ_TABLES = ("activity_ledger", "emissions", "grid_intensity", "placements")
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
    first: datetime
    """The first hour that was read, and ``until`` the end of the last."""
    until: datetime
    slots: Mapping[str, Mapping[str, str]]
    """:func:`slots_of` the lake as it was before anything was read."""
    emissions: pa.Table
    """The rows of the moved runs in the lake's order, and those of ``ledger``."""
    ledger: pa.Table
    prices: pa.Table
    register: pa.Table
    latency: pa.Table | None
    needs: pa.Table
    """Runs that the moved runs depend on, as ``service.dependencies.DEPENDENCIES``."""
    comparison: Comparison
    """Moved runs beside those left alone by lot, and the usage ratios they give."""
    homes: pa.Table
    """Of the frozen plans: recommendation_id, job_id (the group), home_region."""


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
        slots = slots_of(project)  # before the first row: whoever gathers the evidence sees what was restated since
        rows, homes = case_rows(cases), self._homes(cases)
        moves = moves_of(placed_rows(cases), homes)
        first, last = self._span(moves, start, end)
        until = min(now.replace(minute=0, second=0, microsecond=0), last + LONGEST)
        requests = _or_empty(requests_of(project, first, last), REQUEST_SCHEMA)
        ledger = self._handle.read_lake("activity_ledger", first, until, columns=_LEDGER)
        emissions = self._handle.read_lake("emissions", first, until, columns=EMISSIONS_COLUMNS)
        grid = self._handle.read_lake("grid_intensity", first - _DAY, until)
        prices = _or_empty(list_prices(project, first, until), PRICE_SCHEMA)
        register, latency = workload_register(project), market_at(project, start).latency
        _, _, factor_set = next(iter(self._project.factor_epochs(first, first + _HOUR)))
        homes_of = product(_distinct(ledger["cloud_provider"]), _distinct(requests["home_region"]))
        places = places_of(factor_set, project.method, homes_of)
        runs = moved(moves, requests, ledger, emissions, places)
        draw = {"seed": project.seed, "share": project.holdout_share}
        comparison = compare(moves, rows, requests, emissions, **draw, ended_before=until - LONGEST)
        slices = with_usage_ratio(runs.slices, comparison)
        ids = rows["outcome_id"]
        costs = cost_delta(at_home(runs.usage, rows), runs.egress.select(["outcome_id", "billed_usd"]), prices, ids)
        waits = waits_for(register, moves["workload_id"])
        awaited = self._awaited(waits, requests, emissions, first)
        needs = dependencies(runs.runs, awaited, waits, until=until, longest=LONGEST)
        promises = sla(promised_runs(runs.runs, rows, register, latency), needs, ids)
        claims = claims_of(rows, runs, costs, promises, now=now, until=until, settle_days=SETTLE_DAYS)
        factors = named_factors(factor_set, factor_keys(runs)) | usage_factors(comparison)
        verified = verify(claims, slices, runs.leakage, signal_matrix(grid), factors, seed=project.seed)
        jobs = pc.unique(runs.runs["run_id"].cast(pa.string()))
        return VerifiedDay(
            cases=cases,
            moved=runs,
            claims=claims,
            grid=grid,
            factors=factors,
            factor_set=factor_set,
            verified=verified,
            costs=costs,
            first=first,
            until=until,
            slots=slots,
            emissions=emissions.filter(pc.is_in(emissions["job_id"], jobs)),
            ledger=ledger.filter(pc.is_in(ledger["job_id"], jobs)),
            prices=prices,
            register=register,
            latency=latency,
            needs=needs,
            comparison=comparison,
            homes=homes,
        )

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

    def _homes(self, cases: Sequence[Case]) -> pa.Table:
        """Home region of each group of the frozen plans: recommendation_id, job_id (the group), home_region."""
        planned = sorted({datetime.fromisoformat(c.proposal["planned_for"]) for c in cases})
        columns = ["recommendation_id", "job_id", "home_region"]
        return self._handle.read_lake("placements", planned[0], planned[-1] + _DAY, columns=columns)

    def _awaited(self, waits: pa.Table, requests: pa.Table, emissions: pa.Table, first: datetime) -> pa.Table:
        """When the runs ran that the moved workloads wait for, those asked for before the first moved one too.

        None is looked for before the project: what ran then has no bill here.
        """
        back = max(first - LONGEST, self._project.project.start)
        if waits.num_rows and back < first:
            earlier = _or_empty(requests_of(self._project.project, back, first), REQUEST_SCHEMA)
            requests = pa.concat_tables([earlier, requests])
            used = self._handle.read_lake("emissions", back, first, columns=SPAN_COLUMNS)
            emissions = pa.concat_tables([used, emissions.select(SPAN_COLUMNS)])
        return spans(requests.filter(pc.is_in(requests["workload_id"], waits["needs_workload_id"])), emissions)

    @staticmethod
    def _span(moves: pa.Table, start: datetime, end: datetime) -> tuple[datetime, datetime]:
        """Hours that the runs of these changes were asked for in."""
        if not moves.num_rows:
            return start, end
        bounds = pc.min_max(moves.column("requested_hour")).as_py()
        return bounds["min"], bounds["max"] + _HOUR


#: The ledger's columns, and whose provider they are of.
_LEDGER = (*LEDGER_COLUMNS, "cloud_provider")


def case_rows(cases: Sequence[Case]) -> pa.Table:
    """What the books say of each case, as CASE_SCHEMA: one row per case, in order."""
    rows = [
        {
            **{name: case.proposal[said] for name, said in _PROPOSED.items()},
            "outcome_id": case.outcome_id,
            "decision_id": case.executed["event_id"],
            "recommendation_id": case.recommendation_id,
            "executed_at": case.executed["occurred_at"],
            "baseline_frozen_at": case.begun["occurred_at"] if case.intents else None,
            "workload_category": case.proposal.get("workload_category"),
            "home_instance_type": json.loads(case.proposal.get("current_config") or "{}").get("instance_type"),
        }
        for case in cases
    ]
    return pa.Table.from_pylist(rows, CASE_SCHEMA)


#: Columns of a case by the field of the proposal that says them; each proposal has them all.
_PROPOSED = {
    "team_id": "team_id",
    "claimed_delta_kg": "est_carbon_delta_kg",
    "claimed_delta_kg_lower": "est_carbon_delta_kg_lower",
    "claimed_delta_kg_upper": "est_carbon_delta_kg_upper",
}


def placed_rows(cases: Sequence[Case]) -> pa.Table:
    """The groups that the done intents placed, in their order, as PLACED_SCHEMA."""
    rows = [
        {
            "outcome_id": case.outcome_id,
            "recommendation_id": case.recommendation_id,
            "group": row["groups"][0],
            "workload_id": row["workload_id"],
            "requested_hour": datetime.fromisoformat(row["requested_hour"]),
            "vcpus_scale": float(row["vcpus_scale"]),
        }
        for case in cases
        for intent in case.intents
        for row in intent["payload"]["change"].get("placements", ())
    ]
    return pa.Table.from_pylist(rows, PLACED_SCHEMA)


def slots_of(project: Project) -> dict[str, dict[str, str]]:
    """Slot → SHA-256 of its content, of each table of the lake that a verification reads."""
    lake = Lake(project.lake_root)
    return {table: lake.slots(table) for table in READ_TABLES}


def _distinct(column: pa.ChunkedArray) -> list[str]:
    return pc.unique(column).to_pylist()


def _or_empty(table: pa.Table | None, schema: pa.Schema) -> pa.Table:
    return schema.empty_table() if table is None else table


def outcome_rows(day: VerifiedDay, evidence: Mapping[str, str]) -> pa.Table:
    """OUTCOMES of a verification, with the hash of each one's evidence."""
    table = day.verified.outcomes
    chain = pa.array([evidence.get(o) for o in table.column("outcome_id").to_pylist()], pa.string())
    at = table.column_names.index("evidence_chain")
    return OUTCOMES.conform(table.set_column(at, "evidence_chain", chain))

"""Decisions at the books: the review of everything proposed, signatures of people, what waits for whom.

Belongs here: the transactions: rows are read, governance decides, the rows that follow are appended, all together or
not at all. What is decided and why is governance's (``agents.governance.decide``). The command line and the Dagster
assets share this; it needs neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sust_dagster.agents.governance import Decision
from sust_dagster.agents.governance.decide import counts
from sust_dagster.agents.governance.inputs import Proposal, Signature
from sust_dagster.agents.governance.signatures import is_person
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.orchestration.docket import Case, Docket, gather, grouped, in_state, precedents
from sust_dagster.orchestration.policy_desk import SignatureRefused
from sust_dagster.world.access import AgentHandle, AgentSnapshot, AgentTransaction
from sust_dagster.world.decisions import Transition, proposal_of
from sust_dagster.world.ids import uuid5

#: Kind of the alert that asks people for a signature; its subject is the recommendation.
APPROVAL_WANTED = "approval_wanted"


@dataclass(frozen=True)
class Reviewed:
    """What a review did, by recommendation id, and what is left waiting."""

    approved: tuple[str, ...]
    rejected: Mapping[str, str]
    """Turned down by rule, with the checks that failed."""
    expired: Mapping[str, str]
    waiting: tuple[Case, ...]
    policy_version: int


@dataclass(frozen=True)
class Signing:
    """What a signature led to: the recommendation's state now, and whom it still waits for."""

    recommendation_id: str
    state: str
    role: str
    decision: Decision
    new: bool
    """False when the same person had said the same before."""


class DecisionDesk:
    """The decisions as governance's handle may read and write them. ``now`` is always given: no clock here."""

    def __init__(self, handle: AgentHandle) -> None:
        self._handle = handle

    def cases(self, now: datetime) -> list[Case]:
        """Everything proposed, the largest saving first, and what may be decided about each now."""
        with self._handle.snapshot() as snapshot:
            docket = gather(snapshot, in_state(snapshot, "proposed"), now)
        return [docket.case(r) for r in docket.ordered()]

    def precedents(self, before: datetime | None = None) -> dict[str, int]:
        """How many recommendations were approved so far, or ``before`` an instant, by action type; all are there."""
        with self._handle.snapshot() as snapshot:
            return precedents(snapshot, before)

    def due(self, now: datetime) -> list[str]:
        """Recommendations that a review at ``now`` would approve, turn down or let expire."""
        with self._handle.snapshot() as snapshot:
            docket = gather(snapshot, in_state(snapshot, "proposed"), now)
            ruled, _ = _rulings(docket)
            overdue = [t.recommendation_id for t in _overdue(snapshot, now)]
        return [*ruled.approved, *ruled.rejected, *ruled.expired, *overdue]

    def review(self, now: datetime) -> Reviewed:
        """Decide everything proposed: approve what the policy allows, turn down what it forbids, expire the silent.

        What waits for people raises an alert, once. Approvals that were not used in time expire too. Run again at the
        same instant it changes nothing. Raises ``PolicyError`` when no policy is in force: then nothing is decided.
        """
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            docket = gather(transaction, in_state(transaction, "proposed"), now)
            result, wanted = _rulings(docket)
            for case in result.waiting:
                _ask_people(transaction, case, now)
            overdue = _overdue(transaction, now)
            transaction.transitions([*wanted, *overdue], now=now)
        expired = {**result.expired, **{t.recommendation_id: t.reason for t in overdue}}
        return Reviewed(result.approved, result.rejected, expired, result.waiting, result.policy_version)

    def approve(
        self,
        recommendation: str,
        signer: str,
        now: datetime,
        *,
        role: str | None = None,
        reason: str = "",
        plan_hash: str | None = None,
    ) -> Signing:
        """Sign a plan as a person; with the last signature it needs, it is approved in the same transaction.

        ``plan_hash``: the plan the signer looked at; none: the one proposed. Raises :class:`SignatureRefused` when
        the signature does not count or the plan may not happen anyway; then nothing is written.
        """
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            docket = gather(transaction, [recommendation], now)
            signing, rows, approvals = _signed(docket, recommendation, signer, role, reason or "approved", plan_hash)
            transaction.append("approvals", rows)
            transaction.transitions(approvals, now=now)
            return signing

    def approve_all(
        self, wanted: Sequence[tuple[str, str, str]], now: datetime, *, reason: str = ""
    ) -> tuple[list[Signing], dict[str, str]]:
        """Sign many plans, each as (recommendation, signer, role), in one transaction.

        What :meth:`approve` would refuse is left unsigned; returns the others and, by recommendation, why not.
        """
        if not wanted:
            return [], {}
        done: list[Signing] = []
        refused: dict[str, str] = {}
        rows: list[dict[str, Any]] = []
        approvals: list[Transition] = []
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            docket = gather(transaction, list(dict.fromkeys(r for r, _, _ in wanted)), now)
            for recommendation, signer, role in wanted:
                try:
                    signing, signature, approval = _signed(
                        docket, recommendation, signer, role, reason or "approved", None
                    )
                except SignatureRefused as refusal:
                    refused[recommendation] = str(refusal)
                    continue
                done.append(signing)
                rows += signature
                approvals += approval
            transaction.append("approvals", rows)
            transaction.transitions(approvals, now=now)
        return done, refused

    def reject(
        self,
        recommendation: str,
        signer: str,
        reason: str,
        now: datetime,
        *,
        role: str | None = None,
        plan_hash: str | None = None,
    ) -> Signing:
        """Turn a plan down as a person: final for this plan. An approved one that has not begun is withdrawn.

        Raises :class:`SignatureRefused` when the person holds no role for it, or it has begun or ended.
        """
        if not reason.strip():
            raise SignatureRefused(f"recommendation {recommendation}: a rejection needs a reason")
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            docket = gather(transaction, [recommendation], now)
            decision, state = docket.decide(recommendation), docket.state(recommendation)
            said = [s for s in docket.signatures.get(recommendation, []) if s["verdict"] == "reject"]
            for signature in (s for s in said if s["signer"] == signer):
                return Signing(recommendation, state, signature["role"], decision, new=False)
            if state not in ("proposed", "approved"):
                raise SignatureRefused(f"recommendation {recommendation} is {state}; it cannot be rejected any more")
            signature = _signature(docket, recommendation, decision, signer, role, "reject", reason)
            _check_plan(docket, recommendation, plan_hash)
            transaction.append("approvals", [signature])
            to, why = ("rejected", reason) if state == "proposed" else ("expired", f"withdrawn by {signer}: {reason}")
            wanted = _transition(docket, recommendation, to, why, actor=signer, role=signature["role"])
            transaction.transitions([wanted], now=now)
            return Signing(recommendation, to, signature["role"], decision, new=True)


# -- deciding -----------------------------------------------------------------------------------------------


def _rulings(docket: Docket) -> tuple[Reviewed, list[Transition]]:
    """Decisions on everything in the docket, and the transitions they lead to."""
    approved: list[str] = []
    rejected: dict[str, str] = {}
    expired: dict[str, str] = {}
    waiting: list[Case] = []
    wanted: list[Transition] = []
    for recommendation in docket.ordered():
        case = docket.case(recommendation)
        decision = case.decision
        if decision.verdict == "approve":
            signer, role = decision.signed[-1] if decision.signed else (None, None)
            wanted.append(_approval(docket, recommendation, decision, signer, role))
            docket.approve(recommendation)
            approved.append(recommendation)
        elif decision.verdict == "expire":
            wanted.append(_transition(docket, recommendation, "expired", decision.reason))
            expired[recommendation] = decision.reason
        elif decision.verdict == "deny" and not decision.passing:
            wanted.append(_transition(docket, recommendation, "rejected", decision.reason))
            rejected[recommendation] = decision.reason
        else:
            waiting.append(case)
    version = docket.policy.version.version
    return Reviewed(tuple(approved), rejected, expired, tuple(waiting), version), wanted


def _transition(docket: Docket, recommendation: str, to_status: str, reason: str, **fields: Any) -> Transition:
    plan_hash = docket.histories[recommendation][0]["plan_hash"]
    version = docket.policy.version.version
    return Transition(recommendation, to_status, reason, plan_hash=plan_hash, policy_version=version, **fields)


def _approval(
    docket: Docket, recommendation: str, decision: Decision, signer: str | None, role: str | None
) -> Transition:
    """The approval, with what it rests on and until when it counts."""
    payload = {
        "holds_until": None if decision.until is None else decision.until.isoformat(),
        "risk_level": decision.risk.level,
        "risk_reasons": list(decision.risk.reasons),
        "signed": [f"{who} as {as_role}" for who, as_role in decision.signed],
        "checks": [c.name for c in decision.checks],
    }
    return _transition(docket, recommendation, "approved", decision.reason, actor=signer, role=role, payload=payload)


def _overdue(transaction: AgentSnapshot, now: datetime) -> list[Transition]:
    """Approved and never begun until its approval counted no more."""
    histories = grouped(transaction, "decision_events", {"recommendation_id": in_state(transaction, "approved")})
    wanted = []
    for recommendation, events in histories.items():
        until = proposal_of(events[-1:]).get("holds_until")
        if not isinstance(until, str) or datetime.fromisoformat(until) <= now:
            reason = f"its approval counted until {until or 'no stated instant'} and was not used"
            plan_hash = events[0]["plan_hash"]
            wanted.append(Transition(recommendation, "expired", reason, plan_hash=plan_hash))
    return wanted


def _ask_people(transaction: AgentTransaction, case: Case, now: datetime) -> None:
    """Tell those a proposal waits for, once for each set of signatures still missing."""
    decision, team = case.decision, case.proposal.get("team_id")
    if not decision.waits_for:
        return
    until = "" if decision.until is None else f" until {decision.until.isoformat()}"
    text = f"team {team}, {case.proposal.get('workload_id')}: {decision.reason}{until}"
    raise_alert(transaction, "governance", APPROVAL_WANTED, case.recommendation_id, text, actor=None, now=now)


# -- signing ------------------------------------------------------------------------------------------------


def _signed(
    docket: Docket, recommendation: str, signer: str, role: str | None, reason: str, plan_hash: str | None
) -> tuple[Signing, list[dict[str, Any]], list[Transition]]:
    """What a signature leads to, its row, and the approval if it is the last one needed; the docket counts both.

    Raises :class:`SignatureRefused` when the signature does not count or the plan may not happen anyway.
    """
    before = docket.decide(recommendation)
    earlier = _earlier(docket, recommendation, signer)
    if earlier is not None:
        return Signing(recommendation, docket.state(recommendation), earlier["role"], before, new=False), [], []
    signature = _signature(docket, recommendation, before, signer, role, "approve", reason)
    _check_plan(docket, recommendation, plan_hash)
    decision = docket.decide(recommendation, [signature])
    if decision.verdict in ("deny", "expire"):
        raise SignatureRefused(f"recommendation {recommendation} cannot be approved: {decision.reason}")
    if signer not in {who for who, _ in decision.signed}:
        raise SignatureRefused(f"recommendation {recommendation}: {signer} is its author; others sign it")
    docket.signatures.setdefault(recommendation, []).append(signature)
    state, approvals = docket.state(recommendation), []
    if decision.verdict == "approve":
        approvals = [_approval(docket, recommendation, decision, signer, signature["role"])]
        docket.approve(recommendation)
        state = "approved"
    return Signing(recommendation, state, signature["role"], decision, new=True), [signature], approvals


def _earlier(docket: Docket, recommendation: str, signer: str) -> Mapping[str, Any] | None:
    """A signature of this person on this plan that still counts, or that the approval was given over."""
    events, version = docket.histories[recommendation], docket.policy.version
    for row in docket.signatures.get(recommendation, []):
        if row["signer"] != signer or row["verdict"] != "approve":
            continue
        proposal = Proposal.model_validate(docket.proposals[recommendation])
        if len(events) > 1 or counts(Signature.model_validate(row), proposal, version, docket.now):
            return row
    return None


def _signature(
    docket: Docket,
    recommendation: str,
    decision: Decision,
    signer: str,
    role: str | None,
    verdict: str,
    reason: str,
) -> dict[str, Any]:
    """The row of a signature, in the role that is asked for or still missing.

    Raises :class:`SignatureRefused` when the person holds no such role for the team.
    """
    policy, team = docket.policy.version, str(docket.proposals[recommendation].get("team_id"))
    roles = policy.policy.roles
    held = roles.held_by(signer, team)
    fitting = [r for r in (*decision.waits_for, *held) if r in held and role in (None, r)]
    if not is_person(signer) or not fitting:
        who = f"team-lead of {team}: {', '.join(roles.team_leads.get(team, ())) or 'nobody'}"
        platform = ", ".join(roles.platform) or "nobody"
        as_role = f" as {role}" if role else ""
        raise SignatureRefused(
            f"'{signer}' may not sign for team {team}{as_role} by policy {policy.version}; {who}; platform: {platform}"
        )
    plan_hash = docket.histories[recommendation][0]["plan_hash"]
    count = len([s for s in docket.signatures.get(recommendation, []) if s["signer"] == signer])
    lifetime = timedelta(hours=policy.policy.approval.approval_ttl_hours)
    return {
        "approval_id": uuid5("approval", recommendation, plan_hash, signer, fitting[0], verdict, count),
        "recommendation_id": recommendation,
        "plan_hash": plan_hash,
        "signer": signer,
        "role": fitting[0],
        "verdict": verdict,
        "reason": reason,
        "policy_version": policy.version,
        "signed_at": docket.now,
        "expires_at": docket.now + lifetime if verdict == "approve" else None,
    }


def _check_plan(docket: Docket, recommendation: str, plan_hash: str | None) -> None:
    proposed = docket.histories[recommendation][0]["plan_hash"]
    if plan_hash not in (None, proposed):
        raise SignatureRefused(
            f"recommendation {recommendation} is about plan {proposed} now, not {plan_hash}: look at it again"
        )

"""The decision core: may this plan happen now, and if not yet, what does it wait for?

Belongs here: the named checks of one proposal and what follows from risk and signatures. Pure: rows in, a decision
out. Does not belong here: the rules of risk (``risk``), reading and writing the rows (the desk in orchestration).

Positive rules only. An approval needs every named check to be true; what is missing, null, of the wrong type or raises
makes its check false, and a false check is no approval. So taking anything away from the input can close the gate and
never open it; a property test holds that for every field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from sust_dagster.agents.governance.checks import Answer, Check, ask
from sust_dagster.agents.governance.contradictions import matches
from sust_dagster.agents.governance.inputs import Proposal, Record, Signature
from sust_dagster.agents.governance.policy import Policy, Role, intact_policy
from sust_dagster.agents.governance.risk import Risk, risk_of
from sust_dagster.agents.governance.signatures import Signed, is_person, open_roles
from sust_dagster.agents.governance.versions import PolicyVersion
from sust_dagster.world.decisions import RISK_LEVELS, plan_hash

Verdict = Literal["approve", "needs_review", "needs_signatures", "expire", "deny"]

DAY = timedelta(days=1)

#: Checks whose failure passes by itself: the proposal waits instead of being turned down.
PASSING = frozenset({"within_rate_limit", "proposed_before_now"})


@dataclass(frozen=True)
class Decision:
    """What may be done with a proposal now, with everything it rests on."""

    verdict: Verdict
    risk: Risk
    checks: tuple[Check, ...]
    reason: str
    signed: tuple[Signed, ...] = ()
    """Signatures that count."""
    waits_for: tuple[Role, ...] = ()
    """needs_review: any one of these roles; needs_signatures: each of them, by another person."""
    until: datetime | None = None
    """approve: first instant the approval counts no more. While waiting: when the proposal expires."""

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that are not true."""
        return tuple(c for c in self.checks if not c.ok)

    @property
    def passing(self) -> bool:
        """Whether a denial is one that passes by itself."""
        return self.verdict == "deny" and {c.name for c in self.failed} <= PASSING


def decide(
    proposal: Mapping[str, Any],
    policy: Mapping[str, Any],
    signatures: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    now: datetime,
) -> Decision:
    """Decide one proposal at ``now``.

    ``proposal``: fields of :class:`~sust_dagster.agents.governance.inputs.Proposal`; ``policy``: the row of
    ``policies`` in force; ``signatures``: the rows of ``approvals`` on this recommendation; ``record``: the counts of
    :class:`~sust_dagster.agents.governance.inputs.Record`. Never raises: what cannot be read is a check that is false.
    """
    case = _Case(proposal, policy, signatures, record, now)
    checks = ask(CHECKS, case)
    failed = [c for c in checks if not c.ok]
    if failed:
        expired = {c.name for c in failed} - PASSING == {"plan_is_current"}
        reason = "; ".join(f"{c.name}: {c.why}" for c in failed)
        return Decision("expire" if expired else "deny", _risk_or_high(case), checks, reason)
    return _authority(case, checks)


class _Case:
    """The inputs, read strictly when a check asks for them; a part that cannot be read raises."""

    def __init__(self, proposal: Any, policy: Any, signatures: Any, record: Any, now: Any) -> None:
        self.fields = proposal
        self._policy, self._signatures, self._record, self._now = policy, signatures, record, now

    @cached_property
    def now(self) -> datetime:
        if not isinstance(self._now, datetime) or self._now.tzinfo is None:
            raise ValueError(f"now is {self._now!r}, no instant with a zone")
        return self._now.astimezone(UTC)

    @cached_property
    def version(self) -> PolicyVersion:
        row = self._policy
        policy = intact_policy(row["document"], row["document_hash"])
        version, since = row["version"], row["valid_from"]
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"its version is {version!r}")
        if not since <= self.now:
            raise ValueError(f"it is valid from {since}")
        return PolicyVersion(version, policy, row["document_hash"], row["author"], since, row["created_at"])

    @property
    def policy(self) -> Policy:
        return self.version.policy

    @cached_property
    def proposal(self) -> Proposal:
        return Proposal.model_validate(self.fields)

    @cached_property
    def record(self) -> Record:
        return Record.model_validate(self._record)

    @cached_property
    def signatures(self) -> tuple[Signature, ...]:
        if not isinstance(self._signatures, list | tuple):
            raise ValueError(f"the signatures are no list but {type(self._signatures).__name__}")
        return tuple(Signature.model_validate(s) for s in self._signatures)

    @cached_property
    def data_class(self) -> str:
        """Asked for only where a rule of the policy is about it."""
        value = self.fields["data_class"]
        if not isinstance(value, str) or not value:
            raise ValueError(f"data_class is {value!r}")
        return value

    @cached_property
    def risk(self) -> Risk:
        """The higher of what the rules find now and what the proposal states."""
        found = risk_of(self.fields, self.version, self.record.precedents.model_dump())
        stated = self.proposal.risk_level
        if RISK_LEVELS.index(stated) > RISK_LEVELS.index(found.level):
            return Risk(stated, (*found.reasons, "stated_by_proposal"))
        return found

    @cached_property
    def regions(self) -> tuple[str, ...]:
        return tuple(sorted({p.region for p in self.proposal.proposed_config.placements}))

    @cached_property
    def moves(self) -> bool:
        """Whether work leaves its region: unless it is known to have one, and to stay there."""
        current = self.fields.get("current_config")
        home = current.get("regions") if isinstance(current, dict) else None
        return not (isinstance(home, list) and len(home) == 1 and self.regions == tuple(home))

    @property
    def day_ends(self) -> datetime:
        return self.proposal.planned_for + DAY


# -- the checks: each returns True, or why not --------------------------------------------------------------


def _policy_is_in_force(case: _Case) -> Answer:
    return case.version.version >= 1


def _proposal_is_complete(case: _Case) -> Answer:
    return bool(case.proposal.recommendation_id)


def _record_is_complete(case: _Case) -> Answer:
    return case.record.actions_that_day >= 0


def _signatures_are_readable(case: _Case) -> Answer:
    foreign = [s.approval_id for s in case.signatures if s.recommendation_id != case.proposal.recommendation_id]
    return f"signatures of another recommendation: {', '.join(foreign)}" if foreign else True


def _is_proposed(case: _Case) -> Answer:
    return True if case.record.state == "proposed" else f"it is {case.record.state}"


def _nobody_rejected(case: _Case) -> Answer:
    rejected = [s.signer for s in case.signatures if s.verdict == "reject"]
    if case.record.rejections == 0 and not rejected:
        return True
    return f"a person rejected this plan; that is final ({', '.join(rejected) or 'another proposal of it'})"


def _plan_is_what_was_hashed(case: _Case) -> Answer:
    found = plan_hash(case.fields)
    return True if found == case.proposal.plan_hash else f"its plan has the hash {found}"


def _proposed_before_now(case: _Case) -> Answer:
    at = case.proposal.proposed_at
    return True if at <= case.now else f"it was proposed at {at.isoformat()}, after now"


def _plan_is_current(case: _Case) -> Answer:
    return True if case.now < case.day_ends else f"its day ended at {case.day_ends.isoformat()}"


def _action_is_allowed(case: _Case) -> Answer:
    config, actions = case.proposal.proposed_config, case.policy.actions
    taken = {case.proposal.action_type, config.action_type}
    taken |= {"right_size"} if config.scale != 1 else set()
    taken |= {"spot_convert"} if config.spot else set()
    disabled = sorted(a for a in taken if actions.of(a).enabled is not True)
    if disabled:
        return f"the policy does not allow {', '.join(disabled)}"
    if config.scale < actions.right_size.min_vcpus_scale:
        return f"it keeps {config.vcpus_scale} of the vCPUs, at least {actions.right_size.min_vcpus_scale:g} must stay"
    if config.spot and case.proposal.workload_category not in actions.spot_convert.categories:
        return f"{case.proposal.workload_category} work may not run on spot capacity"
    return True


def _regions_are_allowed(case: _Case) -> Answer:
    places = case.policy.places
    if not case.moves:
        return True
    wrong = [r for r in case.regions if not matches(r, places.allowed_regions) or matches(r, places.denied_regions)]
    return f"not allowed: {', '.join(wrong)}" if wrong else True


def _residency_is_kept(case: _Case) -> Answer:
    for rule in case.policy.places.residency:
        about = {
            "team": lambda: case.proposal.team_id,
            "workload": lambda: case.proposal.workload_id,
            "data_class": lambda: case.data_class,
        }[rule.applies_to]()
        wrong = [r for r in case.regions if case.moves and about == rule.name and not matches(r, rule.regions)]
        if wrong:
            return f"{rule.applies_to} {rule.name} may not be in {', '.join(wrong)} ({rule.reason})"
    return True


def _window_is_kept(case: _Case) -> Answer:
    allowed = case.policy.windows.of(case.proposal.workload_category)
    longest = max(p.delay_hours for p in case.proposal.proposed_config.placements)
    return True if longest <= allowed else f"deferred by {longest:g} h, {allowed:g} h are allowed"


def _within_rate_limit(case: _Case) -> Answer:
    limit, so_far = case.policy.limits.max_actions_per_team_per_day, case.record.actions_that_day
    return True if so_far < limit else f"team {case.proposal.team_id} has {so_far} actions for that day, {limit} may be"


def _risk_is_known(case: _Case) -> Answer:
    return case.risk.level in RISK_LEVELS


#: Every check by name, in the order people read them. All must be true.
CHECKS: Mapping[str, Callable[[_Case], Answer]] = {
    "policy_is_in_force": _policy_is_in_force,
    "proposal_is_complete": _proposal_is_complete,
    "record_is_complete": _record_is_complete,
    "signatures_are_readable": _signatures_are_readable,
    "is_proposed": _is_proposed,
    "nobody_rejected": _nobody_rejected,
    "plan_is_what_was_hashed": _plan_is_what_was_hashed,
    "proposed_before_now": _proposed_before_now,
    "plan_is_current": _plan_is_current,
    "action_is_allowed": _action_is_allowed,
    "regions_are_allowed": _regions_are_allowed,
    "residency_is_kept": _residency_is_kept,
    "window_is_kept": _window_is_kept,
    "within_rate_limit": _within_rate_limit,
    "risk_is_known": _risk_is_known,
}


# -- who may say yes ----------------------------------------------------------------------------------------


def _risk_or_high(case: _Case) -> Risk:
    try:
        return case.risk
    except Exception:  # noqa: BLE001 - for display: what cannot be assessed is high
        return Risk("high", ("not_assessed",))


def counts(signature: Signature, proposal: Proposal, version: PolicyVersion, now: datetime) -> bool:
    """Whether a signature says yes to this plan now: bound, alive, by a person entitled to it and not its author."""
    return all(
        (
            signature.verdict == "approve",
            signature.recommendation_id == proposal.recommendation_id,
            signature.plan_hash == proposal.plan_hash,
            signature.policy_version == version.version,
            signature.expires_at is not None and signature.signed_at <= now < signature.expires_at,
            signature.signed_at >= proposal.proposed_at,
            is_person(signature.signer) and signature.signer not in proposal.authors,
            signature.role in version.policy.roles.held_by(signature.signer, proposal.team_id),
        )
    )


def _authority(case: _Case, checks: tuple[Check, ...]) -> Decision:
    """What follows from risk and signatures once every check is true."""
    approval, proposal, risk = case.policy.approval, case.proposal, case.risk
    signed = tuple((s.signer, s.role) for s in case.signatures if counts(s, proposal, case.version, case.now))
    ends = min(case.now + timedelta(hours=approval.approval_ttl_hours), case.day_ends)
    because = f"{risk.level} risk ({', '.join(risk.reasons)})" if risk.reasons else f"{risk.level} risk"
    names = ", ".join(f"{who} as {role}" for who, role in signed)

    def answer(verdict: Verdict, reason: str, waits: tuple[Role, ...] = (), until: datetime | None = None) -> Decision:
        return Decision(verdict, risk, checks, f"{because}: {reason}", signed, waits, until)

    if risk.level == "high":
        missing = open_roles(approval.high_all_of, signed)
        if missing:
            return answer("needs_signatures", f"waits for {' and '.join(missing)}", missing, case.day_ends)
        return answer("approve", f"signed by {names}", until=ends)
    if any(role in approval.medium_any_of for _, role in signed):
        return answer("approve", f"signed by {names}", until=ends)
    if risk.level == "low":
        return answer("approve", f"allowed by policy {case.version.version}", until=ends)
    deadline = min(proposal.proposed_at + timedelta(hours=approval.medium_silence_hours), case.day_ends)
    if case.now < deadline:
        waits = approval.medium_any_of
        return answer("needs_review", f"waits for {' or '.join(waits)}", waits, deadline)
    silence = f"nobody answered within {approval.medium_silence_hours:g} h"
    if approval.medium_default == "approve" and "novel" not in risk.reasons:
        return answer("approve", f"{silence}, which policy {case.version.version} takes as yes", until=ends)
    return answer("expire", silence)

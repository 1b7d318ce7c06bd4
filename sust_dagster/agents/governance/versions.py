"""Which policy is in force: a fold of the versions and the signatures on them.

Belongs here: reading the rows of ``policies`` and ``policy_reviews``, which signatures count, what a version waits
for. Does not belong here: what is in a policy (``policy``), storage.

Version 1 comes with the release or the project, and is in force from its ``valid_from`` on. Any later version is in
force from the moment a platform account and another person, a team lead, have signed its very document, neither of
them its author, and none has rejected it; not before its ``valid_from``. Accounts and roles are those of the version
in force when each signed; where that one names nobody, those of the version to be signed, so that a project can name
its people once. A signature counts while the version it was given under is in force: another policy, another look.
What does not fit counts for nothing; a row that cannot be read at all stops everything, for it may be a rejection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import ValidationError

from sust_dagster.agents.governance.contradictions import RELEASE
from sust_dagster.agents.governance.inputs import PolicyReview, PolicyRow
from sust_dagster.agents.governance.policy import Policy, PolicyError, Role, Roles, intact_policy
from sust_dagster.agents.governance.signatures import Signed, is_person, open_roles

POLICY_ID = "default"

#: Who signs a policy: both, different people, neither the author.
POLICY_SIGNERS: tuple[Role, ...] = ("platform", "team-lead")

Rows = pa.Table | Sequence[Mapping[str, Any]]
Row = TypeVar("Row", PolicyRow, PolicyReview)


@dataclass(frozen=True)
class PolicyVersion:
    """One version that can be read, whether or not it is in force."""

    version: int
    policy: Policy
    document_hash: str
    author: str
    valid_from: datetime
    created_at: datetime


@dataclass(frozen=True)
class VersionState:
    """One version and where it stands."""

    version: int
    state: str
    """in force, approved (but not yet valid), superseded, draft, rejected or unreadable"""
    author: str
    document_hash: str
    valid_from: datetime
    created_at: datetime
    signed_by: tuple[str, ...]
    waits_for: tuple[str, ...]
    approved_at: datetime | None


@dataclass
class _Case:
    """What is known of one version while the signatures are read in order."""

    row: PolicyRow
    content: PolicyVersion | None
    signed: list[tuple[int, Signed]] = field(default_factory=list)
    """Signatures with the version in force when they were given; they count under that one."""
    approved_at: datetime | None = None
    rejected_by: str | None = None

    def signed_under(self, version: int | None) -> list[Signed]:
        return [signature for under, signature in self.signed if under == version]

    def in_force_from(self) -> datetime | None:
        return None if self.approved_at is None else max(self.approved_at, self.row.valid_from)


def policy_of(policies: Rows, reviews: Rows, now: datetime) -> PolicyVersion:
    """The policy in force at ``now``, from the rows of ``policies`` and ``policy_reviews``.

    Raises :class:`PolicyError` when there is none, or when the one that should be in force cannot be read: nothing is
    decided under a policy that is not known.
    """
    return _current(_fold(policies, reviews, now), now)


def version_states(policies: Rows, reviews: Rows, now: datetime) -> list[VersionState]:
    """Every version, the first first, and where it stands at ``now``."""
    cases = _fold(policies, reviews, now)
    try:
        current: int | None = _current(cases, now).version
    except PolicyError:
        current = None
    return [_state(case, current, now) for _, case in sorted(cases.items())]


def roles_for(draft: Policy, in_force: Policy) -> Roles:
    """Whose roles count for signing a draft: those of the policy in force, or the draft's where it names nobody."""
    return in_force.roles if in_force.roles.accounts else draft.roles


def _read(kind: type[Row], rows: Rows) -> list[Row]:
    """Rows of the policy; raises :class:`PolicyError` when one cannot be read."""
    try:
        read = [kind.model_validate(r) for r in (rows.to_pylist() if isinstance(rows, pa.Table) else rows)]
    except ValidationError as error:
        raise PolicyError([f"a row of the policies cannot be read: {error}"]) from error
    return [r for r in read if r.policy_id == POLICY_ID]


def _fold(policies: Rows, reviews: Rows, now: datetime) -> dict[int, _Case]:
    cases = {r.version: _Case(r, _content(r)) for r in _read(PolicyRow, policies)}
    first = cases.get(1)
    if first is not None and (first.row.author, first.row.approved_by) == (RELEASE, RELEASE):
        first.approved_at = first.row.valid_from
    known = [r for r in _read(PolicyReview, reviews) if r.signed_at <= now]
    for review in sorted(known, key=lambda r: (r.signed_at, r.review_id)):
        _sign(cases, review)
    return cases


def _content(row: PolicyRow) -> PolicyVersion | None:
    try:
        policy = intact_policy(row.document, row.document_hash)
    except PolicyError:
        return None
    return PolicyVersion(row.version, policy, row.document_hash, row.author, row.valid_from, row.created_at)


def _current(cases: Mapping[int, _Case], now: datetime) -> PolicyVersion:
    valid = [v for v, case in cases.items() if (since := case.in_force_from()) is not None and since <= now]
    if not valid:
        raise PolicyError([f"no version of policy '{POLICY_ID}' is in force at {now.isoformat()}"])
    chosen = cases[max(valid)]
    if chosen.content is None:
        raise PolicyError([f"version {max(valid)} is in force and its document cannot be read or is not intact"])
    return chosen.content


def _sign(cases: Mapping[int, _Case], review: PolicyReview) -> None:
    """Take one signature in, if it counts."""
    case, at, signer = cases.get(review.version), review.signed_at, review.signer
    if case is None or case.content is None or case.approved_at is not None or case.rejected_by is not None:
        return
    try:
        in_force = _current(cases, at)
    except PolicyError:
        return
    content = case.content
    roles = roles_for(content.policy, in_force.policy)
    role = next((r for r in roles.held_by(signer) if r == review.role), None)
    bound = review.document_hash == content.document_hash and review.policy_version == in_force.version
    newer = content.version > in_force.version and content.created_at <= at
    if role is None or not (bound and newer and is_person(signer) and content.author in roles.accounts):
        return
    if review.verdict == "reject":
        case.rejected_by = signer
    elif review.verdict == "approve" and signer != content.author:
        case.signed.append((in_force.version, (signer, role)))
        if not open_roles(POLICY_SIGNERS, case.signed_under(in_force.version)):
            case.approved_at = at


def _state(case: _Case, current: int | None, now: datetime) -> VersionState:
    row = case.row
    since = case.in_force_from()
    if case.content is None:
        state = "unreadable"
    elif case.rejected_by is not None:
        state = "rejected"
    elif row.version == current:
        state = "in force"
    elif since is not None:
        state = "superseded" if since <= now else "approved"
    else:
        state = "superseded" if current is not None and row.version < current else "draft"
    signed = [who for under, (who, _) in case.signed if state != "draft" or under == current]
    if case.rejected_by is not None:
        signed.append(case.rejected_by)
    elif case.approved_at is not None and not signed:
        signed = [RELEASE]
    return VersionState(
        version=row.version,
        state=state,
        author=row.author,
        document_hash=row.document_hash,
        valid_from=row.valid_from,
        created_at=row.created_at,
        signed_by=tuple(dict.fromkeys(signed)),
        waits_for=open_roles(POLICY_SIGNERS, case.signed_under(current)) if state == "draft" else (),
        approved_at=case.approved_at,
    )

"""Policy versions at the books: seeding the first, proposing, signing, and which one is in force.

Belongs here: the transactions. Which signatures count and what they amount to is governance's
(``agents.governance.versions``). The command line and the Dagster assets share this; it needs neither.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sust_dagster.agents.governance import (
    Change,
    Policy,
    PolicyError,
    PolicyVersion,
    VersionState,
    check_policy,
    differences,
    policy_of,
    read_policy,
    version_states,
)
from sust_dagster.agents.governance.contradictions import RELEASE
from sust_dagster.agents.governance.signatures import is_person
from sust_dagster.agents.governance.versions import POLICY_ID, POLICY_SIGNERS, roles_for
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.world.access import AgentHandle, AgentSnapshot
from sust_dagster.world.ids import uuid5


class SignatureRefused(ValueError):  # noqa: N818 - a refusal is an answer, not a fault
    """A signature or a proposal that does not count; the message says why, and who may."""


@dataclass(frozen=True)
class InForce:
    """The policy in force, as a value and as the row it came from."""

    version: PolicyVersion
    row: Mapping[str, Any]


def in_force(snapshot: AgentSnapshot, now: datetime) -> InForce:
    """The policy in force as a transaction or snapshot sees it; raises ``PolicyError`` when there is none."""
    policies = snapshot.read_books("policies").to_pylist()
    version = policy_of(policies, snapshot.read_books("policy_reviews"), now)
    row = next(r for r in policies if (r["policy_id"], r["version"]) == (POLICY_ID, version.version))
    return InForce(version, row)


class PolicyDesk:
    """The policies as governance's handle may read and write them. ``now`` is always given: no clock here."""

    def __init__(self, handle: AgentHandle) -> None:
        self._handle = handle

    # -- reading ------------------------------------------------------------------------------------

    def in_force(self, now: datetime) -> PolicyVersion:
        """The policy in force; raises ``PolicyError`` when there is none."""
        with self._handle.snapshot() as snapshot:
            return in_force(snapshot, now).version

    def history(self, now: datetime) -> list[VersionState]:
        """Every version and where it stands."""
        with self._handle.snapshot() as snapshot:
            return _states(snapshot, now)

    def policy(self, version: int) -> Policy:
        """The policy of one version, in force or not; raises ``PolicyError`` when there is none."""
        with self._handle.snapshot() as snapshot:
            return read_policy(_row(snapshot, version)["document"])

    # -- writing ------------------------------------------------------------------------------------

    def seed(self, policy: Policy, now: datetime, *, valid_from: datetime | None = None) -> bool:
        """Put the first version in force, in the name of the release, unless there is one; whether this call did.

        ``valid_from`` (default: now) may lie in the past: what is planned for earlier days is planned under it.
        """
        check_policy(read_policy(policy.document))
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            if transaction.read_books("policies", {"policy_id": POLICY_ID}).num_rows:
                return False
            transaction.append(
                "policies", [_version_row(policy, 1, RELEASE, valid_from or now, now, approved_by=RELEASE)]
            )
            return True

    def propose(
        self,
        policy: Policy,
        author: str,
        now: datetime,
        *,
        valid_from: datetime | None = None,
        regions: Collection[str] | None = None,
    ) -> VersionState:
        """Add a version for others to sign, and raise an alert; the same document proposed again adds nothing.

        Raises :class:`SignatureRefused` when the author may not propose or nothing would change, ``PolicyError`` when
        the policy contradicts itself.
        """
        check_policy(read_policy(policy.document), regions)
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            current = in_force(transaction, now).version
            self._may_propose(policy, current, author)
            states = _states(transaction, now)
            same = [s for s in states if s.document_hash == policy.document_hash and s.state in ("draft", "approved")]
            if same:
                return same[-1]
            version = max(s.version for s in states) + 1
            transaction.append("policies", [_version_row(policy, version, author, valid_from or now, now)])
            changes = differences(current.policy, policy)
            text = f"{author} proposes policy {version}, against {current.version}: {_lines(changes)}"
            subject = _subject(version)
            raise_alert(transaction, "governance", "policy_proposed", subject, text, actor=author, now=now)
            return _states(transaction, now)[-1]

    def sign(
        self, version: int, signer: str, verdict: str, reason: str, now: datetime, *, role: str | None = None
    ) -> VersionState:
        """Approve or reject a version as a person; with the last signature it is in force, and an alert is raised.

        The same signature given again changes nothing. Raises :class:`SignatureRefused` when it does not count.
        """
        if verdict not in ("approve", "reject") or not reason.strip():
            raise SignatureRefused(f"policy {version}: a signature says 'approve' or 'reject', with a reason")
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            before = in_force(transaction, now).version
            row = _row(transaction, version)
            state = next(s for s in _states(transaction, now) if s.version == version)
            where = {"policy_id": POLICY_ID, "version": version, "signer": signer, "verdict": verdict}
            said = transaction.read_books("policy_reviews", where).column("policy_version").to_pylist()
            if said and (before.version in said or state.state != "draft"):
                return state
            if state.state != "draft":
                raise SignatureRefused(f"policy {version} is {state.state}; only a draft is signed")
            draft = read_policy(row["document"])
            held = _role_of(draft, before, state, signer, verdict, role)
            transaction.append("policy_reviews", [_review_row(row, before, signer, held, verdict, reason, now)])
            after = next(s for s in _states(transaction, now) if s.version == version)
            if after.approved_at is not None:
                changes = differences(before.policy, draft)
                text = f"policy {version} replaces {before.version}, signed by {', '.join(after.signed_by)}: "
                raise_alert(
                    transaction,
                    "governance",
                    "policy_changed",
                    _subject(version),
                    text + _lines(changes),
                    actor=signer,
                    now=now,
                )
            return after

    @staticmethod
    def _may_propose(policy: Policy, current: PolicyVersion, author: str) -> None:
        roles = roles_for(policy, current.policy)
        if not is_person(author) or author not in roles.accounts:
            raise SignatureRefused(f"'{author}' is no account of policy {current.version} that may propose another")
        if current.policy.roles.accounts and not policy.roles.accounts:
            raise SignatureRefused("the proposed policy names no accounts; then nobody could sign anything again")
        if policy.document_hash == current.document_hash:
            raise SignatureRefused(f"the proposed policy is policy {current.version}, which is in force")


def _role_of(
    draft: Policy, current: PolicyVersion, state: VersionState, signer: str, verdict: str, role: str | None
) -> str:
    """The role a person signs a policy in; raises :class:`SignatureRefused` when there is none."""
    roles = roles_for(draft, current.policy)
    held = [r for r in (*state.waits_for, *POLICY_SIGNERS) if r in roles.held_by(signer) and role in (None, r)]
    if not is_person(signer) or not held:
        wanted = role or "platform or team-lead"
        raise SignatureRefused(f"'{signer}' holds no role {wanted} in policy {current.version}")
    if verdict == "approve" and signer == state.author:
        raise SignatureRefused(f"{signer} wrote policy {state.version}; two others sign it")
    return held[0]


def _states(snapshot: AgentSnapshot, now: datetime) -> list[VersionState]:
    return version_states(snapshot.read_books("policies"), snapshot.read_books("policy_reviews"), now)


def _row(snapshot: AgentSnapshot, version: int) -> Mapping[str, Any]:
    rows = snapshot.read_books("policies", {"policy_id": POLICY_ID, "version": version}).to_pylist()
    if not rows:
        raise PolicyError([f"there is no version {version}; `sust policy history` lists them"])
    return rows[0]


def _version_row(
    policy: Policy, version: int, author: str, valid_from: datetime, now: datetime, approved_by: str | None = None
) -> dict[str, Any]:
    return {
        "policy_id": POLICY_ID,
        "version": version,
        "document": policy.document,
        "document_hash": policy.document_hash,
        "author": author,
        "approved_by": approved_by,
        "valid_from": valid_from,
        "created_at": now,
    }


def _review_row(
    row: Mapping[str, Any],
    current: PolicyVersion,
    signer: str,
    role: str,
    verdict: str,
    reason: str,
    now: datetime,
) -> dict[str, Any]:
    return {
        "review_id": uuid5("policy_review", POLICY_ID, row["version"], signer, verdict, current.version),
        "policy_id": POLICY_ID,
        "version": row["version"],
        "document_hash": row["document_hash"],
        "signer": signer,
        "role": role,
        "verdict": verdict,
        "reason": reason,
        "policy_version": current.version,
        "signed_at": now,
    }


def _subject(version: int) -> str:
    return f"policy {POLICY_ID} version {version}"


def _lines(changes: list[Change]) -> str:
    return "; ".join(map(str, changes))

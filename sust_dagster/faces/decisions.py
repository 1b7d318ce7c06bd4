"""`sust proposals`, `approve`, `reject`, `review`, `policy` and `alerts`: decisions of a project, by its people.

Belongs here: opening the project's books for governance, which clock counts, and results as plain values to print. The
transactions are the desks' (``orchestration``), the rules governance's.

Who gives an account is believed: whoever may write the project's books may sign as anyone. Where that is not enough,
put the books on PostgreSQL behind a service that knows its users.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sust_dagster.agents.governance import Policy, VersionState, differences, write_policy_file
from sust_dagster.agents.governance.policy_file import read_policy_file
from sust_dagster.orchestration.alerts import acknowledge
from sust_dagster.orchestration.decision_desk import APPROVAL_WANTED, DecisionDesk, Signing
from sust_dagster.orchestration.docket import Case
from sust_dagster.orchestration.policy_desk import PolicyDesk, SignatureRefused
from sust_dagster.orchestration.policy_seed import seed_policy
from sust_dagster.settings import Project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.lake import Lake


@contextmanager
def governed_world(project: Project) -> Generator[World]:
    """The project's world with a policy in force; the first one is seeded when there is none."""
    with World(Lake(project.lake_root), Books.open(project.books_address)) as world:
        seed_policy(world, project, project.present())
        yield world


# -- decisions ----------------------------------------------------------------------------------------------


def list_proposals(project: Project, status: str) -> list[dict[str, Any]]:
    """Recommendations in a state ('all': in any); those still proposed with whom each waits for and until when."""
    from sust_dagster.world.schemas import DECISION_STATES

    if status not in (*DECISION_STATES, "all"):
        raise ValueError(f"--status {status!r} is none of {', '.join((*DECISION_STATES, 'all'))}")
    with governed_world(project) as world:
        handle = world.handle("governance")
        if status == "proposed":
            return [_case(c) for c in DecisionDesk(handle).cases(project.present())]
        where = {} if status == "all" else {"status": status}
        log = handle.read_books("decision_log", where).drop_columns(["current_config", "proposed_config"])
    return [{k: _instant(v) for k, v in row.items()} for row in log.to_pylist()]


def review_proposals(project: Project) -> dict[str, Any]:
    """Decide everything proposed, as the daily job does."""
    with governed_world(project) as world:
        done = DecisionDesk(world.handle("governance")).review(project.present())
    return {
        "policy_version": done.policy_version,
        "approved": list(done.approved),
        "rejected": dict(done.rejected),
        "expired": dict(done.expired),
        "waiting": [_case(c) for c in done.waiting],
    }


def approve(
    project: Project, ids: Sequence[str], account: str, role: str | None, reason: str, plan_hash: str | None
) -> list[dict[str, Any]]:
    """Sign each recommendation as an account; what is refused says why, and does not hold up the others."""

    def sign(desk: DecisionDesk, recommendation: str, now: datetime) -> Signing:
        return desk.approve(recommendation, account, now, role=role, reason=reason, plan_hash=plan_hash)

    return _each(project, ids, sign)


def reject(
    project: Project, ids: Sequence[str], account: str, role: str | None, reason: str, plan_hash: str | None
) -> list[dict[str, Any]]:
    """Turn each recommendation down as an account, for good."""

    def sign(desk: DecisionDesk, recommendation: str, now: datetime) -> Signing:
        return desk.reject(recommendation, account, reason, now, role=role, plan_hash=plan_hash)

    return _each(project, ids, sign)


def _each(
    project: Project, ids: Sequence[str], sign: Callable[[DecisionDesk, str, datetime], Signing]
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    with governed_world(project) as world:
        desk, now = DecisionDesk(world.handle("governance")), project.present()
        for recommendation in dict.fromkeys(ids):
            try:
                results.append(_signing(sign(desk, recommendation, now)))
            except SignatureRefused as refusal:
                results.append({"recommendation_id": recommendation, "refused": str(refusal)})
    return results


def _signing(signing: Signing) -> dict[str, Any]:
    waits = signing.decision.waits_for if signing.state == "proposed" else ()
    return {
        "recommendation_id": signing.recommendation_id,
        "state": signing.state,
        "role": signing.role,
        "waits_for": list(waits),
        "new": signing.new,
    }


def _case(case: Case) -> dict[str, Any]:
    decision, proposal = case.decision, case.proposal
    fields = ("workload_id", "team_id", "action_type", "est_carbon_delta_kg", "est_cost_delta_usd", "confidence")
    return {
        "recommendation_id": case.recommendation_id,
        "status": "proposed",
        **{name: proposal.get(name) for name in fields},
        "planned_for": _instant(proposal.get("planned_for")),
        "plan_hash": proposal.get("plan_hash"),
        "risk_level": decision.risk.level,
        "risk_reasons": list(decision.risk.reasons),
        "verdict": decision.verdict,
        "signed": [f"{who} as {role}" for who, role in decision.signed],
        "waits_for": list(decision.waits_for),
        "expires_at": None if decision.verdict == "approve" else _instant(decision.until),
        "failed_checks": {c.name: c.why for c in decision.failed},
    }


def _instant(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


# -- policies -----------------------------------------------------------------------------------------------


def show_policy(project: Project, version: int | None) -> tuple[int, Policy, str]:
    """A version (default: the one in force), its policy and its file."""
    with governed_world(project) as world:
        desk = PolicyDesk(world.handle("governance"))
        chosen = version or desk.in_force(project.present()).version
        policy = desk.policy(chosen)
    return chosen, policy, write_policy_file(policy, f"Version {chosen}, SHA-256 {policy.document_hash}")


def diff_policy(project: Project, first: str, second: str | None) -> list[dict[str, Any]]:
    """Fields that differ between two policies, each a version or a file; with one, against the policy in force."""
    with governed_world(project) as world:
        desk = PolicyDesk(world.handle("governance"))
        in_force = str(desk.in_force(project.present()).version)
        before, after = (first, second) if second is not None else (in_force, first)
        changes = differences(_policy(desk, before), _policy(desk, after))
    return [asdict(c) for c in changes]


def _policy(desk: PolicyDesk, name: str) -> Policy:
    return desk.policy(int(name)) if name.isdigit() else read_policy_file(Path(name).read_text(encoding="utf-8"))


def propose_policy(project: Project, file: Path, account: str, valid_from: datetime | None) -> dict[str, Any]:
    """Add the policy of a file as a version for others to sign."""
    from sust_dagster.connectors.sources import regions_of

    policy = read_policy_file(file.read_text(encoding="utf-8"), regions_of(project))
    with governed_world(project) as world:
        desk, now = PolicyDesk(world.handle("governance")), project.present()
        return _version(desk.propose(policy, account, now, valid_from=valid_from))


def sign_policy(
    project: Project, version: int, account: str, verdict: str, reason: str, role: str | None
) -> dict[str, Any]:
    """Approve or reject a version as an account."""
    with governed_world(project) as world:
        desk = PolicyDesk(world.handle("governance"))
        return _version(desk.sign(version, account, verdict, reason, project.present(), role=role))


def policy_history(project: Project) -> list[dict[str, Any]]:
    """Every version and where it stands."""
    with governed_world(project) as world:
        return [_version(s) for s in PolicyDesk(world.handle("governance")).history(project.present())]


def _version(state: VersionState) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else _instant(v) for k, v in asdict(state).items()}


# -- alerts -------------------------------------------------------------------------------------------------


def list_alerts(project: Project, everything: bool) -> list[dict[str, Any]]:
    """Alerts that nobody has acknowledged and that still ask for something (``everything``: all), the oldest first."""
    with governed_world(project) as world, world.handle("governance").snapshot() as snapshot:
        events = snapshot.read_books("alerts").to_pylist()
        proposed = snapshot.read_books("decision_log", {"status": "proposed"}, columns=["recommendation_id"])
    waiting = set(proposed.column("recommendation_id").to_pylist())
    by = {e["alert_id"]: e["actor"] for e in events if e["event"] == "acknowledged"}
    rows = [
        {**{k: e[k] for k in ("alert_id", "kind", "subject", "text", "agent", "actor")},
         "raised_at": _instant(e["occurred_at"]), "acknowledged_by": by.get(e["alert_id"])}
        for e in sorted(events, key=lambda e: (e["occurred_at"], e["alert_id"])) if e["event"] == "raised"
    ]  # fmt: skip

    def open_still(row: dict[str, Any]) -> bool:
        answered = row["kind"] == APPROVAL_WANTED and row["subject"] not in waiting
        return row["acknowledged_by"] is None and not answered

    return [r for r in rows if everything or open_still(r)]


def acknowledge_alerts(project: Project, ids: Sequence[str], account: str, text: str) -> int:
    """Note that an account of the policy in force has seen alerts; how many were not noted before."""
    now = project.present()
    with governed_world(project) as world:
        handle = world.handle("governance")
        if account not in PolicyDesk(handle).in_force(now).policy.roles.accounts:
            raise SignatureRefused(f"'{account}' is no account of the policy in force")
        with handle.transaction() as transaction:
            noted = [acknowledge(transaction, "governance", i, actor=account, text=text, now=now) for i in ids]
    return sum(noted)

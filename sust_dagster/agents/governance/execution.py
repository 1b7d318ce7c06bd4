"""The last gate before a change: does the approval in the books still cover this very plan?

Belongs here: the checks the executor asks right before it acts. Does not belong here: granting approvals (``decide``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sust_dagster.agents.governance.checks import Answer, Check, ask
from sust_dagster.world.decisions import Event, plan_hash, proposal_of


@dataclass(frozen=True)
class _Case:
    history: Sequence[Event]
    plan: Mapping[str, object]
    rejections: int
    now: datetime


def may_execute(
    history: Sequence[Event], plan: Mapping[str, object], rejections: int, now: datetime
) -> tuple[Check, ...]:
    """Checks of an execution; it may happen when every one is ok.

    ``history``: the recommendation's events in order; ``plan``: the fields about to be carried out, by the names of
    ``world.decisions.PLAN_FIELDS``; ``rejections``: how many people rejected this plan hash. Never raises.
    """
    return ask(_CHECKS, _Case(history, plan, rejections, now))


def _is_approved(case: _Case) -> Answer:
    last = case.history[-1]
    return True if (last["to_status"], last["agent"]) == ("approved", "governance") else f"it is {last['to_status']}"


def _plan_is_the_approved_one(case: _Case) -> Answer:
    found = plan_hash(case.plan)
    hashes = {case.history[0]["plan_hash"], case.history[-1]["plan_hash"]}
    return True if hashes == {found} else f"the plan at hand has the hash {found}"


def _approval_still_counts(case: _Case) -> Answer:
    until = datetime.fromisoformat(proposal_of(case.history[-1:])["holds_until"])
    return True if case.history[-1]["occurred_at"] <= case.now < until else f"it counted until {until.isoformat()}"


def _nobody_rejected(case: _Case) -> Answer:
    return True if case.rejections == 0 else "a person rejected this plan; that is final"


_CHECKS: Mapping[str, Callable[[_Case], Answer]] = {
    "is_approved": _is_approved,
    "plan_is_the_approved_one": _plan_is_the_approved_one,
    "approval_still_counts": _approval_still_counts,
    "nobody_rejected": _nobody_rejected,
}

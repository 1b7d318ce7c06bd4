"""The executor's own brakes: the scope guard, the kill switch, the caps of a day, targets that are switched off.

Belongs here: named conditions, each of which must hold right before acting, asked so that whatever goes wrong counts
as no. Does not belong here: whether the approval counts (``governance.may_execute``), writing refusals down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from sust_dagster.agents.executor.fallback import in_scope
from sust_dagster.agents.executor.orders import Change, change_hash, change_of, plan_of, same_bytes
from sust_dagster.agents.governance.checks import Answer, Check, ask
from sust_dagster.world.decisions import Event, plan_hash
from sust_dagster.world.holdout import held_out


@dataclass(frozen=True)
class Limits:
    """How much may be carried out, and whether anything may."""

    enabled: bool = True
    """The kill switch: false, and nothing new begins."""
    disabled_targets: Collection[str] = ()
    max_changes_per_day: int = 1000
    max_share_of_workloads_per_day: float = 1.0
    """Share of the known workloads that may be changed in a day, 0 to 1; below 1 their number must be known."""
    awaited: Mapping[str, Collection[str]] = field(default_factory=dict)
    """Workloads that others wait for, each with those, as the register says at the moment of acting."""
    holdout_seed: int = 0
    holdout_share: float = 0.0
    """Groups drawn with these (``world.holdout``) stay as they are; 0: none is drawn."""


@dataclass(frozen=True)
class Today:
    """What was begun since 00:00 UTC."""

    changes: int = 0
    workloads: Collection[str] = ()
    known_workloads: int | None = None


@dataclass(frozen=True)
class _Room:
    limits: Limits
    change: Change
    today: Today


def within_limits(limits: Limits, change: Change, today: Today) -> tuple[Check, ...]:
    """Kill switch, switched-off targets, the caps of the day and precedence; it may begin when every one is ok.

    Precedence is looked at for the change alone, so it holds whatever becomes of the others' approvals: a workload that
    others wait for is not put off, and gets nothing that may make its runs longer. Its place may change.
    """
    return ask(_LIMITS, _Room(limits, change, today))


def _enabled(room: _Room) -> Answer:
    return True if room.limits.enabled is True else "execution is switched off"


def _target_enabled(room: _Room) -> Answer:
    target = room.change.target
    return True if target not in room.limits.disabled_targets else f"target {target} is switched off"


def _changes_left(room: _Room) -> Answer:
    most = room.limits.max_changes_per_day
    return True if room.today.changes < most else f"{room.today.changes} changes began today, the cap is {most}"


def _workloads_left(room: _Room) -> Answer:
    share, known = room.limits.max_share_of_workloads_per_day, room.today.known_workloads
    if share >= 1:
        return True
    if not known:
        return "a share of the workloads is capped and nobody said how many there are"
    touched = len({*room.today.workloads, room.change.workload_id})
    return True if touched <= share * known else f"it would be workload {touched} of {known} today, the cap is {share}"


def _nobody_waits(room: _Room) -> Answer:
    waiting, proposed = room.limits.awaited.get(room.change.workload_id), room.change.proposed
    if not waiting:
        return True
    late = sum(float(p["delay_hours"]) != 0 for p in room.change.placements)
    said = [f"{late} of its groups would start later"] if late else []
    said += ["a smaller size may make its runs longer"] if float(proposed["vcpus_scale"]) < 1 else []
    said += ["on spot its runs may be interrupted"] if proposed["spot"] is not False else []
    return True if not said else f"{', '.join(sorted(waiting))} would start before it ends: {'; '.join(said)}"


def _hold_out_stays(room: _Room) -> Answer:
    placed = room.change.placements
    if room.limits.holdout_share <= 0 or not placed:
        return True
    asked = pa.array([datetime.fromisoformat(p["requested_start"]) for p in placed], pa.timestamp("us", tz="UTC"))
    names = pa.array([room.change.workload_id] * len(placed), pa.string())
    drawn = held_out(room.limits.holdout_seed, names, asked, room.limits.holdout_share)
    first = next((p["job_id"] for p, stays in zip(placed, drawn, strict=True) if stays), None)
    return True if first is None else f"{drawn.sum()} of its groups are held out, the first is {first}"


_LIMITS: Mapping[str, Callable[[_Room], Answer]] = {
    "execution_enabled": _enabled,
    "target_enabled": _target_enabled,
    "changes_per_day": _changes_left,
    "share_of_workloads_per_day": _workloads_left,
    "start_before_dependency": _nobody_waits,
    "hold_out_is_left_alone": _hold_out_stays,
}


@dataclass(frozen=True)
class _Scope:
    history: Sequence[Event]
    change: Change
    sent: Mapping[str, Any]
    before: Mapping[str, Any]
    frozen: str


def scope_guard(
    history: Sequence[Event], change: Change, sent: Mapping[str, Any], before: Mapping[str, Any], frozen: str
) -> tuple[Check, ...]:
    """Whether what is about to be applied is what was approved, byte for byte.

    ``change``: the order about to be given; ``sent`` and ``before``: the preview's change and the state it replaces;
    ``frozen``: their hash from the moment they were shown. Groups may have fallen back: see ``fallback``.
    """
    return ask(_SCOPE, _Scope(history, change, sent, before, frozen))


def _plan_is_proposed(case: _Scope) -> Answer:
    found = plan_hash(plan_of(case.history))
    hashes = {case.history[0]["plan_hash"], case.change.plan_hash}
    return True if hashes == {found} else f"the proposal's fields have the hash {found}"


def _order_is_approved(case: _Scope) -> Answer:
    approved = change_of(case.history, case.change.target)
    for name in ("recommendation_id", "workload_id", "team_id", "service_tier", "action_type", "planned_for"):
        if getattr(case.change, name) != getattr(approved, name):
            return f"its {name} is {getattr(case.change, name)!r}, approved was {getattr(approved, name)!r}"
    if not same_bytes(case.change.current, approved.current):
        return "its current_config differs from the approved one"
    return in_scope(approved, case.change)


def _preview_is_frozen(case: _Scope) -> Answer:
    found = change_hash(case.sent, case.before)
    return True if found == case.frozen else f"what would be sent has the hash {found}, shown was {case.frozen}"


_SCOPE: Mapping[str, Callable[[_Scope], Answer]] = {
    "plan_is_the_proposed_one": _plan_is_proposed,
    "order_is_the_approved_one": _order_is_approved,
    "preview_is_the_frozen_one": _preview_is_frozen,
}


def refused(checks: Sequence[Check]) -> str:
    """The failed conditions in words; empty when none failed."""
    return "; ".join(f"{c.name}: {c.why}" for c in checks if not c.ok)

"""What a target is: an outside system that an approved change is carried out in.

Belongs here: the protocol every target keeps, what goes in and what comes out, the two ways it says no. Does not
belong here: any one outside system (``schedulers``, ``forges``, ``tickets``, ``chat``), when a target is called and
how often (the execution desk), whether it may be called at all (governance).

Every call may fail before it took effect, after it, or with its answer lost. So a target keeps no memory of its own:
``find`` looks outside for what an earlier, unanswered ``apply`` of the same intent did, and ``apply``, ``rollback``
and ``find`` may each be called again at any time with the same result. The intent id is written into whatever is
made outside (a marker, a label, an idempotency key), so that it can be found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Order:
    """One approved change as a target gets it; nothing in it may differ from what was approved."""

    intent_id: str
    """UUIDv5 of recommendation, plan and target: the idempotency key."""
    recommendation_id: str
    plan_hash: str
    workload_id: str
    team_id: str
    service_tier: str | None
    action_type: str
    """region_shift, time_shift, right_size or spot_convert."""
    planned_for: datetime
    current: Mapping[str, Any]
    """The recommendation's ``current_config``."""
    proposed: Mapping[str, Any]
    """Its ``proposed_config``: what the approval is bound to."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What people should read beside the change, by the names of the recommendations table: estimates with their
    bounds, confidence, risk, rationale. Never decides anything."""


@dataclass(frozen=True)
class Preview:
    """What ``apply`` would do, exactly; making it changes nothing outside."""

    target: str
    text: str
    """For people: a unified diff, or the request with its body."""
    change: Mapping[str, Any]
    """JSON-able: what will be sent. ``apply`` sends this and nothing else."""
    before: Mapping[str, Any]
    """JSON-able: the state of what would be touched, as it is now; what ``rollback`` restores."""


@dataclass(frozen=True)
class Applied:
    """What is there outside now."""

    ref: str
    """URL or id, for people and for the log."""
    detail: Mapping[str, Any] = field(default_factory=dict)


class TargetRefused(ValueError):  # noqa: N818 - a refusal is an answer, not a fault
    """The outside, or the target for it, will not do this: asking again gives the same answer.

    ``reason`` is a named reason in snake_case (``unknown_workload``, ``conflict``, ``orphans_resource``, ...).
    """

    def __init__(self, reason: str, text: str) -> None:
        self.reason = reason
        super().__init__(f"{reason}: {text}")


class TargetUnavailable(RuntimeError):  # noqa: N818 - names the state of the outside
    """No answer, or one that says try later; whether the call took effect is not known.

    ``retry_after_seconds`` where the outside named one (a rate limit).
    """

    def __init__(self, text: str, *, retry_after_seconds: float | None = None) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(text)


class Target(Protocol):
    """An outside system changes are carried out in. Raises :class:`TargetRefused` or :class:`TargetUnavailable`."""

    @property
    def name(self) -> str:
        """As in the ``target`` column of the executions table."""
        ...

    def preview(self, order: Order) -> Preview:
        """The exact change, from the state outside as it is now. Changes nothing."""
        ...

    def find(self, order: Order, preview: Preview) -> Applied | None:
        """What an earlier ``apply`` of this intent left outside; None when it left nothing."""
        ...

    def apply(self, order: Order, preview: Preview) -> Applied:
        """Carry out ``preview.change``, all of it or nothing.

        Refuses (``changed_since``) when what it touches is no longer as in ``preview.before``, unless by this intent.
        """
        ...

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        """Differences between what is there now and what was wanted, in words; empty when it is so."""
        ...

    def rollback(self, order: Order, preview: Preview) -> None:
        """Restore ``preview.before``; does nothing where nothing of this intent is there.

        Refuses (``changed_since``) when somebody else changed it meanwhile: theirs is not undone.
        """
        ...

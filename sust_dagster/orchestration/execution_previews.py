"""What would be done about an approval, asked of its target: the exact change, and every check of it.

Belongs here: the preview, with groups that fall back and the canary that goes first, and the conditions that must hold.
Nothing here changes anything, in the books or outside. Does not belong here: acting on it (``execution_desk``).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sust_dagster.agents.executor.canary import CanaryRules, has_canary, split
from sust_dagster.agents.executor.fallback import Cell, FellBack, Placed, cell_of, fall_back
from sust_dagster.agents.executor.limits import Limits, Today, scope_guard, within_limits
from sust_dagster.agents.executor.orders import Change, change_hash, change_of, plan_of
from sust_dagster.agents.governance import Check, may_execute
from sust_dagster.connectors.schedulers.groups import ALREADY_STARTED, REGION_OUTAGE, GroupsRefused
from sust_dagster.connectors.targets import Applied, Order, Preview, Target, TargetRefused, TargetUnavailable
from sust_dagster.orchestration.execution_intents import Prepared, order_of
from sust_dagster.world.decisions import Event, proposal_of

#: Share of the emissions that each region of a change was estimated to leave.
Ranks = Callable[[Change], Mapping[str, float]]


class Previews:
    """Previews and checks of approved changes; ``target`` names a change's target, or what names it."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        target: str | Callable[[Mapping[str, Any]], str],
        limits: Limits,
        canary: CanaryRules,
        ranks: Ranks,
        *,
        watched: bool,
    ) -> None:
        self._targets = targets
        self._target = target
        self._limits = limits
        self._canary = canary
        self._ranks = ranks
        self._watched = watched

    def target_of(self, history: Sequence[Event]) -> str:
        return self._target if isinstance(self._target, str) else self._target(proposal_of(history))

    def prepare(self, history: Sequence[Event]) -> Prepared:
        """Ask the target for the exact change; groups whose place is closed fall back inside what was approved."""
        try:
            name = self.target_of(history)
            approved = change_of(history, name)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            return Prepared(None, None, "", (), unavailable=f"it cannot be read: {type(error).__name__}: {error}")
        if name not in self._targets:
            return Prepared(approved, None, "", (), unavailable=f"there is no target {name}")
        target = self._targets[name]
        closed: set[Cell] = set()
        left_out: dict[str, str] = {}
        placed = Placed(approved, ())
        rank: Mapping[str, float] | None = None
        while True:
            first, rest = self._split(placed.change)
            try:
                if "placements" in approved.proposed and not placed.change.placements:
                    why = "; ".join(sorted({f.why for f in placed.fell_back}))
                    return Prepared(approved, None, "", placed.fell_back, refusal=f"no group is left to place: {why}")
                preview = target.preview(order_of(first))
                if rest:
                    target.preview(order_of(placed.change))
            except GroupsRefused as error:
                before = (len(closed), len(left_out))
                cells = {p["job_id"]: cell_of(p) for p in placed.change.placements}
                closed |= {cells[j] for j, why in error.refused.items() if why == REGION_OUTAGE}
                left_out |= {j: why for j, why in error.refused.items() if why == ALREADY_STARTED}
                others = set(error.refused.values()) - {REGION_OUTAGE, ALREADY_STARTED}
                if others or (len(closed), len(left_out)) == before:
                    return Prepared(approved, None, "", placed.fell_back, refusal=str(error))
                rank = self._ranks(approved) if rank is None else rank
                placed = fall_back(approved, closed, left_out, rank)
            except TargetRefused as error:
                return Prepared(approved, None, "", placed.fell_back, refusal=str(error))
            except TargetUnavailable as error:
                return Prepared(approved, None, "", placed.fell_back, unavailable=str(error))
            else:
                frozen = change_hash(preview.change, preview.before)
                return Prepared(first, preview, frozen, placed.fell_back, rest=tuple(rest))

    def _split(self, change: Change) -> tuple[Change, list[Mapping[str, Any]]]:
        """What goes first, and the groups that follow."""
        if not has_canary(change.service_tier, self._canary) or not change.placements:
            return change, []
        first, rest = split(change.placements, self._canary)
        return change.of(first, "canary"), rest

    def checks(
        self, history: Sequence[Event], prepared: Prepared, rejections: int, today: Today, now: datetime
    ) -> tuple[Check, ...]:
        """Everything that must hold right before an intent is written."""
        try:
            plan = plan_of(history)
        except KeyError:
            plan = {}
        checks = may_execute(history, plan, rejections, now)
        change, preview = prepared.change, prepared.preview
        if change is None:
            return (*checks, Check("order_can_be_read", False, prepared.unavailable or ""))
        checks = (*checks, *within_limits(self._limits, change, today))
        if preview is None:
            return checks
        whole = change.of([*change.placements, *prepared.rest]) if prepared.rest else change
        watched = has_canary(change.service_tier, self._canary)
        seen = Check("health_is_watched", not watched or self._watched, "nobody measures its health")
        return (*checks, *scope_guard(history, whole, preview.change, preview.before, prepared.frozen), seen)

    def prepare_rest(self, history: Sequence[Event], intent: Mapping[str, Any]) -> Prepared:
        """The groups that follow a canary, as they can be placed now."""
        change = change_of(history, intent["target"]).of(intent["rest"], "rest")
        left_out: dict[str, str] = {}
        target = self._targets[intent["target"]]
        while True:
            keep = [p for p in intent["rest"] if p["job_id"] not in left_out]
            fell = tuple(FellBack(p["job_id"], p, None, left_out[p["job_id"]]) for p in intent["rest"] if p not in keep)
            change = change.of(keep, "rest")
            if not keep:
                return Prepared(change, None, "", fell, refusal="no group can be placed any more")
            try:
                preview = target.preview(order_of(change))
            except GroupsRefused as error:
                # What the canary went with is not planned anew: a group that finds its place closed stays at home.
                if set(error.refused.values()) - {REGION_OUTAGE, ALREADY_STARTED}:
                    return Prepared(change, None, "", fell, refusal=str(error))
                left_out |= error.refused
            except TargetRefused as error:
                return Prepared(change, None, "", fell, refusal=str(error))
            except TargetUnavailable as error:
                return Prepared(change, None, "", fell, unavailable=str(error))
            else:
                return Prepared(change, preview, change_hash(preview.change, preview.before), fell)


class Careful:
    """A target whose every failure that is no answer counts as none: what it did is not known, and is found out."""

    def __init__(self, target: Target) -> None:
        self._target = target

    @property
    def name(self) -> str:
        return self._target.name

    def preview(self, order: Order) -> Preview:
        with _answers():
            return self._target.preview(order)

    def find(self, order: Order, preview: Preview) -> Applied | None:
        with _answers():
            return self._target.find(order, preview)

    def apply(self, order: Order, preview: Preview) -> Applied:
        with _answers():
            return self._target.apply(order, preview)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        with _answers():
            return self._target.read_back(order, preview, applied)

    def rollback(self, order: Order, preview: Preview) -> None:
        with _answers():
            self._target.rollback(order, preview)


@contextmanager
def _answers() -> Generator[None]:
    try:
        yield
    except (TargetRefused, TargetUnavailable):
        raise
    except Exception as error:
        raise TargetUnavailable(f"{type(error).__name__}: {error}") from error

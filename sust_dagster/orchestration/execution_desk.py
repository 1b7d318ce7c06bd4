"""Executions at the books and outside: what is approved is begun, carried out, checked, and undone where it must be.

Belongs here: the order of things: the intent is in the books, with the state change, before anything happens outside;
each attempt is claimed there first; its end is written in one transaction with the state it leads to. Does not belong
here: what comes next (``agents.executor``), whether it may (governance, ``limits``), how (the targets). The command
line and the Dagster assets share this; it needs neither.

Exactly once: a claim is a row with the next sequence of its intent, so of several workers one gets it; a target finds
by the intent's id what an unanswered call left. A worker that was overtaken writes nothing, and takes back what it did
when the intent was undone meanwhile. After ``executed`` the rows say done, and nothing is applied again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sust_dagster.agents.executor.canary import CanaryRules, Health, verdict
from sust_dagster.agents.executor.fallback import FellBack, cell_of, left_over
from sust_dagster.agents.executor.limits import Limits, Today, refused, scope_guard
from sust_dagster.agents.executor.orders import Change, Part, change_of, config, intent_id
from sust_dagster.agents.executor.outbox import (
    CLOSED,
    MAX_ATTEMPTS,
    Attempt,
    Nothing,
    Row,
    Undo,
    claim,
    in_order,
    next_step,
    payload_of,
    row,
)
from sust_dagster.agents.governance import Check
from sust_dagster.connectors.targets import Order, Preview, Target, TargetRefused, TargetUnavailable
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.orchestration.docket import grouped, in_state
from sust_dagster.orchestration.execution_intents import (
    Prepared,
    ended,
    executing,
    first_row,
    intent_payload,
    intents_of,
    largest_first,
    order_from,
    order_json,
    overdue,
    rejections_among,
    rejections_of,
    result_of,
)
from sust_dagster.orchestration.execution_previews import Careful, Previews
from sust_dagster.world.access import AgentHandle, AgentSnapshot, AgentTransaction
from sust_dagster.world.books import ConflictError
from sust_dagster.world.books_schema import TABLES_SQL
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.decisions import Event, TransitionRefused, proposal_of

#: Kinds of the alerts raised here; their subject is the recommendation.
FAILED, STUCK = "execution_failed", "execution_stuck"
#: Why nothing begins while the kill switch is thrown.
SWITCHED_OFF = "execution_enabled: execution is switched off"
#: How long a claimed step is left to who claimed it.
LEASE = timedelta(minutes=15)

HealthSource = Callable[[str, datetime, datetime], Health | None]


@dataclass(frozen=True)
class DryRun:
    """What would be done about a recommendation, and what speaks against it."""

    recommendation_id: str
    target: str
    state: str | None
    checks: tuple[Check, ...]
    preview: Preview | None
    """None where the target has no change to show; ``problem`` says why."""
    fell_back: tuple[FellBack, ...]
    problem: str | None

    @property
    def ok(self) -> bool:
        """Whether it would be carried out now."""
        return self.preview is not None and all(c.ok for c in self.checks)


@dataclass(frozen=True)
class Begun:
    """What a beginning did, by recommendation id."""

    intents: Mapping[str, str]
    """Intents written by this call."""
    not_executed: Mapping[str, str]
    """Closed as failed at once, with why: the target will not do it, or no group is left to place."""
    held: Mapping[str, str]
    """Still approved, with why: a limit, an approval that does not count, a target that does not answer."""


@dataclass(frozen=True)
class Executed:
    """What became of what was begun, by recommendation id."""

    executed: Mapping[str, str] = field(default_factory=dict)
    """With the reference outside."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Undone, or never done, with why."""
    held: Mapping[str, str] = field(default_factory=dict)
    """Still approved, with why."""
    open: tuple[str, ...] = ()
    """Begun and not ended: watched as a canary, held by another worker, or the outside does not answer."""


class _Overtaken(Exception):  # noqa: N818 - not an error: somebody else took the step
    """Another worker took this step or ended the intent."""


class ExecutionDesk:
    """Executions as the executor's handle may read and write them. ``now`` is always given: no clock here."""

    def __init__(
        self,
        handle: AgentHandle,
        targets: Mapping[str, Target],
        *,
        target: str | Callable[[Mapping[str, Any]], str],
        limits: Limits | None = None,
        known_workloads: int | None = None,
        canary: CanaryRules | None = None,
        health: HealthSource | None = None,
        max_attempts: int = MAX_ATTEMPTS,
        lease: timedelta = LEASE,
    ) -> None:
        """``target``: the name of the target of every change, or what names it for a proposal's fields.

        ``lease``: how long an attempt is left to its worker before another may take it over; zero where there is
        never a second worker.
        """
        self._handle = handle
        self._targets: dict[str, Target] = {name: Careful(t) for name, t in targets.items()}
        self._limits = limits or Limits()
        self._known_workloads = known_workloads
        self._canary = canary or CanaryRules()
        self._health = health
        self._max_attempts = max_attempts
        self._lease = lease
        self._previews = Previews(
            self._targets, target, self._limits, self._canary, self._ranks, watched=health is not None
        )

    # -- looking ------------------------------------------------------------------------------------

    def due(self) -> list[str]:
        """Recommendations that are approved and not begun, the largest saving first."""
        with self._handle.snapshot() as snapshot:
            ids = in_state(snapshot, "approved")
            return largest_first(grouped(snapshot, "decision_events", {"recommendation_id": ids}))

    def open_intents(self) -> list[str]:
        """Ids of the intents that have not ended."""
        with self._handle.snapshot() as snapshot:
            found = intents_of(snapshot, in_state(snapshot, "executing"))
        return [intent for intent, rows in found.items() if rows[-1]["state"] not in CLOSED]

    def dry_run(self, recommendation: str, now: datetime) -> DryRun:
        """The exact change and every check of it; changes nothing, in the books or outside."""
        with self._handle.snapshot() as snapshot:
            histories = grouped(snapshot, "decision_events", {"recommendation_id": [recommendation]})
            if recommendation not in histories:
                raise ValueError(f"there is no recommendation {recommendation}; `sust proposals` lists them")
            history = histories[recommendation]
            rejections = rejections_of(snapshot, history)
            today = self._today(snapshot, now)
        prepared = self._previews.prepare(history)
        checks = self._previews.checks(history, prepared, rejections, today, now)
        return DryRun(
            recommendation,
            self._previews.target_of(history),
            history[-1]["to_status"],
            checks,
            prepared.preview,
            prepared.fell_back,
            prepared.refusal or prepared.unavailable,
        )

    # -- acting -------------------------------------------------------------------------------------

    def execute(self, now: datetime) -> Executed:
        """Finish what is open, then begin and carry out everything approved. Run again it changes nothing more."""
        before = self.recover(now)
        begun = self.begin(self.due(), now)
        with self._handle.snapshot() as snapshot:  # one look for all of them; each claims its own step
            ids = list(begun.intents)
            histories = grouped(snapshot, "decision_events", {"recommendation_id": ids}) if ids else {}
            rows = intents_of(snapshot, ids) if ids else {}
        after = [self._carry_out(r, i, now, (histories[r], rows[i])) for r, i in begun.intents.items()]
        return _merged([before, Executed(failed=begun.not_executed, held=begun.held), *after])

    def begin(self, recommendations: Sequence[str], now: datetime) -> Begun:
        """Write the intents of approved recommendations, each with its state change, in one transaction.

        What is refused stays approved (``held``), but for what the target itself will not do: that ends as failed.
        """
        if not recommendations:
            return Begun({}, {}, {})
        with self._handle.snapshot() as snapshot:
            histories = grouped(snapshot, "decision_events", {"recommendation_id": list(recommendations)})
        known = [r for r in recommendations if r in histories]
        ready = [r for r in known if histories[r][-1]["to_status"] == "approved"]
        if not self._limits.enabled:
            return Begun({}, {}, dict.fromkeys(ready, SWITCHED_OFF))  # no outside is even asked
        prepared = {r: self._previews.prepare(histories[r]) for r in ready}
        try:
            begun = self._write(ready, prepared, now)
        except TransitionRefused:
            # One that the books refuse must not keep the others from beginning.
            each = [self._write_one(r, prepared, now) for r in ready]
            begun = Begun(*({k: v for b in each for k, v in part(b).items()} for part in _PARTS_OF_BEGUN))
        others = {r: f"it is {histories[r][-1]['to_status']}" for r in known if r not in prepared}
        unknown = {r: "there is no such recommendation" for r in recommendations if r not in histories}
        return Begun(begun.intents, begun.not_executed, {**begun.held, **others, **unknown})

    def recover(self, now: datetime) -> Executed:
        """Finish or undo every open intent, and judge the canaries that were watched long enough."""
        with self._handle.snapshot() as snapshot:
            found = intents_of(snapshot, in_state(snapshot, "executing"))
        done: list[Executed] = []
        for intent, rows in found.items():
            recommendation = rows[0]["recommendation_id"]
            if rows[-1]["state"] not in CLOSED:
                done.append(self._tried(recommendation, lambda r, i=intent: self._carry_out(r, i, now), now))
        for recommendation in dict.fromkeys(rows[0]["recommendation_id"] for rows in found.values()):
            done.append(self._tried(recommendation, lambda r: self._judge(r, now), now))
        return _merged(done)

    def _tried(self, recommendation: str, step: Callable[[str], Executed], now: datetime) -> Executed:
        """A step; one whose rows cannot be read is left open and said aloud, and keeps nobody else waiting."""
        try:
            return step(recommendation)
        except (KeyError, TypeError, ValueError) as error:
            self._alert(recommendation, STUCK, f"its rows cannot be read: {type(error).__name__}: {error}", now)
            return Executed(open=(recommendation,))

    # -- beginning ----------------------------------------------------------------------------------

    def _ranks(self, change: Change) -> Mapping[str, float]:
        rows = self._handle.read_lake("placements", change.planned_for, change.planned_for + timedelta(days=1))
        return left_over([r for r in rows.to_pylist() if r["recommendation_id"] == change.recommendation_id])

    def _write_one(self, recommendation: str, prepared: Mapping[str, Prepared], now: datetime) -> Begun:
        try:
            return self._write([recommendation], prepared, now)
        except TransitionRefused as error:
            return Begun({}, {}, {recommendation: str(error)})

    def _write(self, recommendations: Sequence[str], prepared: Mapping[str, Prepared], now: datetime) -> Begun:
        """One transaction: the checks on what the books say now, the state changes, the intents."""
        intents: dict[str, str] = {}
        failed: dict[str, str] = {}
        held: dict[str, str] = {}
        with self._handle.transaction() as transaction:
            transaction.lock_decisions()
            histories = grouped(transaction, "decision_events", {"recommendation_id": list(recommendations)})
            today = self._today(transaction, now)
            rejections = rejections_among(transaction, histories.values())
            beginning: list[tuple[Sequence[Event], Prepared]] = []
            for recommendation in recommendations:
                history, made = histories[recommendation], prepared[recommendation]
                rejected = rejections[history[0]["plan_hash"]]
                against = refused(self._previews.checks(history, made, rejected, today, now)) or made.unavailable
                if against or made.change is None:
                    held[recommendation] = against or "it cannot be read"
                    continue
                if made.preview is None:
                    self._refuse(transaction, history, made, now)
                    failed[recommendation] = made.refusal or "refused"
                    continue
                beginning.append((history, made))
                intents[recommendation] = made.change.intent_id
                today = Today(today.changes + 1, {*today.workloads, made.change.workload_id}, today.known_workloads)
            for recommendation in self._intend(transaction, beginning, now):
                del intents[recommendation]  # another worker's
        return Begun(intents, failed, held)

    def _intend(
        self, transaction: AgentTransaction, beginning: Sequence[tuple[Sequence[Event], Prepared]], now: datetime
    ) -> list[str]:
        """The state changes and the intents; the recommendations that somebody else had begun."""
        said = [(history, made.change, intent_payload(history, made)) for history, made in beginning]
        wanted = [executing(history, change, payload) for history, change, payload in said if change is not None]
        decided = transaction.transitions(wanted, now=now)
        mine = [d.appended for d in decided]
        rows = [
            first_row(change, payload, now)
            for (_, change, payload), own in zip(said, mine, strict=True)
            if own and change is not None
        ]
        transaction.append("outbox", rows)
        return [w.recommendation_id for w, own in zip(wanted, mine, strict=True) if not own]

    def _refuse(self, transaction: AgentTransaction, history: Sequence[Event], made: Prepared, now: datetime) -> None:
        """Begin and end at once what the target will not do: the books hold the reason, nothing is sent."""
        change, reason = made.change, made.refusal or "refused"
        assert change is not None
        said = intent_payload(history, made)
        if transaction.transitions([executing(history, change, said)], now=now)[0].appended:
            first = first_row(change, said, now)
            transaction.append("outbox", [first, row(first, 1, "failed", {"reason": reason, "refused": True}, now)])
            transaction.transitions(
                [ended(history[0], change.target, "failed", f"not executed: {reason}", {})], now=now
            )

    def _today(self, snapshot: AgentSnapshot, now: datetime) -> Today:
        """What was begun since midnight."""
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        since = TABLES_SQL["decision_events"].c.occurred_at >= midnight
        begun = snapshot.read_books("decision_events", {"to_status": "executing"}, since, columns=["recommendation_id"])
        ids = begun.column("recommendation_id").to_pylist()
        first = snapshot.read_books("decision_events", {"recommendation_id": ids, "sequence": 0}).to_pylist()
        workloads = {str(proposal_of([e]).get("workload_id")) for e in first}
        return Today(len(ids), workloads, self._known_workloads)

    # -- carrying out -------------------------------------------------------------------------------

    def _carry_out(
        self, recommendation: str, intent: str, now: datetime, seen: tuple[Sequence[Event], list[Row]] | None = None
    ) -> Executed:
        """Take steps of an intent until it has ended, somebody else has it, or the outside does not answer.

        ``seen``: history and rows as they were a moment ago; a step that was taken since is not claimed again.
        """
        mine: int | Executed | None = None
        silent = 0
        history, rows = seen or (self._history(recommendation), self._rows(intent))
        while True:
            step = next_step(rows, self._max_attempts)
            if isinstance(step, Nothing):
                return self._outcome(recommendation)
            if payload_of(rows[0])["target"] not in self._targets:
                return Executed(open=(recommendation,))  # a desk with that target ends it
            last = rows[-1]
            taken = last["state"] == "attempting" and last["sequence"] != mine
            if taken and now - last["occurred_at"] < self._lease:
                return Executed(open=(recommendation,))
            if isinstance(step, Attempt) and mine is None and not self._limits.enabled:
                return Executed(open=(recommendation,))  # switched off: nothing more is applied, undoing goes on
            step = self._guarded(step, rows, history)
            if step is None:
                said = {"reason": "scope_guard: the intent is not the approved change", "refused": len(rows) == 1}
                with suppress(_Overtaken):
                    self._end(rows, history, "failed", said, now)
                rows = self._rows(intent)
                continue
            if isinstance(step, Undo) and silent >= self._max_attempts:
                self._alert(recommendation, STUCK, f"{step.reason}; it cannot be undone: no answer", now)
                return Executed(open=(recommendation,))
            claimed = claim(rows[0], step, now)
            if not self._append([claimed]):
                return Executed(open=(recommendation,))
            rows, mine = [*rows, claimed], step.sequence
            try:
                if isinstance(step, Attempt):
                    mine = self._attempt(step, rows, history, now)
                    if isinstance(mine, Executed):
                        return mine
                else:
                    self._undo(step, rows, history, now)
                    silent += 1
            except _Overtaken:
                self._clean_up(intent, now)
                return self._outcome(recommendation)
            rows = self._rows(intent)

    def _attempt(self, step: Attempt, rows: Sequence[Row], history: Sequence[Event], now: datetime) -> int | Executed:
        """Look for what is there, else apply; then look whether it is as wanted, and write down how it ended.

        Returns what was carried out, else the sequence of this worker's last row.
        """
        order, preview, target = self._given(rows)
        try:
            found = target.find(order, preview)
            why = overdue(history, now) if found is None else None
            if found is None and why is None:
                self._still_mine(rows)
                found = target.apply(order, preview)
            if found is not None:
                why = "; ".join(target.read_back(order, preview, found))
                why = f"read_back: {why}" if why else None
        except TargetRefused as error:
            why, found = str(error), None
        except TargetUnavailable:
            return step.sequence  # the next step is another attempt, or to undo
        if found is not None and why is None:
            self._end(rows, history, "done", result_of(step, found), now)
            recommendation = rows[0]["recommendation_id"]
            if payload_of(rows[0])["part"] == "canary":
                return Executed(open=(recommendation,))
            return Executed(executed={recommendation: found.ref})
        return self._claim_undo(rows, history, why or "refused", now)

    def _claim_undo(self, rows: Sequence[Row], history: Sequence[Event], reason: str, now: datetime) -> int:
        """Say that it is to be undone before it is: whoever comes next undoes it too."""
        step = Undo(0, rows[-1]["sequence"] + 1, reason)
        claimed = claim(rows[0], step, now)
        if not self._append([claimed]):
            raise _Overtaken
        self._undo(step, [*rows, claimed], history, now)
        return step.sequence

    def _undo(self, step: Undo, rows: Sequence[Row], history: Sequence[Event], now: datetime) -> None:
        order, preview, target = self._given(rows)
        try:
            target.rollback(order, preview)
        except TargetUnavailable:
            return  # the next step is to undo again
        except TargetRefused as error:
            reason = f"{step.reason}; it cannot be undone: {error}"
            self._end(rows, history, "failed", {"reason": reason}, now)
        else:
            self._end(rows, history, "rolled_back", {"reason": step.reason}, now)

    def _end(
        self, rows: Sequence[Row], history: Sequence[Event], state: Any, said: Mapping[str, Any], now: datetime
    ) -> None:
        """One transaction: the end of an intent, and the state of the recommendation that follows from it."""
        intent, first = payload_of(rows[0]), history[0]
        part: Part = intent["part"]
        recommendation, last = rows[0]["recommendation_id"], row(rows[0], rows[-1]["sequence"] + 1, state, said, now)
        with self._handle.transaction() as transaction:
            try:
                new = transaction.append("outbox", [last]).inserted
            except ConflictError:
                new = 0
            if not new:
                raise _Overtaken
            if state == "done":
                if part != "canary":  # a canary is watched first
                    ending = ended(first, intent["target"], "executed", "carried out and read back", said)
                    transaction.transitions([ending], now=now)
                return
            if state == "failed":
                text = f"{intent['order']['workload_id']}: {said['reason']}; look at {intent['target']}"
                raise_alert(transaction, "executor", FAILED, recommendation, text, actor=None, now=now)
            if part == "rest" and self._undo_canary(transaction, first, intent["target"], said["reason"], now):
                return
            word = "rolled back" if state == "rolled_back" else "failed"
            ending = ended(first, intent["target"], "failed", f"{word}: {said['reason']}", {})
            transaction.transitions([ending], now=now)

    def _given(self, rows: Sequence[Row]) -> tuple[Order, Preview, Target]:
        """Order and preview as they were frozen with the intent, and who carries them out."""
        intent = payload_of(rows[0])
        order = order_from(intent["order"], rows[0]["intent_id"])
        preview = Preview(intent["target"], intent["text"], intent["change"], intent["before"])
        return order, preview, self._targets[intent["target"]]

    def _guarded(self, step: Attempt | Undo, rows: Sequence[Row], history: Sequence[Event]) -> Attempt | Undo | None:
        """The step, if the intent in the books is still the approved change, byte for byte."""
        intent = payload_of(rows[0])
        try:
            change = change_of(history, intent["target"]).of([], intent["part"])
            change = replace(change, proposed=config(intent["order"]["proposed"]))
            same = canonical_json(order_json(change)) == canonical_json(intent["order"])
            same &= change.intent_id == rows[0]["intent_id"]
            begun = next(e for e in history if e["to_status"] == "executing")
            frozen = proposal_of([begun])["change_hash"] if intent["part"] != "rest" else intent["change_hash"]
            checks = scope_guard(history, change, intent["change"], intent["before"], frozen)
        except (KeyError, ValueError, StopIteration):
            return None
        return step if same and all(c.ok for c in checks) else None

    def _clean_up(self, intent: str, now: datetime) -> None:
        """After being overtaken: what this worker did must not outlive an intent that was undone."""
        rows = self._rows(intent)
        if rows[-1]["state"] not in ("rolled_back", "failed"):
            return
        order, preview, target = self._given(rows)
        try:
            target.rollback(order, preview)
        except (TargetRefused, TargetUnavailable) as error:
            text = f"{order.workload_id}: it was undone, then a late worker did it again: {error}"
            self._alert(order.recommendation_id, FAILED, text, now)

    def _still_mine(self, rows: Sequence[Row]) -> None:
        if self._rows(rows[0]["intent_id"])[-1]["sequence"] != rows[-1]["sequence"]:
            raise _Overtaken

    # -- canaries -----------------------------------------------------------------------------------

    def _judge(self, recommendation: str, now: datetime) -> Executed:
        """What the health of a canary says: the rest follows, it is undone, or it is watched on."""
        history = self._history(recommendation)
        if history[-1]["to_status"] != "executing":
            return self._outcome(recommendation)
        with self._handle.snapshot() as snapshot:
            found = {payload_of(rows[0])["part"]: rows for rows in intents_of(snapshot, [recommendation]).values()}
        canary = found.get("canary")
        if canary is None or canary[-1]["state"] != "done" or "rest" in found:
            return self._outcome(recommendation)
        intent = payload_of(canary[0])
        since = max(canary[-1]["occurred_at"], _begins(canary))
        workload = intent["order"]["workload_id"]
        intended, span = canary[0]["occurred_at"], now - since
        before, after = self._seen(workload, intended - span, intended), self._seen(workload, since, now)
        said = verdict(before, after, since, now, self._canary, proposal_of(history).get("est_latency_delta_ms") or 0.0)
        if said.word == "wait":
            return Executed(open=(recommendation,))
        if said.word == "roll_back":
            with suppress(_Overtaken):
                self._claim_undo(canary, history, f"canary: {said.why}", now)
            return self._outcome(recommendation)
        if not self._limits.enabled:
            return Executed(open=(recommendation,))
        return self._follow(history, canary, said.why, now)

    def _seen(self, workload: str, start: datetime, end: datetime) -> Health | None:
        """Health of a workload in a span; a source that fails has not seen anything, and silence proves nothing."""
        if self._health is None or end <= start:
            return None
        try:
            return self._health(workload, start, end)
        except Exception:  # noqa: BLE001 - whatever its fault: not known
            return None

    def _follow(self, history: Sequence[Event], canary: Sequence[Row], why: str, now: datetime) -> Executed:
        """The rest after a canary that did well; groups that can no longer be placed stay at home."""
        intent = payload_of(canary[0])
        recommendation = history[0]["recommendation_id"]
        if not intent["rest"]:
            return self._close_canary(history, canary, why, now)
        made = self._previews.prepare_rest(history, intent)
        if made.unavailable:
            return Executed(open=(recommendation,))
        if made.preview is None or made.change is None:
            if made.change is None or not made.change.placements:
                return self._close_canary(history, canary, f"{why}; of the rest {made.refusal}", now)
            with suppress(_Overtaken):
                self._claim_undo(canary, history, f"the rest is refused: {made.refusal}", now)
            return self._outcome(recommendation)
        said = intent_payload(history, made)
        whole = [*intent["order"]["proposed"]["placements"], *made.change.placements]
        guard = scope_guard(history, made.change.of(whole), made.preview.change, made.preview.before, made.frozen)
        if refused(guard):
            return Executed(open=(recommendation,))
        if not self._append([first_row(made.change, said, now)]):
            return Executed(open=(recommendation,))
        done = self._carry_out(recommendation, made.change.intent_id, now)
        return self._carry_out(recommendation, canary[0]["intent_id"], now) if done.open else done

    def _close_canary(self, history: Sequence[Event], canary: Sequence[Row], why: str, now: datetime) -> Executed:
        recommendation, target = history[0]["recommendation_id"], payload_of(canary[0])["target"]
        ending = ended(history[0], target, "executed", f"the canary did well: {why}", payload_of(canary[-1]))
        with suppress(TransitionRefused):  # another worker said so a moment ago
            self._handle.transitions([ending], now=now)
        return self._outcome(recommendation)

    def _undo_canary(
        self, transaction: AgentTransaction, first: Event, target: str, reason: str, now: datetime
    ) -> bool:
        """All groups or none: where the rest was undone, the canary is too."""
        canary = intent_id(first["recommendation_id"], first["plan_hash"], target, "canary")
        rows = in_order(transaction.read_books("outbox", {"intent_id": canary}).to_pylist())
        if not rows or rows[-1]["state"] != "done":
            return False
        # Not claimed by anybody yet: dated so that it can be taken over at once.
        transaction.append("outbox", [claim(rows[0], Undo(0, len(rows), reason), now - self._lease)])
        return True

    # -- the books ----------------------------------------------------------------------------------

    def _rows(self, intent: str) -> list[Row]:
        return in_order(self._handle.read_books("outbox", {"intent_id": intent}).to_pylist())

    def _history(self, recommendation: str) -> list[Event]:
        return self._handle.read_books("decision_events", {"recommendation_id": recommendation}).to_pylist()

    def _append(self, rows: list[dict[str, Any]]) -> bool:
        """Whether these rows are in the books by this very call."""
        try:
            return self._handle.append("outbox", rows).inserted == len(rows)
        except ConflictError:
            return False

    def _alert(self, recommendation: str, kind: str, text: str, now: datetime) -> None:
        with self._handle.transaction() as transaction:
            raise_alert(transaction, "executor", kind, recommendation, text, actor=None, now=now)

    def _outcome(self, recommendation: str) -> Executed:
        last = self._history(recommendation)[-1]
        if last["to_status"] == "executed":
            return Executed(executed={recommendation: str(proposal_of([last]).get("execution_ref"))})
        if last["to_status"] == "failed":
            return Executed(failed={recommendation: last["reason"]})
        return Executed(open=(recommendation,))


def _begins(canary: Sequence[Row]) -> datetime:
    """When the last of a canary begins to run: as its target said, else by the plan."""
    said = payload_of(canary[-1])["detail"].get("begins_at")
    if said is not None:
        return datetime.fromisoformat(said)
    placements = payload_of(canary[0])["order"]["proposed"].get("placements", ())
    return max((cell_of(p)[1] for p in placements), default=canary[-1]["occurred_at"])


_PARTS_OF_BEGUN: tuple[Callable[[Begun], Mapping[str, str]], ...] = (
    lambda b: b.intents,
    lambda b: b.not_executed,
    lambda b: b.held,
)


def _merged(parts: Sequence[Executed]) -> Executed:
    """Everything together; what ended is not open."""
    executed = {k: v for p in parts for k, v in p.executed.items()}
    failed = {k: v for p in parts for k, v in p.failed.items()}
    held = {k: v for p in parts for k, v in p.held.items()}
    still = Counter(r for p in parts for r in p.open)
    return Executed(executed, failed, held, tuple(sorted(r for r in still if r not in executed and r not in failed)))

"""The outbox: the rows of one intent folded into the next step, right after a crash at any point.

Belongs here: what comes next, from the rows alone. Does not belong here: taking the step (the execution desk), what
the step does outside (the targets).

======================  ===================================================================================
last row                next step
======================  ===================================================================================
none                    nothing: without an intent there is nothing to carry out
intended                the first attempt
attempting, to apply    another attempt, which first looks for what the one before left; after the last, undo
attempting, to undo     undo again: a change is never left half undone because a call failed
done                    nothing, unless its undoing is asked for (a canary that does badly)
rolled_back, failed     nothing, ever
======================  ===================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sust_dagster.world.canonical import canonical_json

Row = Mapping[str, Any]
State = Literal["intended", "attempting", "done", "rolled_back", "failed"]
STATES: tuple[State, ...] = ("intended", "attempting", "done", "rolled_back", "failed")

#: States after which an intent is closed.
CLOSED: tuple[State, ...] = ("done", "rolled_back", "failed")
#: Attempts to apply before a change is undone.
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Nothing:
    """There is nothing to do; ``state`` is how the intent ended, ``None`` where there is no intent."""

    state: str | None


@dataclass(frozen=True)
class Attempt:
    """Look for what was left, else apply. ``sequence`` is the row that claims the step."""

    number: int
    sequence: int


@dataclass(frozen=True)
class Undo:
    """Restore what was there before."""

    number: int
    sequence: int
    reason: str


Step = Nothing | Attempt | Undo


def next_step(rows: Sequence[Row], max_attempts: int = MAX_ATTEMPTS) -> Step:
    """What to do about an intent, from its rows. Raises ``ValueError`` for rows that no run of ours can have left."""
    ordered = in_order(rows)
    if not ordered:
        return Nothing(None)
    last = ordered[-1]
    state, sequence = last["state"], last["sequence"] + 1
    if state in CLOSED:
        return Nothing(state)
    if state == "intended":
        return Attempt(1, sequence)
    said = payload_of(last)
    if said["do"] == "undo":
        return Undo(said["attempt"] + 1, sequence, said["reason"])
    if said["attempt"] < max_attempts:
        return Attempt(said["attempt"] + 1, sequence)
    return Undo(1, sequence, f"attempts_exhausted: no answer to {said['attempt']} attempts")


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Rows of one intent by sequence. Raises ``ValueError`` unless they are its rows, all of them and in a state."""
    ordered = sorted(rows, key=lambda r: r["sequence"])
    if [r["sequence"] for r in ordered] != list(range(len(ordered))):
        raise ValueError(f"rows are missing: {[r['sequence'] for r in ordered]}")
    if len({r["intent_id"] for r in ordered}) > 1:
        raise ValueError("rows of several intents")
    for row in ordered:
        if row["state"] not in STATES or (row["state"] == "intended") != (row["sequence"] == 0):
            raise ValueError(f"row {row['sequence']} is {row['state']}")
    return ordered


def row(of: Row, sequence: int, state: State, said: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """A further row of the intent that ``of`` belongs to."""
    return {
        "intent_id": of["intent_id"],
        "sequence": sequence,
        "recommendation_id": of["recommendation_id"],
        "state": state,
        "payload": canonical_json(said),
        "occurred_at": now,
    }


def claim(of: Row, step: Attempt | Undo, now: datetime) -> dict[str, Any]:
    """The row that claims a step: who gets it into the books takes the step, nobody else."""
    said: dict[str, Any] = {"attempt": step.number, "do": "apply"}
    if isinstance(step, Undo):
        said = {"attempt": step.number, "do": "undo", "reason": step.reason}
    return row(of, step.sequence, "attempting", said, now)


def payload_of(row: Row) -> dict[str, Any]:
    """What a row says."""
    return json.loads(row["payload"])

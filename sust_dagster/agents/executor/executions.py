"""The executions table from the books alone: one row per attempt whose end is known, the same on every run.

Belongs here: rows of the outbox and events of the decisions → EXECUTIONS. Does not belong here: storing it.

A row appears when the attempt it is about has ended, and never changes afterwards: ``applied``; ``failed`` (no answer,
and another attempt followed, or the change could not be undone); ``rolled_back``; ``refused`` (nothing was sent, or the
outside said no before anything was done).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from sust_dagster.agents.executor.outbox import Row, in_order, payload_of
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.schemas import EXECUTIONS

#: Order of the parts of one change.
_PARTS = {"all": 0, "canary": 0, "rest": 1}


def executions_of(outbox: pa.Table, events: pa.Table) -> pa.Table:
    """EXECUTIONS from rows of ``outbox`` and ``decision_events``, sorted by recommendation and attempt.

    Attempts of a change that went in parts count on from one part to the next.
    """
    hashes = {e["recommendation_id"]: e["plan_hash"] for e in events.to_pylist() if e["to_status"] == "executing"}
    intents: dict[str, list[Row]] = {}
    for row in outbox.to_pylist():
        intents.setdefault(row["intent_id"], []).append(row)
    made: dict[str, list[tuple[int, list[dict[str, Any]]]]] = {}
    for rows in intents.values():
        ordered = in_order(rows)
        recommendation = ordered[0]["recommendation_id"]
        if recommendation in hashes:
            part = payload_of(ordered[0]).get("part", "all")
            made.setdefault(recommendation, []).append((_PARTS[part], _attempts(ordered)))
    table = []
    for recommendation in sorted(made):
        attempts = [a for _, rows in sorted(made[recommendation], key=lambda p: p[0]) for a in rows]
        table += [
            {**attempt, "attempt": number, "plan_hash": hashes[recommendation]}
            for number, attempt in enumerate(attempts, start=1)
        ]
    return EXECUTIONS.conform(pa.Table.from_pylist(table, EXECUTIONS.arrow))


def _attempts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row per attempt that has ended; the undoing of what was done is an attempt of its own."""
    intent = payload_of(rows[0])
    found: list[dict[str, Any]] = []
    begun: Row | None = None
    for row in rows[1:]:
        if row["state"] != "attempting":
            found.append(_row(intent, begun or rows[0], row, *_ended(row)))
            begun = None
        elif payload_of(row)["do"] == "apply":
            if begun is not None:
                found.append(_row(intent, begun, row, "failed", {"reason": "no_answer"}))
            begun = row
        else:
            begun = begun or row
    return found


def _ended(row: Row) -> tuple[str, Mapping[str, Any]]:
    said = payload_of(row)
    if row["state"] == "done":
        return "applied", said
    return ("refused" if said.get("refused") else row["state"]), said


def _row(intent: Mapping[str, Any], begun: Row, ended: Row, status: str, said: Mapping[str, Any]) -> dict[str, Any]:
    detail = {
        "intent_id": begun["intent_id"],
        "part": intent.get("part", "all"),
        "change": intent["change"],
        "fell_back": intent["fell_back"],
        "result": said,
    }
    return {
        "recommendation_id": begun["recommendation_id"],
        "target": intent["target"],
        "status": status,
        "execution_ref": said.get("ref"),
        "baseline": canonical_json(intent["baseline"]),
        "detail": canonical_json(detail),
        "executed_at": ended["occurred_at"],
    }

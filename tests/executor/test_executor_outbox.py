"""The fold of the outbox: the right next step after a stop at any point, and the table that follows from it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from executor_cases import NOW, history
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.agents.executor.executions import executions_of
from sust_dagster.agents.executor.outbox import CLOSED, Attempt, Nothing, Undo, claim, next_step, payload_of, row
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.schemas import DECISION_EVENTS, EXECUTIONS, OUTBOX

INTENT = {
    "target": "simulated",
    "part": "all",
    "change": {"set": 1},
    "fell_back": [],
    "baseline": {"kg_before": 3.0},
}
FIRST = {"intent_id": "i-1", "recommendation_id": "rec-1"}


def intended() -> dict[str, Any]:
    return row(FIRST, 0, "intended", INTENT, NOW)


def later(rows: list[dict[str, Any]], state: Any, **said: Any) -> dict[str, Any]:
    return row(FIRST, len(rows), state, said, NOW + timedelta(minutes=len(rows)))


def rows_of(*ends: str) -> list[dict[str, Any]]:
    """Rows as the desk writes them: 'apply' and 'undo' claim a step, anything else ends the intent."""
    rows = [intended()]
    for end in ends:
        step = next_step(rows)
        if end == "undo" and not isinstance(step, Undo):
            rows.append(later(rows, "attempting", attempt=0, do="undo", reason="read_back: otherwise"))
        elif end in ("apply", "undo"):
            assert isinstance(step, Attempt | Undo)
            rows.append(claim(rows[0], step, NOW + timedelta(minutes=len(rows))))
        else:
            rows.append(later(rows, end, reason="because", ref="there"))
    return rows


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((), Attempt(1, 1)),
        (("apply",), Attempt(2, 2)),
        (("apply", "apply"), Attempt(3, 3)),
        (("apply", "apply", "apply"), Undo(1, 4, "attempts_exhausted: no answer to 3 attempts")),
        (("apply", "undo"), Undo(1, 3, "read_back: otherwise")),
        (("apply", "undo", "undo"), Undo(2, 4, "read_back: otherwise")),
        (("apply", "done"), Nothing("done")),
        (("apply", "undo", "rolled_back"), Nothing("rolled_back")),
        (("apply", "undo", "failed"), Nothing("failed")),
        (("failed",), Nothing("failed")),
        (("apply", "done", "undo"), Undo(1, 4, "read_back: otherwise")),
    ],
)
def test_the_next_step_follows_from_the_rows_alone(ends: tuple[str, ...], expected: Any) -> None:
    rows = rows_of(*ends)
    assert next_step(rows) == expected
    assert next_step(rows[::-1]) == expected, "the order they are read in does not matter"


def test_without_an_intent_there_is_nothing_to_do() -> None:
    assert next_step([]) == Nothing(None)


@given(st.lists(st.sampled_from(["stop", "done", "undo", "rolled_back"]), max_size=12), st.integers(1, 5))
def test_every_intent_ends_and_no_step_is_claimed_twice(events: list[str], most: int) -> None:
    """Whatever happens after each claim, a further claim has the next sequence, and applying comes to an end."""
    rows = [intended()]
    for event in events:
        step = next_step(rows, most)
        if isinstance(step, Nothing):
            assert rows[-1]["state"] in CLOSED
            break
        assert step.sequence == len(rows)
        rows.append(claim(rows[0], step, NOW))
        if isinstance(step, Attempt):
            assert step.number <= most
            if event == "done":
                rows.append(later(rows, "done", ref="there"))
            elif event == "undo":
                rows.append(later(rows, "attempting", attempt=0, do="undo", reason="no"))
        elif event == "rolled_back":
            rows.append(later(rows, "rolled_back", reason=step.reason))
    applies = [r for r in rows if r["state"] == "attempting" and payload_of(r)["do"] == "apply"]
    undone = [r["sequence"] for r in rows if r["state"] == "attempting" and payload_of(r)["do"] == "undo"]
    assert len(applies) <= most
    assert not undone or all(r["sequence"] < undone[0] for r in applies), "nothing is applied once it is to be undone"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda r: r[:1] + r[2:], "rows are missing"),
        (lambda r: [*r[:-1], r[-1] | {"intent_id": "i-2"}], "several intents"),
        (lambda r: [*r[:-1], r[-1] | {"state": "perhaps"}], "is perhaps"),
        (lambda r: [*r[:-1], r[-1] | {"state": "intended"}], "is intended"),
    ],
)
def test_rows_that_nobody_can_have_written_are_refused(spoil: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next_step(spoil(rows_of("apply", "done")))


# -- the executions table -------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    outbox = OUTBOX.conform(pa.Table.from_pylist(rows, OUTBOX.arrow))
    events = DECISION_EVENTS.conform(pa.Table.from_pylist(history("approved", "executing"), DECISION_EVENTS.arrow))
    made = executions_of(outbox, events)
    assert made.schema.names == list(EXECUTIONS.arrow.names)
    return made.to_pylist()


@pytest.mark.parametrize(
    ("ends", "statuses"),
    [
        ((), []),
        (("apply",), []),
        (("apply", "done"), ["applied"]),
        (("apply", "apply"), ["failed"]),
        (("apply", "apply", "done"), ["failed", "applied"]),
        (("apply", "undo"), []),
        (("apply", "undo", "rolled_back"), ["rolled_back"]),
        (("apply", "apply", "undo", "undo", "failed"), ["failed", "failed"]),
        (("apply", "done", "undo"), ["applied"]),
        (("apply", "done", "undo", "rolled_back"), ["applied", "rolled_back"]),
    ],
)
def test_one_row_per_attempt_whose_end_is_known(ends: tuple[str, ...], statuses: list[str]) -> None:
    found = table(rows_of(*ends))
    assert [r["status"] for r in found] == statuses
    assert [r["attempt"] for r in found] == list(range(1, len(statuses) + 1))
    assert all(r["baseline"] == canonical_json(INTENT["baseline"]) for r in found)


def test_a_refused_intent_is_refused_and_not_failed() -> None:
    rows = [intended()]
    rows.append(later(rows, "failed", reason="unknown_workload", refused=True))
    assert [(r["status"], r["attempt"], r["executed_at"]) for r in table(rows)] == [
        ("refused", 1, NOW + timedelta(minutes=1))
    ]


@given(st.integers(0, 8))
def test_a_row_never_changes_once_it_is_there(until: int) -> None:
    """The table of a book that was cut off anywhere is the beginning of the table of the whole book."""
    rows = rows_of("apply", "apply", "done", "undo", "undo", "rolled_back")
    whole = table(rows)
    assert whole[: len(table(rows[: until + 1]))] == table(rows[: until + 1])

"""What the loop left on record, for the report: decisions, executions, outcomes, the bounds of plans, the true figures.

Belongs here: reading them, once, in an order that never changes. Does not belong here: what the page says of them
(``report_plan``, ``report_outcomes``).

The proven bound of a day's plan is in no table: it is read from the run log of Dagster, which anyone with access to its
server may write, and the page says so. Everything else is from the lake and the books.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from sust_dagster.settings import Project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books
from sust_dagster.world.decisions import Event, proposal_of
from sust_dagster.world.lake import Lake

#: Ends of an execution, as events say it.
_ENDS = ("executed", "failed")


@dataclass(frozen=True)
class Decision:
    """A recommendation: what it proposed and what became of it."""

    recommendation_id: str
    state: str
    proposal: Mapping[str, Any]
    ended: str | None
    """``executed`` or ``failed``; none where its execution has not ended, or not begun."""
    why: str
    """Reason given where it ended, else where it stands."""


@dataclass(frozen=True)
class DayBound:
    """What the newest plan of a day said of itself when it was made."""

    day: str
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class LoopRecord:
    """All of it; ``executions`` and ``outcomes`` are tables of the lake, ordered by their keys."""

    decisions: Sequence[Decision]
    executions: pa.Table
    outcomes: pa.Table
    bounds: Sequence[DayBound] = ()
    truth: Mapping[str, Any] | None = None
    """The scorecard of a simulated project."""


def read_loop(project: Project) -> LoopRecord:
    """Read the record of a project; tables that nothing was written to are empty."""
    with World(Lake(project.lake_root), Books.open(project.books_address)) as world:
        handle = world.handle("copilot")
        events = handle.read_books("decision_events").to_pylist()
        executions = handle.read_lake("executions").sort_by(
            [("recommendation_id", "ascending"), ("attempt", "ascending")]
        )
        outcomes = handle.read_lake("outcomes").sort_by("outcome_id")
    decisions = decisions_of(events)
    return LoopRecord(decisions, executions, outcomes, _bounds(project) if decisions else (), _truth(project))


def decisions_of(events: Sequence[Event]) -> list[Decision]:
    """Fold events into recommendations, ordered by id."""
    histories: dict[str, list[Event]] = {}
    for event in sorted(events, key=lambda e: (e["recommendation_id"], e["sequence"])):
        histories.setdefault(event["recommendation_id"], []).append(event)
    made = []
    for recommendation, history in histories.items():
        end = next((e for e in history if e["to_status"] in _ENDS), None)
        said = (end or history[-1])["reason"]
        made.append(
            Decision(
                recommendation,
                history[-1]["to_status"],
                proposal_of(history),
                end["to_status"] if end else None,
                said,
            )
        )
    return made


def _truth(project: Project) -> dict[str, Any] | None:
    path = project.root / "scorecard.json"
    if project.source != "simulated" or not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _bounds(project: Project) -> list[DayBound]:
    """By day; none where the project has no run log of its own."""
    if not (project.root / "dagster" / "dagster.yaml").is_file():
        return []
    import dagster as dg

    from sust_dagster.faces.runs import open_instance

    with open_instance(project) as instance:
        records = instance.fetch_materializations(dg.AssetKey("recommendations"), limit=10_000).records
    # A run over many days says of its last day only what its plan's bound is.
    last_of_run: dict[str, str] = {}
    for record in records:
        if record.partition_key is not None:
            last_of_run[record.run_id] = max(last_of_run.get(record.run_id, ""), record.partition_key)
    newest: dict[str, DayBound | None] = {}
    for record in records:  # the newest first
        day, made = record.partition_key, record.asset_materialization
        if day is None or day in newest or made is None:
            continue
        said = made.metadata.get("last_day")
        summary = said.value if last_of_run[record.run_id] == day and said is not None else None
        newest[day] = DayBound(day, summary) if isinstance(summary, dict) else None
    return [bound for _, bound in sorted(newest.items()) if bound is not None]

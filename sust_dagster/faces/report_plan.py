"""What was planned and what became of it: the report's parts on recommendations and their execution.

Belongs here: how decisions and executions are counted and added up for the page. Does not belong here: reading them
(``report_record``), what they truly saved (``report_outcomes``).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sust_dagster.faces.report_parts import Cell, Part, Table, counted, estimate, exact, figure, money
from sust_dagster.faces.report_record import DayBound, Decision, LoopRecord
from sust_dagster.world.schemas import ACTION_TYPES, DECISION_STATES

#: What each state of a recommendation means, in the order of the loop.
STATES: Mapping[str, str] = {
    "proposed": "waits for people",
    "approved": "not begun yet",
    "rejected": "turned down",
    "expired": "nobody agreed in time",
    "executing": "begun, a part of it is watched before the rest follows",
    "executed": "carried out, its outcome is not known yet",
    "failed": "not carried out, or taken back",
    "verified": "carried out, and its outcome is known",
}
assert set(STATES) == set(DECISION_STATES)

#: First words of a reason that say how it ended, before the reason's own name.
_ENDINGS = ("failed", "rolled_back", "not executed")
_SUMMED = "Plan intervals are added up as if all forecasts erred the same way, so those of a sum are too wide."

_NO_BOUNDS = (
    "How far each day's plan is from the best there is (its proven gap) stands on the asset “recommendations” in "
    "Dagster; this project keeps no run log of its own to read it from."
)


def planned_part(record: LoopRecord) -> Part:
    """Recommendations by action and state, with what they were estimated to save and to cost."""
    decisions = record.decisions
    if not decisions:
        return Part("plan", "Planned", ["No recommendation has been made in this project yet."])
    found = Counter(d.state for d in decisions)
    states = [s for s in STATES if found[s]]
    actions = [a for a in ACTION_TYPES if any(d.proposal.get("action_type") == a for d in decisions)]
    rows = [_planned_row(a, [d for d in decisions if d.proposal.get("action_type") == a], states) for a in actions]
    carbon, cost = estimated(decisions)
    table = Table(
        "Recommendations by action, and the state each stands in",
        ("action", "estimated saving, kg [90\u00a0%]", "estimated cost, USD", "all", *states),
        rows,
        _planned_row("all", decisions, states),
    )
    days = len({d.proposal.get("planned_for") for d in decisions})
    line = (
        f"{counted(len(decisions), 'recommendation')} over {counted(days, 'day')}, together estimated to save "
        f"{carbon.inline} kg CO2e and to change cost by {cost.text} USD against running everything as it was."
    )
    notes = [
        "; ".join(f"{s} – {STATES[s]}" for s in states) + ".",
        f"A saving is before − after, a cost after − before. {_SUMMED}",
    ]
    bounds = _bounds_table(record.bounds)
    return Part("plan", "Planned", [line], [table, *bounds], notes=notes if bounds else [*notes, _NO_BOUNDS])


def estimated(decisions: Sequence[Decision]) -> tuple[Cell, Cell]:
    """Saving with its summed plan interval, and cost, that recommendations were estimated to bring."""
    point, lower, upper, cost = (
        math.fsum(float(d.proposal.get(name) or 0.0) for d in decisions)
        for name in (
            "est_carbon_delta_kg", "est_carbon_delta_kg_upper", "est_carbon_delta_kg_lower", "est_cost_delta_usd",
        )
    )  # fmt: skip
    return estimate(-point + 0.0, -lower + 0.0, -upper + 0.0), money(cost)


def _planned_row(name: str, decisions: Sequence[Decision], states: Sequence[str]) -> list[str | Cell]:
    found = Counter(d.state for d in decisions)
    return [name, *estimated(decisions), f"{len(decisions):,}", *(f"{found[s]:,}" for s in states)]


def _bounds_table(bounds: Sequence[DayBound]) -> list[Table]:
    """The plan of each day against the best there could be."""
    rows = [_bound_row(b.day, b.summary) for b in bounds if b.summary.get("kg_after") is not None]
    if not rows:
        return []
    gaps = [b.summary["gap"] for b in bounds if b.summary.get("gap") is not None]
    said = f"largest proven gap {_percent(max(gaps))}" if gaps else "no bound was proven"
    return [
        Table(
            "The newest plan of each day, over all runs it knew of; from the run log of Dagster, which is no evidence",
            (
                "day", "method", "expected runs", "kg, nothing changed", "kg, as planned", "kg, region table",
                "score", "no plan scores below", "proven gap",
            ),
            rows,
            left=2,
            folded=f"Each day's plan and its bound: {said}",
        )
    ]  # fmt: skip


def _bound_row(day: str, said: Mapping[str, Any]) -> list[str | Cell]:
    score = [exact(said[n], "") if said.get(n) is not None else Cell("none") for n in ("objective", "lower_bound")]
    gap = said.get("gap")
    return [
        day,
        str(said.get("formulation")),
        figure(said.get("expected_runs")),
        *(exact(said.get(n)) for n in ("kg_before", "kg_after", "kg_static_table")),
        *score,
        "not proven" if gap is None else _percent(gap),
    ]


def _percent(share: float) -> str:
    return f"{figure(100 * share)} %"


def executed_part(record: LoopRecord) -> Part:
    """How many were carried out, how each ended and why, and what was done outside."""
    decisions = record.decisions
    ended = [d for d in decisions if d.ended is not None]
    going = sum(d.state == "executing" for d in decisions)
    if not ended and not going:
        return Part("executed", "Executed", ["No recommendation has been carried out in this project yet."])
    done = sum(d.ended == "executed" for d in ended)
    sentence = f"Of {counted(len(decisions), 'recommendation')} {done:,} were carried out"
    sentence += f", {len(ended) - done:,} failed, {going:,} under way."
    groups: dict[tuple[str, str], list[Decision]] = {}
    for decision in ended:
        groups.setdefault((decision.ended or "", named(decision.why)), []).append(decision)
    rows = [
        [end, Cell(why, small=found[0].why if found[0].why != why else ""), f"{len(found):,}"]
        for (end, why), found in sorted(groups.items(), key=lambda g: (g[0][0], -len(g[1]), g[0][1]))
    ]
    tables = [
        Table("How executions ended, by reason; below each an example in full", ("ended", "why", "recommendations"),
              rows, left=2),
    ]  # fmt: skip
    if record.executions.num_rows:
        tables.append(_attempts_table(record))
    return Part("executed", "Executed", [sentence], tables)


def named(why: str) -> str:
    """The name a reason begins with: ``failed: approval_expired: it counted until ...`` is one of its kind."""
    first, *rest = why.split(": ")
    return f"{first}: {rest[0]}" if first in _ENDINGS and rest else first


def _attempts_table(record: LoopRecord) -> Table:
    rows = record.executions.select(["target", "status", "detail"]).to_pylist()
    found = Counter((r["target"], r["status"], _reason(r["detail"])) for r in rows)
    return Table(
        "What was done outside, attempt by attempt",
        ("target", "status", "why", "attempts"),
        [[*key, f"{n:,}"] for key, n in sorted(found.items(), key=lambda g: (g[0][0], -g[1], g[0]))],
        left=3,
        folded=f"{counted(len(rows), 'attempt')} at changing something outside",
    )


def _reason(detail: str | None) -> str:
    said = json.loads(detail) if detail else {}
    why = (said.get("result") or {}).get("reason")
    return named(why) if why else ""

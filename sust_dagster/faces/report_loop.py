"""What the loop did, for the report: the head's figures, the parts on plan, execution and outcome, and how to check.

Belongs here: the order of the parts. Does not belong here: any of them (``report_plan``, ``report_outcomes``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from sust_dagster.faces.report_outcomes import promised, saved_of, summed, verified_part
from sust_dagster.faces.report_parts import Part, Tile, counted, figure, money
from sust_dagster.faces.report_plan import estimated, executed_part, planned_part
from sust_dagster.faces.report_record import LoopRecord


@dataclass(frozen=True)
class LoopPages:
    """What the page says of the loop."""

    tiles: Sequence[Tile]
    parts: Sequence[Part]
    bundle: str
    """SHA-256 of the evidence of the largest outcome, to show how it is checked; empty: there is none."""


def loop_pages(record: LoopRecord) -> LoopPages:
    """Everything the page says of a project's loop."""
    parts = [planned_part(record), executed_part(record), verified_part(record)]
    return LoopPages(_tiles(record), parts, _bundle(record.outcomes))


def _tiles(record: LoopRecord) -> list[Tile]:
    decisions = record.decisions
    if not decisions:
        return []
    done = [d for d in decisions if d.ended == "executed"]
    whole = summed(record.outcomes)
    tiles = [
        Tile(counted(len(found), "change"), [word, f"estimated saving {kg.inline} kg", f"at {usd.text} USD"])
        for word, found in (("recommended", decisions), ("carried out", done))
        for kg, usd in (estimated(found),)
    ]
    if whole.portfolio is not None:
        saved = saved_of(whole.portfolio)
        lines = [
            f"verified saving, 90 % {saved.small} kg",
            f"{figure(whole.credited_kg)} kg credited; claimed for the same: {promised(whole).inline} kg",
            f"{counted(whole.outcomes, 'outcome')}, cost {money(whole.cost_delta_usd).text} USD",
        ]
        waiting = [f"{whole.waiting:,} more not settled, not counted"] if whole.waiting else []
        tiles.append(Tile(f"{saved.text} kg", [*lines, *waiting]))
    return tiles


def _bundle(outcomes: pa.Table) -> str:
    rows = outcomes.select(["evidence_chain", "measured_carbon_delta_kg"]).to_pylist()
    rows = [r for r in rows if r["evidence_chain"]]
    largest = min(rows, key=lambda r: (-abs(r["measured_carbon_delta_kg"] or 0.0), r["evidence_chain"]), default=None)
    return largest["evidence_chain"] if largest else ""

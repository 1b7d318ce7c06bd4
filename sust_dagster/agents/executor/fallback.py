"""What becomes of a job group whose place is closed when it is about to be placed.

Belongs here: the next-best placement inside what was approved, and the proof that a narrowed order is inside it. Does
not belong here: finding out what is closed (the target says so), new plans (the planner).

What is inside an approval, byte for byte:

- every field of the approved configuration but its placements is the same, and no group is added;
- a group keeps its approved placement; or it keeps its approved start and goes to another region that the same approval
  names for this workload (people and policy judged each region for the workload, and a start that is kept cannot break
  an order between jobs or a deadline); or it is left out, which is its status quo: at home, at once, as it is.

Right-sizing and spot are one change to the whole workload: a group of them keeps its place or is left out. The regions
are tried in the order of what they were estimated to leave of the emissions, where that is known, else by name.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import inf
from typing import Any

from sust_dagster.agents.executor.orders import Change, same_bytes

#: Actions whose groups may fall back to another approved region.
MOVES = ("region_shift",)

Cell = tuple[str, datetime]


@dataclass(frozen=True)
class FellBack:
    """A group that is not placed as planned: what was approved, what is done instead, and why."""

    job_id: str
    approved: Mapping[str, Any]
    instead: Mapping[str, Any] | None
    """None: left at home."""
    why: str

    def as_json(self) -> dict[str, Any]:
        """For the execution's detail."""
        instead = "left as it is, at home" if self.instead is None else dict(self.instead)
        return {"job_id": self.job_id, "approved": dict(self.approved), "instead": instead, "why": self.why}


@dataclass(frozen=True)
class Placed:
    """The change that can be carried out, and the groups that fell back."""

    change: Change
    fell_back: tuple[FellBack, ...]


def cell_of(placement: Mapping[str, Any]) -> Cell:
    """Region and hour that a placement starts in."""
    start = datetime.fromisoformat(placement["requested_start"]) + timedelta(hours=float(placement["delay_hours"]))
    return placement["region"], start.replace(minute=0, second=0, microsecond=0)


def fall_back(
    approved: Change,
    closed: Collection[Cell],
    left_out: Mapping[str, str] | None = None,
    left_over: Mapping[str, float] | None = None,
) -> Placed:
    """The approved change with its closed groups at their next-best place.

    ``closed``: region-hours that take no placements; ``left_out``: groups that cannot be placed anywhere (they have
    begun, nobody knows them), by job id with why; ``left_over``: share of the emissions that a region was estimated to
    leave, by region.
    """
    stay = left_out or {}
    shut = set(closed)
    rank = left_over or {}
    regions = sorted({p["region"] for p in approved.placements}, key=lambda r: (rank.get(r, inf), r))
    kept: list[Mapping[str, Any]] = []
    fell: list[FellBack] = []
    for group in approved.placements:
        job_id = group["job_id"]
        if job_id in stay:
            fell.append(FellBack(job_id, group, None, stay[job_id]))
            continue
        if cell_of(group) not in shut:
            kept.append(group)
            continue
        region, hour = cell_of(group)
        why = f"region_outage: {region} takes nothing at {hour.isoformat()}"
        others = [{**group, "region": r} for r in regions if r != region] if approved.action_type in MOVES else []
        instead = next((o for o in others if cell_of(o) not in shut), None)
        fell.append(FellBack(job_id, group, instead, why))
        if instead is not None:
            kept.append(instead)
    return Placed(approved.of(kept), tuple(fell))


def in_scope(approved: Change, change: Change) -> bool | str:
    """Whether a change is inside an approved one; why not, where it is not."""
    by_job = {p["job_id"]: p for p in approved.placements}
    rest, other = ({k: v for k, v in c.proposed.items() if k != "placements"} for c in (approved, change))
    if not same_bytes(rest, other):
        return "something besides the placements differs from the approved configuration"
    if "placements" not in approved.proposed:
        return True if "placements" not in change.proposed else "no placements were approved"
    if len(by_job) != len(approved.placements):
        return "the approved placements name a group twice"
    regions = {p["region"] for p in approved.placements}
    seen: set[str] = set()
    for group in change.placements:
        job_id = str(group.get("job_id"))
        if job_id not in by_job or job_id in seen:
            return f"group {job_id} was not approved, or stands twice"
        seen.add(job_id)
        elsewhere = {**by_job[job_id], "region": group.get("region")}
        moved = approved.action_type in MOVES and group.get("region") in regions and same_bytes(group, elsewhere)
        if not moved and not same_bytes(group, by_job[job_id]):
            return f"the placement of group {job_id} was not approved"
    return True if change.placements else "no group is left to place"


def left_over(placements: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the emissions a region was estimated to leave, from rows of the placements table."""
    before: dict[str, float] = {}
    after: dict[str, float] = {}
    for row in placements:
        before[row["region"]] = before.get(row["region"], 0.0) + row["kg_before"]
        after[row["region"]] = after.get(row["region"], 0.0) + row["kg_after"]
    return {region: after[region] / kg for region, kg in before.items() if kg > 0}

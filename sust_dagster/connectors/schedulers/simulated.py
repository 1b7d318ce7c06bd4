"""The fake cloud's scheduler as a target: an order becomes placements, and they are there or they are not.

Belongs here: an order in the words of the placement API, and the five calls of ``connectors.targets`` over the
placement file. Does not belong here: what the cloud refuses (``simulator.api``), what to do about a refusal.

The cloud places all jobs of a workload that are asked for in one hour; where they run at home makes no difference to
it. So two groups of an order about the same workload and hour must ask for the same, else the order is ambiguous. A
service that runs round the clock asks for a new day at 00:00 UTC: its group is placed at the next such hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.schedulers.groups import GroupsRefused
from sust_dagster.connectors.schedulers.placement_file import (
    FILE_SCHEMA,
    in_force,
    locked,
    next_position,
    read_rows,
    replace_rows,
)
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.placements import PlacementError
from sust_dagster.world.canonical import canonical_json

NAME = "simulated"

_ROW = ("workload_id", "requested_hour", "region", "delay_hours", "spot", "vcpus_scale")
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)


class SimulatedScheduler:
    """Placements in the file ``path`` of the fake cloud ``cloud`` (untouched); ``now`` is the cloud's present."""

    def __init__(self, path: Path, cloud: FakeCloud, now: Callable[[], datetime]) -> None:
        self._path = path
        self._cloud = cloud
        self._now = now
        self._services = frozenset(w.workload_id for w in cloud.catalogue if w.rhythm == "always")
        self._taken: tuple[datetime | None, set[str]] = (None, set())

    @property
    def name(self) -> str:
        return NAME

    def preview(self, order: Order) -> Preview:
        """The rows the cloud would get. Raises :class:`GroupsRefused` for those it would not take."""
        change = self._change(order)
        self._judge(change)
        rows = _others(read_rows(self._path), order.intent_id)
        before = _before(rows, change)
        return Preview(self.name, _text(change, before), change, before)

    def find(self, order: Order, preview: Preview) -> Applied | None:
        """The rows of this intent, if the file has any."""
        own = _own(read_rows(self._path), order.intent_id)
        return self._applied(order, preview, own) if own.num_rows else None

    def apply(self, order: Order, preview: Preview) -> Applied:
        """Place all rows of the preview, or none."""
        with locked(self._path):
            rows = read_rows(self._path)
            own = _own(rows, order.intent_id)
            if own.num_rows:
                return self._applied(order, preview, own)
            if _before(rows, preview.change) != preview.before:
                raise TargetRefused("changed_since", f"{order.workload_id} was placed otherwise since it was looked at")
            self._judge(preview.change)
            first = next_position(rows)
            made = [
                {**_placement(row), "intent_id": order.intent_id, "position": first + i}
                for i, row in enumerate(preview.change["placements"])
            ]
            replace_rows(self._path, pa.concat_tables([rows, pa.Table.from_pylist(made, FILE_SCHEMA)]))
            return _ref(order, preview)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:  # noqa: ARG002
        """Rows of the preview that are not in force."""
        there = _by_key(_about(read_rows(self._path), preview.change))
        wanted = {_key(r): _plain(_placement(r)) for r in preview.change["placements"]}
        return tuple(
            f"{workload} at {hour}: {there.get((workload, hour)) or 'nothing is placed'}, wanted {row}"
            for (workload, hour), row in wanted.items()
            if there.get((workload, hour)) != row
        )

    def rollback(self, order: Order, preview: Preview) -> None:  # noqa: ARG002 - the rows themselves say what was there
        """Remove the rows of this intent; what was placed before them counts again.

        Runs that have begun ran as they were placed: their rows stay, the others go, and it is refused
        (``already_started``).
        """
        with locked(self._path):
            rows = read_rows(self._path)
            own = _own(rows, order.intent_id)
            if not own.num_rows:
                return
            theirs = _by_key(rows.filter(pc.greater(rows["position"], pc.max(own["position"]))))
            taken = [k for k in map(_key, own.to_pylist()) if k in theirs]
            if taken:
                raise TargetRefused("changed_since", f"{len(taken)} groups were placed anew by somebody else")
            begun = pc.less_equal(
                own["requested_hour"], pa.scalar(self._now(), own.schema.field("requested_hour").type)
            )
            stay = own.filter(begun)
            if stay.num_rows < own.num_rows:
                replace_rows(self._path, pa.concat_tables([_others(rows, order.intent_id), stay]).sort_by("position"))
            if stay.num_rows:
                raise TargetRefused("already_started", f"{stay.num_rows} of {own.num_rows} groups have begun to run")

    # -- in the cloud's words -----------------------------------------------------------------------

    def _change(self, order: Order) -> dict[str, Any]:
        """The placement rows of an order, one per workload and hour, each with the groups it is for."""
        proposed = order.proposed
        made: dict[tuple[str, str], dict[str, Any]] = {}
        ambiguous: dict[str, str] = {}
        for group in proposed["placements"]:
            row = {
                "workload_id": order.workload_id,
                "requested_hour": _iso(self._hour(order.workload_id, group["requested_start"])),
                "region": group["region"],
                "delay_hours": float(group["delay_hours"]),
                "spot": bool(proposed["spot"]),
                "vcpus_scale": float(proposed["vcpus_scale"]),
            }
            held = made.setdefault(_key(row), {**row, "groups": []})
            held["groups"].append(group["job_id"])
            if any(held[k] != row[k] for k in _ROW):
                ambiguous |= dict.fromkeys(held["groups"], "ambiguous_group")
        if ambiguous:
            raise GroupsRefused(ambiguous)
        if not made:
            raise TargetRefused("nothing_to_place", f"{order.recommendation_id} names no group")
        return {"placements": [made[k] for k in sorted(made)]}

    def _hour(self, workload_id: str, requested_start: str) -> datetime:
        """The cloud's hour of a group's request."""
        start = datetime.fromisoformat(requested_start).astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        if workload_id not in self._services:
            return start
        midnight = start.replace(hour=0)
        return midnight if midnight == start else midnight + _DAY

    def _judge(self, change: Mapping[str, Any]) -> None:
        """Raise :class:`GroupsRefused` unless the cloud takes every row; what else is placed does not matter to it.

        What it took a moment ago, at the same instant of its clock, it takes now.
        """
        now, asked = self._now(), canonical_json(change["placements"])
        if self._taken[0] != now:
            self._taken = now, set()
        if asked in self._taken[1]:
            return
        try:
            answer = self._cloud.judge([_placement(r) for r in change["placements"]], now=now)
        except PlacementError as error:
            raise TargetRefused("wrong_form", str(error)) from error
        if answer.refused.num_rows:
            said = {_key(r): r["reason"] for r in answer.refused.to_pylist()}
            groups = {_key(r): r["groups"] for r in change["placements"]}
            raise GroupsRefused({job: why for key, why in said.items() for job in groups[key]})
        self._taken[1].add(asked)

    def _applied(self, order: Order, preview: Preview, own: pa.Table) -> Applied:
        wanted = {_key(r): _plain(_placement(r)) for r in preview.change["placements"]}
        if _by_key(own) != wanted:
            raise TargetRefused("conflict", f"intent {order.intent_id} has other placements than were approved")
        return _ref(order, preview)


def _ref(order: Order, preview: Preview) -> Applied:
    """What is there of an intent; ``begins_at`` is when the last of its groups begins to run."""
    rows = [_placement(r) for r in preview.change["placements"]]
    begins = max(r["requested_hour"] + timedelta(hours=r["delay_hours"]) for r in rows)
    return Applied(
        f"simulated:placements/{order.intent_id}", {"placements": len(rows), "begins_at": begins.isoformat()}
    )


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    hour = row["requested_hour"]
    return row["workload_id"], hour if isinstance(hour, str) else _iso(hour)


def _placement(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the placement API takes it."""
    return {**{k: row[k] for k in _ROW}, "requested_hour": datetime.fromisoformat(row["requested_hour"])}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row in JSON's values."""
    return {k: _iso(row[k]) if isinstance(row[k], datetime) else row[k] for k in _ROW}


def _by_key(rows: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    """What is in force, by workload and hour."""
    if not rows.num_rows:
        return {}
    return {_key(r): _plain(r) for r in in_force(rows).table.to_pylist()}


def _own(rows: pa.Table, intent_id: str) -> pa.Table:
    return rows.filter(pc.equal(rows["intent_id"], intent_id))


def _others(rows: pa.Table, intent_id: str) -> pa.Table:
    return rows.filter(pc.not_equal(rows["intent_id"], intent_id))


def _about(rows: pa.Table, change: Mapping[str, Any]) -> pa.Table:
    """The rows that are about the same workloads and hours as a change, and perhaps some more."""
    workloads = pa.array(sorted({r["workload_id"] for r in change["placements"]}), pa.string())
    hours = [datetime.fromisoformat(r["requested_hour"]) for r in change["placements"]]
    kind = rows.schema.field("requested_hour").type
    same_hour = pc.is_in(rows["requested_hour"], value_set=pa.array(hours, kind))
    return rows.filter(pc.and_(pc.is_in(rows["workload_id"], value_set=workloads), same_hour))


def _before(rows: pa.Table, change: Mapping[str, Any]) -> dict[str, Any]:
    """What is in force for the jobs that a change is about; null where nothing is."""
    there = _by_key(_about(rows, change))
    return {"placements": [{"at": list(_key(r)), "is": there.get(_key(r))} for r in change["placements"]]}


def _text(change: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """The change for people, one line per workload and hour."""
    lines = []
    for row, was in zip(change["placements"], before["placements"], strict=True):
        old = was["is"]
        now = "not placed" if old is None else _words(old)
        lines.append(f"{row['workload_id']} asked for at {row['requested_hour']}: {now} -> {_words(row)}")
    return "\n".join(lines)


def _words(row: Mapping[str, Any]) -> str:
    size = "" if row["vcpus_scale"] == 1 else f", {row['vcpus_scale']:g} of its vCPUs"
    return f"{row['region']}, {row['delay_hours']:g} h later{', on spot' if row['spot'] else ''}{size}"

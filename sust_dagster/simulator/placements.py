"""Placements: where, when and as what jobs run instead of at home, at once, as they are.

Belongs here: the immutable set of placements, its digest, and the lookup from jobs to placements. What a region
accepts is decided by the placement API (api.py); what a placement does to a run is in runs.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.simulator.arrivals import Ints, Requests, parse_job_ids
from sust_dagster.simulator.clock import HOUR_S, TIMESTAMP
from sust_dagster.simulator.columns import join
from sust_dagster.simulator.instances import INSTANCE_INDEX, INSTANCES, scaled_instance
from sust_dagster.simulator.regions import REGION_IDS, region_index
from sust_dagster.simulator.workloads import Workload

#: A placement names either one job, or all jobs of a workload asked for in one hour. Where both match a job, the
#: job's own wins. Null ``region`` stays at home; ``delay_hours`` is the start delay; ``vcpus_scale`` right-sizes.
PLACEMENT_SCHEMA = pa.schema(
    [
        pa.field("job_id", pa.string()),
        pa.field("workload_id", pa.string()),
        pa.field("requested_hour", TIMESTAMP),
        pa.field("region", pa.string()),
        pa.field("delay_hours", pa.float64()),
        pa.field("spot", pa.bool_()),
        pa.field("vcpus_scale", pa.float64()),
    ]
)
_NONE = PLACEMENT_SCHEMA.empty_table()
#: No job may be deferred for longer (founding design, section 4).
MAX_DELAY_HOURS = 24
_HOUR_US = HOUR_S * 1_000_000
_DEFAULTS: dict[str, float | bool] = {"delay_hours": 0.0, "spot": False, "vcpus_scale": 1.0}

Rows = pa.Table | Iterable[Mapping[str, Any]]


class PlacementError(ValueError):
    """A placement row that cannot be understood: its form is wrong, whatever the cloud's state."""


def placement_rows(rows: Rows) -> pa.Table:
    """``rows`` as a table of :data:`PLACEMENT_SCHEMA`, missing columns and nulls filled with "leave as it is".

    Raises :class:`PlacementError` for unknown columns, rows that name both a job and a group, or neither, and
    requested hours that are not whole UTC hours.
    """
    table = rows if isinstance(rows, pa.Table) else _from_mappings(rows)
    unknown = [c for c in table.column_names if c not in PLACEMENT_SCHEMA.names]
    if unknown:
        raise PlacementError(f"unknown placement columns {unknown}; known are {PLACEMENT_SCHEMA.names}")
    columns: list[pa.ChunkedArray | pa.Array] = []
    for column in PLACEMENT_SCHEMA:
        if column.name not in table.column_names:
            values = pa.nulls(table.num_rows, column.type)
        else:
            values = table[column.name].cast(column.type)
        if column.name in _DEFAULTS:
            values = pc.fill_null(values, _DEFAULTS[column.name])
        columns.append(values)
    out = pa.Table.from_arrays(columns, schema=PLACEMENT_SCHEMA)
    by_job = pc.is_valid(out["job_id"])
    by_group = pc.and_(pc.is_valid(out["workload_id"]), pc.is_valid(out["requested_hour"]))
    some_group = pc.or_(pc.is_valid(out["workload_id"]), pc.is_valid(out["requested_hour"]))
    wrong = pc.or_(pc.and_(by_job, some_group), pc.and_(pc.invert(by_job), pc.invert(by_group)))
    if out.num_rows and pc.any(wrong).as_py():
        bad = pc.index(wrong, True).as_py()
        raise PlacementError(
            f"placement row {bad} must name either job_id, or workload_id and requested_hour: "
            f"{out.slice(bad, 1).to_pylist()[0]}"
        )
    micros = pc.cast(out["requested_hour"], pa.int64())
    if pc.any(pc.not_equal(micros, pc.multiply(pc.divide(micros, _HOUR_US), _HOUR_US))).as_py():
        raise PlacementError("requested_hour must be a whole UTC hour")
    return out


def _from_mappings(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    rows = list(rows)
    names = {name for row in rows for name in row}
    unknown = sorted(names - set(PLACEMENT_SCHEMA.names))
    if unknown:
        raise PlacementError(f"unknown placement columns {unknown}; known are {PLACEMENT_SCHEMA.names}")
    return pa.Table.from_pylist([dict(r) for r in rows], schema=PLACEMENT_SCHEMA)


def placement_keys(table: pa.Table) -> pa.ChunkedArray | pa.Array:
    """What each row is about: ``job:<id>`` or ``group:<workload>@<hour>``."""
    hour = pc.cast(pc.cast(pc.cast(table["requested_hour"], pa.timestamp("s", tz="UTC")), pa.int64()), pa.string())
    return pc.coalesce(join("job:", table["job_id"]), join("group:", table["workload_id"], "@", hour))


@dataclass(frozen=True)
class Placements:
    """An immutable set of placements, at most one per job or group."""

    table: pa.Table = field(default_factory=lambda: _NONE, repr=False)

    @classmethod
    def from_rows(cls, rows: Rows) -> Placements:
        """Placements of ``rows`` (a table or mappings); a later row about the same thing replaces an earlier."""
        return cls().with_rows(rows)

    def __len__(self) -> int:
        return self.table.num_rows

    def with_rows(self, rows: Rows) -> Placements:
        """A new set with ``rows`` added; a row about the same job or group replaces the one there was."""
        table = pa.concat_tables([self.table, placement_rows(rows)])
        if table.num_rows == 0:
            return self
        keys = placement_keys(table).to_numpy(zero_copy_only=False)
        # Sorted by key, so the order in which rows came changes neither the table nor the digest.
        _, last = np.unique(keys[::-1], return_index=True)
        return Placements(table.take(pa.array(len(keys) - 1 - last)).combine_chunks())

    def without(self, rows: Rows) -> Placements:
        """A new set without the jobs and groups that ``rows`` name (a rollback)."""
        gone = placement_keys(placement_rows(rows))
        keep = pc.invert(pc.is_in(placement_keys(self.table), value_set=gone))
        return Placements(self.table.filter(keep))

    @property
    def digest(self) -> str:
        """SHA-256 of the content, as hex; independent of the order in which rows were added."""
        parts = [pc.fill_null(self.table[name].cast(pa.string()), "") for name in PLACEMENT_SCHEMA.names]
        lines = pc.binary_join_element_wise(*parts, "\x1f").to_pylist()
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Orders:
    """Placement rows in positions and seconds, as parallel arrays; -1 stands for what does not exist.

    ``ordinal`` is -1 for a group; ``instance`` is -1 where the cloud has no such size; ``hour`` is that of the
    request; ``stretch`` is the factor right-sizing puts on the run time.
    """

    workload: Ints
    hour: Ints
    ordinal: Ints
    region: Ints
    delay_hours: NDArray[np.float64]
    spot: NDArray[np.bool_]
    instance: Ints
    stretch: NDArray[np.float64]


def orders_of(table: pa.Table, workloads: tuple[Workload, ...]) -> Orders:
    """Resolve placement rows against a catalogue."""
    table = table.combine_chunks()
    job_workload, job_hour, job_ordinal = parse_job_ids(column_of(table, "job_id"))
    names = pc.coalesce(column_of(table, "workload_id"), job_workload)
    workload = _position(names, [w.workload_id for w in workloads])
    stamps = pc.coalesce(column_of(table, "requested_hour"), job_hour).cast(pa.timestamp("s", tz="UTC"))
    hour = pc.fill_null(stamps.cast(pa.int64()), 0).to_numpy(zero_copy_only=False) // HOUR_S
    home = np.array([region_index(w.home_region) for w in workloads], np.int64)[workload]
    stays = pc.is_null(column_of(table, "region")).to_numpy(zero_copy_only=False)
    region = np.where(stays, home, _position(column_of(table, "region"), list(REGION_IDS)))
    own = np.array([INSTANCE_INDEX[w.instance.instance_type] for w in workloads], np.int64)[workload]
    scale = column_of(table, "vcpus_scale").to_numpy(zero_copy_only=False)
    instance = np.full(scale.size, -1, np.int64)
    for wanted in np.unique(scale):
        sized = [scaled_instance(i, float(wanted)) for i in range(len(INSTANCES))]
        same = scale == wanted
        instance[same] = np.array([-1 if s is None else s for s in sized])[own[same]]
    # A service that runs round the clock has no end to put off.
    needed = np.array([0.0 if w.rhythm == "always" else w.needed_share for w in workloads])[workload]
    return Orders(
        workload=workload,
        hour=hour,
        ordinal=pc.fill_null(job_ordinal, -1).to_numpy(zero_copy_only=False),
        region=region,
        delay_hours=column_of(table, "delay_hours").to_numpy(zero_copy_only=False),
        spot=column_of(table, "spot").to_numpy(zero_copy_only=False).astype(bool),
        instance=instance,
        stretch=np.maximum(1.0, np.divide(needed, scale, out=np.ones_like(needed), where=scale > 0)),
    )


def column_of(table: pa.Table, name: str) -> pa.Array:
    """One column in one piece."""
    column = table[name]
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _position(values: pa.Array, among: list[str]) -> Ints:
    found = pc.index_in(values, value_set=pa.array(among, pa.string()))
    return pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _packed(hour: Ints, workload: Ints, ordinal: Ints) -> Ints:
    """One sortable integer per (hour, workload, ordinal); ordinal -1 stands for the whole group."""
    return (hour << 28) | (workload << 12) | (ordinal + 1)


class PlacementIndex:
    """Lookup from jobs to placement orders for one catalogue."""

    def __init__(self, placements: Placements, workloads: tuple[Workload, ...]) -> None:
        self.orders = orders_of(placements.table, workloads)
        for what in ("workload", "region", "instance"):
            unknown = np.flatnonzero(getattr(self.orders, what) < 0)
            if unknown.size:
                row = placements.table.slice(int(unknown[0]), 1).to_pylist()[0]
                raise PlacementError(f"placement of an unknown {what}: {row}")
        delay = self.orders.delay_hours
        if not np.all((delay >= 0) & (delay <= MAX_DELAY_HOURS)):
            raise PlacementError(f"placement delays must lie in 0..{MAX_DELAY_HOURS} hours")
        keys = _packed(self.orders.hour, self.orders.workload, self.orders.ordinal)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def __len__(self) -> int:
        return int(self._keys.size)

    def rows_for(self, requests: Requests) -> Ints:
        """Placement row of each job, -1 where it has none."""
        if len(self) == 0:
            return np.full(len(requests), -1, np.int64)
        own = self._find(_packed(requests.hour, requests.workload, requests.ordinal))
        group = self._find(_packed(requests.hour, requests.workload, np.full(len(requests), -1, np.int64)))
        return np.where(own >= 0, own, group)

    def _find(self, keys: Ints) -> Ints:
        at = np.minimum(np.searchsorted(self._keys, keys), self._keys.size - 1)
        return np.where(self._keys[at] == keys, self._order[at], -1)

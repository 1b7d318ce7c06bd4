"""The independent checker: a plan replayed hour by hour against every hard limit.

Belongs here: what no plan may do, looked at again without the code that made the plan: runs are cut into the hours they
touch and added up one by one, where the search uses prefix sums. Does not belong here: how good a plan is.

It takes the arrays and a choice; ``replay`` takes the table of jobs and the plan's rows, so that an error in making the
arrays is seen too.

A limit that the status quo breaks already is listed as well, with its value ``before``; ``by_plan`` tells whether the
plan is to blame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sust_dagster.agents.planner.problem import Flags, Floats, Ints, Problem

#: What rounding may add: hours, and the share of a limit.
HOURS_TOLERANCE = 1e-6
RELATIVE_TOLERANCE = 1e-9
#: Jobs replayed at once: a run is cut into its hours, which takes room.
CHUNK = 200_000

SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("job", pa.int64()),
        pa.field("region", pa.string()),
        pa.field("hour", pa.int64()),
        pa.field("value", pa.float64()),
        pa.field("limit", pa.float64()),
        pa.field("before", pa.float64()),
        pa.field("by_plan", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Slices:
    """Runs cut into clock hours: one entry per job and hour it touches."""

    job: Ints
    region: Ints
    hour: Ints
    share: Floats
    """Part of the hour it runs, above 0 and up to 1."""


def violations(problem: Problem, region: Ints, delay: Ints) -> pa.Table:
    """Every hard limit a choice breaks, in ``SCHEMA``; no rows where it keeps them all.

    Kinds: ``window``, ``region``, ``horizon``, ``available``, ``unknown`` (an hour without carbon or price), by job
    that is moved; ``capacity`` by region and hour; ``cost_limit``, ``egress_budget``, ``share_cap`` (by region);
    ``precedence`` (``job`` is the one that waits, values are hours too early).
    """
    now = (problem.home, np.zeros(len(problem), np.int64))
    region, delay = np.asarray(region), np.asarray(delay)
    nowhere = (region < 0) | (region >= len(problem.regions))
    found = [_table("region", job=np.flatnonzero(nowhere))]
    region = np.where(nowhere, problem.home, region)
    found += [_placement(problem, region, delay), _hours(problem, region, delay)]
    before, after = _sums(problem, *now), _sums(problem, region, delay)
    found += [_capacity(problem, before, after), _money(problem, before, after, region)]
    found += [_share(problem, region), _precedence(problem, region, delay)]
    return pa.concat_tables(found)


def slices(problem: Problem, region: Ints, delay: Ints, chosen: Ints) -> Iterator[Slices]:
    """The hours the ``chosen`` jobs run in, a chunk of jobs at a time; hours outside the problem's are there too."""
    for low in range(0, len(chosen), CHUNK):
        jobs = chosen[low : low + CHUNK]
        start = problem.start_hours[jobs] + delay[jobs]
        end = start + problem.duration_hours[jobs]
        first = np.floor(start).astype(np.int64)
        count = np.maximum(np.ceil(end).astype(np.int64) - first, 0)
        job = np.repeat(np.arange(len(jobs)), count)
        hour = first[job] + np.arange(len(job)) - np.repeat(np.cumsum(count) - count, count)
        share = np.minimum(end[job], hour + 1) - np.maximum(start[job], hour)
        kept = share > HOURS_TOLERANCE
        yield Slices(jobs[job[kept]], region[jobs[job[kept]]], hour[kept], share[kept])


def _placement(problem: Problem, region: Ints, delay: Ints) -> pa.Table:
    moved = (region != problem.home) | (delay != 0)
    late = moved & ((delay < 0) | (delay > problem.max_delay))
    barred = moved & ~problem.places.allowed[problem.place, region]
    start = problem.start_hours + delay
    end = start + problem.duration_hours
    outside = moved & ((start < -HOURS_TOLERANCE) | (end > problem.hours + HOURS_TOLERANCE))
    return pa.concat_tables(
        [
            _table("window", job=np.flatnonzero(late), value=delay[late], limit=problem.max_delay[late], before=0.0),
            _table("region", job=np.flatnonzero(barred)),
            _table("horizon", job=np.flatnonzero(outside), value=end[outside], limit=float(problem.hours)),
        ]
    )


def _hours(problem: Problem, region: Ints, delay: Ints) -> pa.Table:
    """Hours moved jobs touch that are not available, or have no carbon or price."""
    moved = np.flatnonzero((region != problem.home) | (delay != 0))
    unknown = np.isnan(problem.carbon) | np.isnan(problem.price)
    found = [SCHEMA.empty_table()]
    for part in slices(problem, region, delay, moved):
        inside = (part.hour >= 0) & (part.hour < problem.hours)
        job, place, hour = part.job[inside], part.region[inside], part.hour[inside]
        for kind, closed in (("available", ~problem.available), ("unknown", unknown)):
            bad = closed[place, hour]
            names = [problem.regions[r] for r in place[bad].tolist()]
            found.append(_table(kind, job=job[bad], region=names, hour=hour[bad]))
    return pa.concat_tables(found)


@dataclass(frozen=True)
class _Sums:
    """Of a choice: vCPU-hours by region and hour, and USD of compute by job (NaN where an hour has no price)."""

    load: Floats
    compute_usd: Floats
    known: Flags


def _sums(problem: Problem, region: Ints, delay: Ints) -> _Sums:
    shape = (len(problem.regions), problem.hours)
    load = np.zeros(shape)
    usd = np.zeros(len(problem))
    missing = np.zeros(len(problem))
    price = np.broadcast_to(problem.price, shape)
    unknown = np.isnan(problem.carbon) | np.isnan(price)
    for part in slices(problem, region, delay, np.arange(len(problem))):
        inside = (part.hour >= 0) & (part.hour < problem.hours)
        np.add.at(missing, part.job[~inside], 1.0)
        job, place, hour, share = part.job[inside], part.region[inside], part.hour[inside], part.share[inside]
        np.add.at(load, (place, hour), problem.vcpus[job] * share)
        bad = unknown[place, hour]
        np.add.at(missing, job[bad], 1.0)
        np.add.at(usd, job[~bad], problem.money[job[~bad]] * share[~bad] * price[place[~bad], hour[~bad]])
    return _Sums(load, usd, missing == 0)


def _capacity(problem: Problem, before: _Sums, after: _Sums) -> pa.Table:
    allowed = problem.capacity * (1 + RELATIVE_TOLERANCE) + HOURS_TOLERANCE
    at = np.nonzero(after.load > allowed)
    value, old = after.load[at], before.load[at]
    return _table(
        "capacity",
        region=[problem.regions[r] for r in at[0].tolist()],
        hour=at[1],
        value=value,
        limit=problem.capacity[at],
        before=old,
        by_plan=value > old * (1 + RELATIVE_TOLERANCE) + HOURS_TOLERANCE,
    )


def _money(problem: Problem, before: _Sums, after: _Sums, region: Ints) -> pa.Table:
    limits = problem.limits
    planned = before.known
    egress = problem.data_gb * problem.places.egress_usd_per_gb[problem.place, region]
    now, then = float(before.compute_usd[planned].sum()), float((after.compute_usd + egress)[planned].sum())
    sums = []
    if limits.max_cost_increase is not None:
        sums.append(("cost_limit", then, now * (1 + limits.max_cost_increase), now))
    if limits.egress_budget_usd is not None:
        sums.append(("egress_budget", float(egress.sum()), limits.egress_budget_usd, 0.0))
    found = [SCHEMA.empty_table()]
    for kind, value, limit, old in sums:
        if value > limit * (1 + RELATIVE_TOLERANCE) + 1e-9:
            by_plan = np.array([value > old * (1 + RELATIVE_TOLERANCE) + 1e-9])
            found.append(_one(kind, value=value, limit=limit, before=old, by_plan=by_plan))
    return pa.concat_tables(found)


def _share(problem: Problem, region: Ints) -> pa.Table:
    """vCPU-hours moved into a region against those of all jobs that may move."""
    if problem.limits.share_cap is None:
        return SCHEMA.empty_table()
    work = problem.vcpus * problem.duration_hours
    elsewhere = problem.places.allowed.sum(1)[problem.place] > 1
    limit = problem.limits.share_cap * float(work[elsewhere | (problem.max_delay > 0)].sum())
    moved = region != problem.home
    into = np.zeros(len(problem.regions))
    np.add.at(into, region[moved], work[moved])
    at = np.flatnonzero(into > limit * (1 + RELATIVE_TOLERANCE) + HOURS_TOLERANCE)
    names = [problem.regions[r] for r in at.tolist()]
    return _table("share_cap", region=names, value=into[at], limit=limit, before=0.0)


def _precedence(problem: Problem, region: Ints, delay: Ints) -> pa.Table:
    del region  # a region changes no run's length
    pairs = problem.limits.precedence
    start, length = problem.start_hours, problem.duration_hours
    early_now = start[pairs[:, 0]] + length[pairs[:, 0]] - start[pairs[:, 1]]
    early = early_now + delay[pairs[:, 0]] - delay[pairs[:, 1]]
    bad = early > HOURS_TOLERANCE
    by_plan = early[bad] > np.maximum(early_now[bad], 0.0) + HOURS_TOLERANCE
    return _table(
        "precedence", job=pairs[bad, 1], value=early[bad], limit=0.0, before=np.maximum(early_now[bad], 0.0),
        by_plan=by_plan,
    )  # fmt: skip


def _one(kind: str, **values: object) -> pa.Table:
    return _table(kind, rows=1, **values)


def _table(kind: str, rows: int | None = None, **values: object) -> pa.Table:
    """Rows of one kind; a scalar stands for all of them, a column not given is null (``by_plan``: true)."""
    sized = [v for v in values.values() if isinstance(v, np.ndarray | list)]
    n = len(sized[0]) if rows is None else rows
    columns: list[pa.Array] = []
    for field in SCHEMA:
        value = {"kind": kind, "by_plan": True, **values}.get(field.name)
        column = value if isinstance(value, np.ndarray | list) else [value] * n
        array = pa.array(column)
        columns.append(array.cast(field.type))
    return pa.table(columns, schema=SCHEMA)

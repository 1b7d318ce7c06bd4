"""Service levels as observed: for each outcome, which promises its runs kept, broke, or were not seen to keep.

Belongs here: start delay, deadline, latency and order of runs against what was promised, counted by promise. Does not
belong here: what a plan expected, money, carbon.

A promise that nobody observed is unknown. An outcome is compliant only when every promise of every run was seen kept;
one broken promise makes it not compliant, whatever is unknown beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.causal.inputs import (
    CheckInputError,
    Flags,
    Ints,
    Keys,
    instants,
    keys,
    numbers,
    require,
)
from sust_dagster.world.canonical import canonical_json
from sust_dagster.world.schemas import BOOL, INT, STRING

#: Longest deferral that each category promises.
CATEGORY_HOURS: Mapping[str, float] = {"urgent": 0.0, "balanced": 4.0, "sustainable": 24.0}

#: Starts this much late count as in time: no scheduler starts a run in the instant it is asked to.
START_TOLERANCE_HOURS = 5.0 / 60.0

PROMISES = ("start_delay", "deadline", "latency", "dependencies")

#: One row per outcome. ``sla_compliant`` is null where ``reason`` says what was not observed.
SLA = pa.schema(
    [("outcome_id", STRING), ("sla_compliant", BOOL), ("sla_detail", STRING), ("runs", INT), ("reason", STRING)]
)

_HOUR_US = 3_600_000_000
_NEVER = -(1 << 62)

#: Microseconds since 1970, and which are known.
_Instants = tuple[Ints, Flags]


@dataclass(frozen=True)
class _Promise:
    """By run: was it promised, was it seen, by how much was it missed (<= 0 is kept), in ``unit``."""

    promised: Flags
    seen: Flags
    over: Floats
    unit: str


def sla(
    runs: pa.Table,
    dependencies: pa.Table,
    outcomes: pa.Array | pa.ChunkedArray,
    *,
    tolerance_hours: float = START_TOLERANCE_HOURS,
) -> pa.Table:
    """Compliance of each of ``outcomes``: schema :data:`SLA`, in their order.

    ``runs``, one row per run of an outcome (a run that two changes claim is looked at in both): outcome_id, run_id,
    category (text, null unknown), requested_start, started_at, ended_at (UTC; null not observed), max_delay_hours (the
    run's own promise, narrows the category's, null for none), deadline (null for none), sla_latency_ms (null for none),
    round_trip_ms (measured from the region it ran in; null not observed). ``dependencies``: run_id, needs_run_id,
    needs_ended_at (null not observed), as ``service.dependencies`` has them.

    A bill by the hour says neither in which minute a run began nor in which another ended. Such a run began in the
    minute that it was asked for at; where it began within the last hour of what it needs, nobody can tell.

    ``sla_detail`` is canonical JSON: by promise ``promised``, ``kept``, ``broken``, ``unknown`` and ``worst`` (the
    largest excess over the promise among the runs seen, negative is slack, in hours or ms), and ``first_broken``, a
    run. ``reason``: 'no_runs' or 'not_observed: <promise> <n>, ...'. Raises
    :class:`CheckInputError` for missing or malformed columns, a run given twice, a dependency of an unknown run.
    """
    what = "runs of sla"
    require(runs, ("outcome_id", "run_id", "category", "requested_start", "started_at", "ended_at"), what)
    require(runs, ("max_delay_hours", "deadline", "sla_latency_ms", "round_trip_ms"), what)
    wanted = _wanted(outcomes)
    outcome, run = keys(runs, "outcome_id", what), keys(runs, "run_id", what)
    _, first = np.unique(outcome.codes * max(run.n, 1) + run.codes, return_index=True)
    if len(first) != runs.num_rows:
        twice = int(np.setdiff1d(np.arange(runs.num_rows), first)[0])
        raise CheckInputError(f"{what}: row {twice} gives run {run.values[run.codes[twice]]} again")
    place = {name: i for i, name in enumerate(wanted)}
    at = np.array([place.get(v, -1) for v in outcome.values], np.int64)[outcome.codes]
    started, start_seen = instants(runs, "started_at", what)
    ended, end_seen = instants(runs, "ended_at", what)
    checks = {
        "start_delay": _delay(runs, started, start_seen, tolerance_hours, what),
        "deadline": _deadline(runs, ended, end_seen, what),
        "latency": _latency(runs, what),
        "dependencies": _order(dependencies, run, instants(runs, "requested_start", what), (started, start_seen)),
    }
    counts = {name: _counted(check, at, len(wanted), run) for name, check in checks.items()}
    n_runs = np.bincount(at[at >= 0], minlength=len(wanted))
    rows = [_row(wanted[i], i, int(n_runs[i]), counts) for i in range(len(wanted))]
    return pa.Table.from_pylist(rows, schema=SLA)


def _wanted(outcomes: pa.Array | pa.ChunkedArray) -> list[str]:
    wanted = outcomes.to_pylist()
    if len(set(wanted)) != len(wanted) or None in wanted:
        raise CheckInputError("sla: outcomes has a null or an id twice; each outcome is asked for once")
    return wanted


def _delay(runs: pa.Table, started: Ints, seen: Flags, tolerance_hours: float, what: str) -> _Promise:
    requested, asked = instants(runs, "requested_start", what)
    own = numbers(runs, "max_delay_hours", what)
    category = runs["category"].to_numpy()
    limit = np.full(len(own), np.nan)
    for name, hours in CATEGORY_HOURS.items():
        limit[category == name] = hours
    limit = np.fmin(limit, own)
    over = (started - requested) / _HOUR_US - limit - tolerance_hours
    # Every run is promised a start; one of no known category or request cannot be judged.
    return _Promise(np.ones(len(own), bool), seen & asked & ~np.isnan(limit), over, "hours")


def _deadline(runs: pa.Table, ended: Ints, seen: Flags, what: str) -> _Promise:
    due, promised = instants(runs, "deadline", what)
    return _Promise(promised, seen, (ended - due) / _HOUR_US, "hours")


def _latency(runs: pa.Table, what: str) -> _Promise:
    limit, measured = numbers(runs, "sla_latency_ms", what), numbers(runs, "round_trip_ms", what)
    return _Promise(~np.isnan(limit), ~np.isnan(measured), measured - limit, "ms")


def _order(dependencies: pa.Table, run: Keys, asked: _Instants, started: _Instants) -> _Promise:
    """A run starts when all it needs has ended; what it needs and nobody saw leaves it unknown, unless one is late."""
    what = "dependencies of sla"
    require(dependencies, ("run_id", "needs_run_id", "needs_ended_at"), what)
    after = keys(dependencies, "run_id", what)
    keys(dependencies, "needs_run_id", what)
    place = pc.index_in(pa.array(after.values, STRING), pa.array(run.values, STRING))
    if place.null_count:
        raise CheckInputError(
            f"{what}: run {after.values[pc.index(place.is_null(), True).as_py()]} is in no row of runs"
        )
    of = np.asarray(place).astype(np.int64)[after.codes]
    ended, seen = instants(dependencies, "needs_ended_at", what)
    # An end on the hour may be that of a bill by the hour: then it was within the hour before.
    surely = np.where(ended % _HOUR_US == 0, ended - _HOUR_US + 1, ended)
    latest, late, unseen, promised = (np.full(run.n, v) for v in (_NEVER, _NEVER, False, False))
    np.maximum.at(latest, of[seen], ended[seen])
    np.maximum.at(late, of[seen], surely[seen])
    unseen[of[~seen]] = True
    promised[of] = True
    # A start on the hour may be one too: the run kept the minute that it was asked for at.
    begun = started[0] + np.where(started[0] % _HOUR_US == 0, asked[0] % _HOUR_US, 0)
    code, known = run.codes, started[1] & asked[1] & promised[run.codes]
    broken = known & (late[code] > begun)
    kept = known & (latest[code] <= begun) & ~unseen[code]
    over = np.where(broken | kept, (latest[code] - begun) / _HOUR_US, -np.inf)
    return _Promise(promised[code], broken | kept, over, "hours")


def _counted(check: _Promise, at: Ints, n: int, run: Keys) -> list[dict]:
    """By outcome: how often the promise was made, kept, broken, not seen, and the worst excess."""
    mine = at >= 0
    seen = mine & check.promised & check.seen
    broken = seen & (check.over > 0.0)
    worst = np.full(n, -np.inf)
    np.maximum.at(worst, at[seen], check.over[seen])
    first = np.full(n, run.n, np.int64)
    np.minimum.at(first, at[broken], run.codes[broken])
    totals = {
        "promised": np.bincount(at[mine & check.promised], minlength=n),
        "kept": np.bincount(at[seen & ~broken], minlength=n),
        "broken": np.bincount(at[broken], minlength=n),
        "unknown": np.bincount(at[mine & check.promised & ~check.seen], minlength=n),
    }
    return [
        {name: int(total[i]) for name, total in totals.items()}
        | {
            f"worst_{check.unit}": round(float(worst[i]), 9) if np.isfinite(worst[i]) else None,
            "first_broken": run.values[first[i]] if first[i] < run.n else None,
        }
        for i in range(n)
    ]


def _row(outcome: str, i: int, runs: int, counts: Mapping[str, list[dict]]) -> dict:
    mine = {name: counts[name][i] for name in PROMISES}
    unknown = [f"{name} {c['unknown']}" for name, c in mine.items() if c["unknown"]]
    broken = any(c["broken"] for c in mine.values())
    if runs == 0:
        reason: str | None = "no_runs"
    else:
        reason = f"not_observed: {', '.join(unknown)}" if unknown else None
    return {
        "outcome_id": outcome,
        "sla_compliant": False if broken else None if reason else True,
        "sla_detail": canonical_json({"runs": runs, "promises": mine}),
        "runs": runs,
        "reason": reason,
    }

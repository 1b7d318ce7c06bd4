"""Runs that read what others made: which results each was promised, and when these were there.

Belongs here: what a dependency between workloads means for single runs. Does not belong here: judging whether a run
waited (``sla``), which workload reads which (the register says it), runs of workloads that nobody moved.

**Meaning.** Workload B depends on workload A. A run of B asked for at r is promised every result of A that would have
been there at r had nothing been moved: it depends on each run of A that, begun when it was asked for and as long as it
was, ends at or before r. Of these the one that ended last decides, so it alone is named.

A run of A that was not seen to end has no length, so nobody knows whether it would have been there. A run of B asked
for within ``longest`` after it depends on it, unseen; for those asked for later it counts as never run.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.arrays import Bools, Ints
from sust_dagster.agents.verifier.causal.inputs import instants, keys, require
from sust_dagster.world.schemas import STRING, TIMESTAMP

#: Workloads that read what another made.
WAITS = pa.schema([("workload_id", STRING), ("needs_workload_id", STRING)])

#: Runs that each run depends on; ``needs_ended_at`` is null where nobody saw the end.
DEPENDENCIES = pa.schema([("run_id", STRING), ("needs_run_id", STRING), ("needs_ended_at", TIMESTAMP)])


def waits_for(register: pa.Table, workloads: pa.Array | pa.ChunkedArray) -> pa.Table:
    """What each of ``workloads`` reads, as :data:`WAITS`, from the register's ``workload_id`` and ``depends_on``.

    ``depends_on`` is a comma-joined list of workload ids, null for none; a workload does not wait for itself. One that
    the register does not name waits for nobody. Raises :class:`CheckInputError` for missing columns.
    """
    require(register, ("workload_id", "depends_on"), "register of workloads")
    chosen = pc.and_(
        pc.is_in(register["workload_id"].cast(STRING), pc.unique(workloads.cast(STRING))),
        pc.is_valid(register["depends_on"]),
    )
    stated = register.select(["workload_id", "depends_on"]).filter(chosen).combine_chunks()
    lists = pc.split_pattern(stated["depends_on"].cast(STRING), ",").combine_chunks()
    waiting = pc.take(stated["workload_id"].cast(STRING).combine_chunks(), pc.list_parent_indices(lists))
    named = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    pairs = pa.table([waiting, named], names=WAITS.names)
    pairs = pairs.filter(pc.and_(pc.not_equal(named, ""), pc.not_equal(named, waiting)))
    pairs = pairs.group_by(WAITS.names, use_threads=False).aggregate([])
    return pairs.select(WAITS.names).sort_by([(name, "ascending") for name in WAITS.names]).cast(WAITS)


def dependencies(
    runs: pa.Table, awaited: pa.Table, waits: pa.Table, *, until: datetime, longest: timedelta
) -> pa.Table:
    """The runs that ``runs`` depend on: :data:`DEPENDENCIES`, ordered by run and by what it needs.

    ``runs``: run_id, workload_id, requested_at; a run may stand in it twice. ``awaited``: every run of the workloads
    that are waited for, as ``runs.spans`` has them; ``waits``: :data:`WAITS`. An end at or after ``until`` was not seen
    whole. Raises :class:`CheckInputError` for missing columns or null keys.
    """
    require(runs, ("run_id", "workload_id", "requested_at"), "runs of dependencies")
    require(awaited, ("run_id", "workload_id", "requested_at", "ended_at", "shift_us"), "awaited runs of dependencies")
    # One row per pair of waiting workload and run that may be waited for; workloads as codes from here on.
    named = waits.rename_columns(["waiting", "workload_id"]).to_pandas()
    pairs = pa.Table.from_pandas(named.merge(awaited.to_pandas(), "inner", "workload_id"), preserve_index=False)
    own = runs.select(["run_id", "workload_id", "requested_at"]).group_by("run_id", use_threads=False)
    own = own.aggregate([("workload_id", "first"), ("requested_at", "first")])
    own = own.filter(pc.is_in(own["workload_id_first"].cast(STRING), pc.unique(waits["workload_id"])))
    if not own.num_rows or not pairs.num_rows:
        return DEPENDENCIES.empty_table()
    what = "runs and awaited runs of dependencies"
    both = pa.chunked_array([*pairs["waiting"].cast(STRING).chunks, *own["workload_id_first"].cast(STRING).chunks])
    workload = keys(pa.table({"workload_id": both}), "workload_id", what).codes
    need = keys(pairs, "run_id", "awaited runs of dependencies")
    ended, _ = instants(pairs, "ended_at", what)
    seen = pc.fill_null(pc.less(pairs["ended_at"], pa.scalar(until, TIMESTAMP)), False).to_numpy()
    asked, _ = instants(pairs, "requested_at", what)
    wanted, _ = instants(own, "requested_at_first", what)
    group, of = workload[: pairs.num_rows], workload[pairs.num_rows :]
    natural = ended - pairs["shift_us"].to_numpy()
    last = _latest(group, natural, ended, need.codes, seen, of, wanted)
    missing = _latest(group, asked, asked, need.codes, ~seen, of, wanted)
    recent = (missing >= 0) & (wanted - asked[missing] < longest // timedelta(microseconds=1))
    chosen = [(np.flatnonzero(last >= 0), last), (np.flatnonzero(recent), missing)]
    rows = np.concatenate([at for at, _ in chosen])
    needs = np.concatenate([which[at] for at, which in chosen])
    unseen = np.repeat([False, True], [len(at) for at, _ in chosen])
    found = pa.table(
        [
            own["run_id"].cast(STRING).take(pa.array(rows)),
            pairs["run_id"].cast(STRING).take(pa.array(needs)),
            pa.array(ended[needs], pa.int64(), mask=unseen).cast(TIMESTAMP),
        ],
        schema=DEPENDENCIES,
    )
    return found.sort_by([("run_id", "ascending"), ("needs_run_id", "ascending")])


def _latest(group: Ints, from_us: Ints, value_us: Ints, tie: Ints, which: Bools, of: Ints, at_us: Ints) -> Ints:
    """For each of ``of`` the best row of its group, -1 where there is none.

    That is, among the rows of ``which`` with ``from_us`` at or before ``at_us``, the one whose ``value_us`` is the
    largest, and of equal ones that with the least ``tie``.
    """
    row = np.flatnonzero(which)
    if not len(row):
        return np.full(len(of), -1, np.int64)
    n, low = len(row), int(from_us[row].min())
    span = int(from_us[row].max()) - low + 2
    by_value = row[np.lexsort((-tie[row], value_us[row]))]
    rank = np.empty(len(group), np.int64)
    rank[by_value] = np.arange(n)
    order = row[np.lexsort((from_us[row], group[row]))]
    # Groups come in ascending order: a maximum that runs on begins anew with each of them.
    best = np.maximum.accumulate(group[order] * n + rank[order])
    keyed = group[order] * span + from_us[order] - low
    last = np.searchsorted(keyed, of * span + np.clip(at_us - low, -1, span - 2), side="right") - 1
    found = (last >= 0) & (group[order[last]] == of)
    return np.where(found, by_value[best[last] % n], -1)

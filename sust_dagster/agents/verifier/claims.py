"""What is claimed of each executed recommendation, before anything of it is measured.

Belongs here: which outcomes are settled, how many runs each has and how many of them are ambiguous, its promises and
its costs put beside them. Does not belong here: reading events (the orchestration), gates and figures (``outcome``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import encode
from sust_dagster.agents.verifier.arrays import Bools, Ints, count_by
from sust_dagster.agents.verifier.evidence.text import as_texts
from sust_dagster.agents.verifier.inputs import CLAIM_SCHEMA, InputError
from sust_dagster.agents.verifier.runs import Moved
from sust_dagster.world.schemas import TIMESTAMP

_TEXT, _FLOAT = pa.string(), pa.float64()


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = True) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


#: One row per executed recommendation, as the books have it.
CASE_SCHEMA = pa.schema(
    [
        _field("outcome_id", _TEXT, "id of the outcome", nullable=False),
        _field("decision_id", _TEXT, "the 'executed' event", nullable=False),
        _field("recommendation_id", _TEXT, "the recommendation", nullable=False),
        _field("team_id", _TEXT, "team", nullable=False),
        _field("executed_at", TIMESTAMP, "instant the change took effect", nullable=False),
        _field("baseline_frozen_at", TIMESTAMP, "instant the baseline was frozen; null where no intent was done"),
        _field("claimed_delta_kg", _FLOAT, "what was promised, after - before"),
        _field("claimed_delta_kg_lower", _FLOAT, "plan interval, ci90 of the delta"),
        _field("claimed_delta_kg_upper", _FLOAT, "plan interval, ci90 of the delta"),
        _field("workload_category", _TEXT, "urgent, balanced or sustainable; null unknown"),
        _field("home_instance_type", _TEXT, "size the workload had before; null where the plan names none"),
    ]
)

#: Columns of a claim that are a case's own.
_OWN = (
    "outcome_id", "decision_id", "recommendation_id", "team_id", "claimed_delta_kg", "claimed_delta_kg_lower",
    "claimed_delta_kg_upper", "executed_at", "baseline_frozen_at",
)  # fmt: skip


def claims_of(
    cases: pa.Table,
    moved: Moved,
    costs: pa.Table,
    promises: pa.Table,
    *,
    now: datetime,
    until: datetime,
    settle_days: int,
) -> pa.Table:
    """The claim of each of ``cases`` (CASE_SCHEMA), in their order, as CLAIM_SCHEMA.

    ``costs``: outcome_id, measured_cost_delta_usd, reason (``service.cost``); ``promises``: outcome_id, sla_compliant,
    sla_detail, reason (``service.sla``); both with a row for each case. An outcome is settled when ``now`` is
    ``settle_days`` whole days past its day of execution and each of its runs was seen to end before ``until``. A run is
    ambiguous where the scheduler has it at home elsewhere than the frozen plan, or where two changes claim it.

    Raises :class:`InputError` for a case without costs or promises, a run of an outcome that is no case.
    """
    ids = cases["outcome_id"].combine_chunks()
    case = _rows_of(moved.runs["outcome_id"], ids, "runs", "cases: give every executed recommendation")
    cost = _rows_of(ids, costs["outcome_id"], "cases", "costs: ask for the costs of every case")
    promise = _rows_of(ids, promises["outcome_id"], "cases", "promises: ask for the promises of every case")
    day = pc.floor_temporal(cases["executed_at"], unit="day")
    due = pc.less_equal(pc.add(day, pa.scalar(timedelta(days=1 + settle_days), pa.duration("us"))), pa.scalar(now))
    running = count_by(case[~_ended(moved.runs, until)], len(ids))
    made = {
        "executed_on": day,
        "measured_cost_delta_usd": costs["measured_cost_delta_usd"].take(cost),
        "sla_compliant": promises["sla_compliant"].take(promise),
        "sla_detail": _detail(costs["reason"].take(cost), promises.select(["sla_detail", "reason"]).take(promise)),
        "baseline_signal": pa.nulls(len(ids), _TEXT),
        "baseline_method": pa.nulls(len(ids), _TEXT),
        "settled": pc.and_(due, pa.array(running == 0)),
        "restated": pa.array(np.zeros(len(ids), bool)),
        "runs_expected": count_by(case, len(ids)),
        "runs_ambiguous": count_by(case[ambiguous(moved.runs)], len(ids)),
    }
    made |= {name: cases[name] for name in _OWN}
    return pa.table({name: made[name] for name in CLAIM_SCHEMA.names}).cast(CLAIM_SCHEMA)


def ambiguous(runs: pa.Table) -> Bools:
    """Which of ``runs`` (``Moved.runs``) belong to no single baseline run: at home elsewhere, or claimed twice."""
    home, planned = (runs[name].cast(_TEXT) for name in ("home_region", "planned_home_region"))
    elsewhere = pc.fill_null(pc.not_equal(home, planned), True)
    run = encode(runs["run_id"]).codes.astype(np.int64)
    return elsewhere.to_numpy() | (np.bincount(run)[run] > 1 if len(run) else np.zeros(0, bool))


def _ended(runs: pa.Table, until: datetime) -> Bools:
    return pc.fill_null(pc.less(runs["ended_at"].cast(TIMESTAMP), pa.scalar(until, TIMESTAMP)), False).to_numpy()


def _detail(cost_reason: pa.ChunkedArray, promises: pa.Table) -> pa.Array:
    """Canonical JSON of what there is to say of money and promises; the promises' own detail is such a text already."""
    reasons = [pa.array(as_texts(column.cast(_TEXT)), _TEXT) for column in (cost_reason, promises["reason"])]
    detail = promises["sla_detail"].combine_chunks()
    parts = ('{"cost_reason":', reasons[0], ',"promises":', detail, ',"reason":', reasons[1], "}")
    return pc.binary_join_element_wise(*parts, "")


def _rows_of(wanted: pa.Array | pa.ChunkedArray, held: pa.Array | pa.ChunkedArray, name: str, among: str) -> Ints:
    """The row of ``held`` that each of ``wanted`` is."""
    held = held.combine_chunks() if isinstance(held, pa.ChunkedArray) else held
    found = pc.index_in(wanted.cast(_TEXT), held.cast(_TEXT))
    if found.null_count:
        at = int(np.flatnonzero(np.asarray(found.is_null()))[0])
        raise InputError(f"{name} row {at}: outcome {wanted[at]} is not among the {among}")
    return np.asarray(found).astype(np.int64)

"""What was promised of each run of an executed change, as the rows that ``sla`` judges.

Belongs here: joining runs to the register of workloads, the category of their change and the round trips between
regions. Does not belong here: judging a promise (``sla``), reading the register.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.causal.inputs import require
from sust_dagster.world.schemas import FLOAT, STRING, TIMESTAMP

_ROUTE = ["from_region", "to_region"]


def promised_runs(runs: pa.Table, cases: pa.Table, register: pa.Table, latency: pa.Table | None) -> pa.Table:
    """The ``runs`` of :func:`~sust_dagster.agents.verifier.service.sla.sla`: one row for each of ``runs``, in order.

    ``runs``: ``Moved.runs``. ``cases``: outcome_id, workload_category (null unknown). ``register``: workload_id,
    max_delay_hours, sla_latency_ms; a workload it does not hold has no promise of its own. ``latency``: from_region,
    to_region, rtt_ms; None where nobody measured. At home a round trip is 0; elsewhere it is that from home to where
    the run was, null where it is not known. Nobody states deadlines. Raises :class:`CheckInputError` for missing
    columns.
    """
    require(cases, ("outcome_id", "workload_category"), "cases")
    require(register, ("workload_id", "max_delay_hours", "sla_latency_ms"), "register of workloads")
    case = pc.index_in(runs["outcome_id"].cast(STRING), cases["outcome_id"].combine_chunks().cast(STRING))
    known = pc.index_in(runs["workload_id"].cast(STRING), register["workload_id"].combine_chunks().cast(STRING))
    return pa.table(
        {
            "outcome_id": runs["outcome_id"].cast(STRING),
            "run_id": runs["run_id"].cast(STRING),
            "category": pc.take(cases["workload_category"].combine_chunks().cast(STRING), case),
            "requested_start": runs["requested_at"],
            "started_at": runs["started_at"],
            "ended_at": runs["ended_at"],
            "max_delay_hours": pc.take(register["max_delay_hours"].combine_chunks().cast(FLOAT), known),
            "deadline": pa.nulls(runs.num_rows, TIMESTAMP),
            "sla_latency_ms": pc.take(register["sla_latency_ms"].combine_chunks().cast(FLOAT), known),
            "round_trip_ms": _round_trips(runs["home_region"].cast(STRING), runs["region"].cast(STRING), latency),
        }
    )


def _round_trips(home: pa.ChunkedArray, region: pa.ChunkedArray, latency: pa.Table | None) -> pa.ChunkedArray:
    """Milliseconds from home to where each run was; null where it was seen nowhere, or nobody measured the route."""
    measured = pa.nulls(len(home), FLOAT)
    if latency is not None:
        require(latency, (*_ROUTE, "rtt_ms"), "latency")
        routes = latency.select([*_ROUTE, "rtt_ms"]).drop_null().to_pandas().drop_duplicates(_ROUTE, keep="last")
        asked = pa.table({"from_region": home, "to_region": region}).to_pandas()
        measured = pa.array(asked.merge(routes, "left", _ROUTE)["rtt_ms"], FLOAT, from_pandas=True)
    return pc.if_else(pc.equal(home, region), 0.0, measured)

"""What makes a plan worth having before the next morning: a workload not seen before, a cost spike.

Belongs here: finding them in the ledger's newest hours. Does not belong here: starting a plan (orchestration).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from sust_dagster.agents.ingestor.anomalies import COST_SPIKE
from sust_dagster.agents.ingestor.arrays import query

NEW_WORKLOAD = "new_workload"


@dataclass(frozen=True)
class Trigger:
    """One workload and why it should be planned now."""

    workload_id: str
    reason: str
    """``new_workload`` or ``cost_spike``"""


def triggers(ledger: pa.Table, since: datetime, until: datetime) -> list[Trigger]:
    """Triggers in the hours ``[since, until)``, sorted by workload and reason.

    ``ledger``: workload_id, started_at, anomaly, over the newest hours and as many days before as are to count as
    known. A ledger that begins within the hours looked at has no past to be new against, and gives none of those.
    """
    found = query(
        f"""
        with bounds as (
            select TIMESTAMPTZ '{since.isoformat()}' as since, TIMESTAMPTZ '{until.isoformat()}' as until
        ),
        newest as (select l.* from ledger l, bounds where started_at >= since and started_at < until),
        past as (select distinct workload_id from ledger l, bounds where started_at < since)
        select distinct workload_id, '{NEW_WORKLOAD}' as reason from newest
        where workload_id is not null and workload_id not in (select workload_id from past)
            and (select count(*) from past) > 0
        union all
        select distinct workload_id, '{COST_SPIKE}' from newest
        where workload_id is not null and list_contains(string_split(anomaly, ';'), '{COST_SPIKE}')
        order by workload_id, reason
        """,
        {"ledger": ledger},
    )
    return [Trigger(**row) for row in found.to_pylist()]

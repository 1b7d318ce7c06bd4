"""SENSE: what the cloud billed becomes the activity ledger; what cannot is quarantined with a reason.

Belongs here: the assets the ingestor writes. The bill itself is outside (an external asset): the executor
changes the cloud, the ingestor reads what it did.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa

from sust_dagster.agents.ingestor import HISTORY, HISTORY_COLUMNS, ServiceHours, ingest_range
from sust_dagster.orchestration.declarations import asset_properties, column_lineage
from sust_dagster.orchestration.io_managers import window_of
from sust_dagster.orchestration.partitions import SINGLE_RUN
from sust_dagster.orchestration.previews import by_hour_of_day, show, sparkline, top_table
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.access import AgentHandle

BILLING_RECORDS = dg.AssetSpec(
    "billing_records",
    group_name="cloud",
    description="What the cloud billed: FOCUS, CUR, GCP or Azure exports, or the simulated cloud's FOCUS rows.",
    kinds={"source"},
)

_LINEAGE = column_lineage(
    {
        "started_at": {"billing_records": ["ChargePeriodStart"]},
        "ended_at": {"billing_records": ["ChargePeriodEnd"]},
        "region": {"billing_records": ["RegionId"]},
        "instance_type": {"billing_records": ["SkuMeter", "SkuPriceDetails"]},
        "vcpus": {"billing_records": ["SkuPriceDetails"]},
        "usage_hours": {"billing_records": ["ConsumedQuantity", "ConsumedUnit"]},
        "resource_qty": {"billing_records": ["ConsumedQuantity", "ConsumedUnit", "SkuPriceDetails"]},
        "cost_usd": {"billing_records": ["BilledCost", "BillingCurrency"]},
        "team_id": {"billing_records": ["Tags", "SubAccountId"]},
        "service_name": {"billing_records": ["Tags", "ServiceName"]},
        "workload_category": {"billing_records": ["Tags"]},
        "job_id": {"billing_records": ["Tags", "ResourceId"]},
    }
)


def build(hourly: dg.PartitionsDefinition) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of this step, over the project's hours."""

    @dg.multi_asset(
        name="ingest",
        outs={
            table: dg.AssetOut(io_manager_key="lake", **asset_properties(table, "ingestor"))
            for table in ("activity_ledger", "quarantine", "ingest_counts")
        },
        deps=[BILLING_RECORDS],
        partitions_def=hourly,
        backfill_policy=SINGLE_RUN,
    )
    def ingest(context: dg.AssetExecutionContext, project: ProjectResource) -> Iterator[dg.Output[pa.Table]]:
        start, end = window_of(context)
        batches = project.billing.read(start, end)
        history = stored_hours(project.handle("ingestor"), start)
        result = ingest_range(
            batches, start, end, project.ingest_options, undated=project.project.start, history=history
        )
        context.log.info("rows read %d: %s", result.rows_read, result.summary())
        show(context, "ingest_counts", result.counts, "hour")
        show(context, "quarantine", result.quarantine, "quarantined_for")
        show(
            context, "activity_ledger", result.ledger, "started_at",
            sums=("cost_usd", "vcpu_hours"), of_the_run={**result.summary(), **_ledger_metadata(result.ledger)},
        )  # fmt: skip
        yield dg.Output(result.counts, "ingest_counts")
        yield dg.Output(result.quarantine, "quarantine")
        yield dg.Output(result.ledger, "activity_ledger")

    return [BILLING_RECORDS, ingest]


#: Stored hours are summed so much at a time: a month of a large bill is more than a table.
_AT_ONCE = timedelta(days=2)


def stored_hours(ingestor: AgentHandle, start: datetime) -> ServiceHours:
    """What services cost in the hours before ``start``, as stored: not as the bill may say of them now, so that any
    cut of the hours into runs gives the same.
    """
    hours, at = ServiceHours(), start - HISTORY
    while at < start:
        until = min(at + _AT_ONCE, start)
        hours.add(ingestor.read_lake("activity_ledger", at, until, columns=HISTORY_COLUMNS))
        at = until
    return hours


def _ledger_metadata(ledger: pa.Table) -> dict[str, Any]:
    return {
        "dagster/column_lineage": _LINEAGE,
        "anomalies": ledger.num_rows - ledger.column("anomaly").null_count,
        "vcpu_hours_by_hour_of_day": sparkline(by_hour_of_day(ledger, "started_at", "vcpu_hours")),
        "top_services": top_table(ledger, "service_name", "cost_usd", "USD"),
    }

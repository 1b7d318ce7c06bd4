"""What a scheduler and a price list remember: when a run was asked for, where it is at home, what that costs there.

Belongs here: the choice of source by project. Does not belong here: what a verification makes of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.runs import REQUEST_SCHEMA
from sust_dagster.connectors.sources import fake_cloud
from sust_dagster.settings import Project
from sust_dagster.world.schemas import TIMESTAMP

#: List prices: the price of an hour of a SKU in a region, in force over ``[valid_from, valid_to)``.
PRICE_SCHEMA = pa.schema(
    [
        pa.field("region", pa.string()),
        pa.field("sku", pa.string()),
        pa.field("valid_from", TIMESTAMP),
        pa.field("valid_to", TIMESTAMP),
        pa.field("usd_per_unit", pa.float64()),
    ]
)


def requests_of(project: Project, start: datetime, end: datetime) -> pa.Table | None:
    """The runs asked for in ``[start, end)``, as REQUEST_SCHEMA; None where no scheduler tells."""
    if project.source != "simulated":
        return None
    return fake_cloud(project).jobs(start, end).select(REQUEST_SCHEMA.names).cast(REQUEST_SCHEMA)


def list_prices(project: Project, start: datetime, end: datetime) -> pa.Table | None:
    """On-demand prices of the hours ``[start, end)``, as PRICE_SCHEMA; None where nobody said."""
    if project.source != "simulated":
        return None
    hourly = fake_cloud(project).prices(start, end).rename_columns({"instance_type": "sku"})
    by = ["region", "sku", "on_demand_usd_per_hour"]
    spans = hourly.group_by(by, use_threads=False).aggregate([("ts", "min"), ("ts", "max")])
    until = pc.add(spans.column("ts_max"), pa.scalar(timedelta(hours=1), pa.duration("us")))
    columns = [spans.column("region"), spans.column("sku"), spans.column("ts_min"), until, spans.column(by[2])]
    return pa.table(columns, names=PRICE_SCHEMA.names).cast(PRICE_SCHEMA)

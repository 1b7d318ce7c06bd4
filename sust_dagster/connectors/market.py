"""What a plan must know beside carbon and past runs: prices, egress, latency, capacity, and the workloads' register.

Belongs here: the choice of source by project, and what was known at a moment. Everything here is optional but the
register: what is not there has a stated meaning (``agents.planner.tables``). Does not belong here: what it is used for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.planner.upcoming import WORKLOADS
from sust_dagster.connectors.plans import read_capacity, read_egress, read_latency, read_prices
from sust_dagster.connectors.plans.table_file import TableFile
from sust_dagster.connectors.sources import fake_cloud
from sust_dagster.reference import instances
from sust_dagster.settings import Project

#: Instance type that stands for a region's price level in the simulated cloud, whose prices move together.
_PRICE_LEVEL = "m5.xlarge"
#: Days whose spot prices stand for those to come: the market is not forecast.
_SPOT_DAYS = 7


@dataclass(frozen=True)
class Market:
    """Tables as known at one moment; None = nobody said."""

    prices: pa.Table | None
    """region, usd_per_vcpu_hour[, ts]"""
    prices_are_levels: bool
    """Whether prices compare regions (a job's own cost is scaled by them) instead of pricing each vCPU-hour."""
    spot: pa.Table | None
    """region, price_share, interruption_per_hour: means of the days before"""
    egress: pa.Table | None
    """from_region, to_region, usd_per_gb"""
    latency: pa.Table | None
    """from_region, to_region, rtt_ms"""
    capacity: pa.Table | None
    """region, vcpus[, ts]"""
    closed: tuple[str, ...]
    """Regions that take no placements at the moment."""


def market_at(project: Project, moment: datetime) -> Market:
    """What was known at ``moment`` (UTC): nothing later is looked at."""
    if project.source == "simulated":
        return _simulated(project, moment)
    return Market(
        prices=read_prices(project.prices).table if project.prices else None,
        prices_are_levels=False,
        spot=None,
        egress=read_egress(project.egress).table if project.egress else None,
        latency=read_latency(project.latency).table if project.latency else None,
        capacity=read_capacity(project.capacity).table if project.capacity else None,
        closed=(),
    )


def _simulated(project: Project, moment: datetime) -> Market:
    cloud = fake_cloud(project)
    known = cloud.prices(moment - timedelta(days=_SPOT_DAYS), moment)
    level = known.filter(pc.equal(known.column("instance_type"), _PRICE_LEVEL))
    share = pc.divide(level.column("spot_usd_per_hour"), level.column("on_demand_usd_per_hour"))
    last = level.filter(pc.equal(level.column("ts"), pc.max(level.column("ts"))))
    spot = level.append_column("price_share", share).group_by("region", use_threads=False)
    means = spot.aggregate([("price_share", "mean"), ("spot_interruption_per_hour", "mean")])
    out = cloud.outages(moment - timedelta(hours=1), moment)
    return Market(
        prices=pa.table(
            {
                "region": last.column("region"),
                "usd_per_vcpu_hour": pc.divide(last.column("on_demand_usd_per_hour"), last.column("vcpus")),
            }
        ),
        prices_are_levels=True,
        spot=means.rename_columns(["region", "price_share", "interruption_per_hour"]),
        egress=cloud.egress_prices(),
        latency=cloud.latency(),
        capacity=None,
        closed=tuple(sorted(set(out.column("region").to_pylist()))),
    )


def workload_register(project: Project) -> pa.Table:
    """What is known of each workload besides its bills, as WORKLOADS; empty where the project names no register."""
    if project.source != "simulated":
        return read_workloads(project.workloads) if project.workloads else WORKLOADS.empty_table()
    cloud = fake_cloud(project)
    told = cloud.workloads().join(cloud.metrics(), "workload_id").sort_by("workload_id")
    columns = {
        f.name: told.column(f.name) if f.name in told.column_names else pa.nulls(told.num_rows, f.type)
        for f in WORKLOADS
    }
    return pa.table(columns).cast(WORKLOADS)


_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


def read_workloads(path: str) -> pa.Table:
    """The register of workloads from CSV or Parquet, as WORKLOADS; columns it lacks are null.

    Raises :class:`~sust_dagster.connectors.plans.PlanFileError` naming file, row, column and fix.
    """
    file = TableFile.read(path)
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for field in WORKLOADS:
        own = file.need((field.name,)) if field.name == "workload_id" else file.find((field.name,))
        if own is None:
            columns[field.name] = pa.nulls(file.table.num_rows, field.type)
        elif pa.types.is_floating(field.type):
            columns[field.name] = file.numbers(own)
        elif pa.types.is_boolean(field.type):
            columns[field.name] = _flags(file, own)
        else:
            columns[field.name] = file.text(own)
    table = pa.table(columns).cast(WORKLOADS)
    ids = table.column("workload_id")
    counted = pc.value_counts(pc.fill_null(ids, ""))
    for value, n in zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True):
        if not value or n > 1:
            at = pc.index(pc.fill_null(ids, ""), value).as_py()
            raise file.refuse(
                "is empty" if not value else f"{value!r} stands {n} times", at, "workload_id", "one row each"
            )
    return table


def _flags(file: TableFile, column: str) -> pa.ChunkedArray:
    words = pc.utf8_lower(file.text(column))
    yes, no = (pc.is_in(words, pa.array(known)) for known in (_YES, _NO))
    unknown = pc.and_(pc.is_valid(words), pc.invert(pc.or_(yes, no)))
    if pc.any(unknown).as_py():
        at = pc.index(unknown, True).as_py()
        raise file.refuse(f"{words[at].as_py()!r} is neither yes nor no", at, column, "write true or false")
    return pc.if_else(pc.is_valid(words), yes, pa.scalar(None, pa.bool_()))


def halvable_types() -> frozenset[str]:
    """Instance types with a sibling of half their vCPUs in the reference table."""
    table = instances().select(["provider", "instance_type", "vcpus"]).to_pylist()
    sizes = {(r["provider"], _family(r["instance_type"]), r["vcpus"]) for r in table if r["vcpus"]}
    return frozenset(
        r["instance_type"]
        for r in table
        if r["vcpus"] and (r["provider"], _family(r["instance_type"]), r["vcpus"] / 2) in sizes
    )


def _family(instance_type: str) -> str:
    """What an instance type's sizes share: 'm5' of 'm5.xlarge', 'n2-standard' of 'n2-standard-8'."""
    return instance_type.split(".")[0] if "." in instance_type else instance_type.rsplit("-", 1)[0]

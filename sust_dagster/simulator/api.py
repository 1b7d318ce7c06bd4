"""The placement API: what the fake cloud says to a change somebody wants to make.

Belongs here: which placements are refused, and why. A refusal is an answer, not an error; a row whose form is
wrong raises ``PlacementError`` (placements.py).

=====================  ==========================================================================
reason                 when
=====================  ==========================================================================
unknown_job            no such job, or no such workload
already_started        the requested hour began before ``now``
unknown_region         the cloud has no such region
region_not_allowed     the workload's data may not leave its allowed regions
delay_out_of_range     the delay is negative, above 24 h or no number
always_on              a service that runs round the clock has no start to delay
not_spot_tolerant      the workload cannot be interrupted
no_such_size           the instance type has no size with that share of its vCPUs
region_outage          the region takes no placements in the hour the run would start
=====================  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sust_dagster.simulator.arrivals import Demand
from sust_dagster.simulator.clock import HOUR_S, hour_timestamps
from sust_dagster.simulator.columns import join, pick
from sust_dagster.simulator.outages import outage_hours
from sust_dagster.simulator.placements import MAX_DELAY_HOURS, PLACEMENT_SCHEMA, Orders, orders_of
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.runs import Flags

REASONS = (
    "unknown_job",
    "already_started",
    "unknown_region",
    "region_not_allowed",
    "delay_out_of_range",
    "always_on",
    "not_spot_tolerant",
    "no_such_size",
    "region_outage",
)
REFUSED_SCHEMA = pa.schema([*PLACEMENT_SCHEMA, pa.field("reason", pa.string()), pa.field("detail", pa.string())])


@dataclass(frozen=True)
class Verdict:
    """Rows the cloud takes, and rows it refuses with ``reason`` and ``detail``."""

    accepted: pa.Table
    refused: pa.Table


def _known(demand: Demand, orders: Orders) -> Flags:
    """Whether each row's workload exists and, for a single job, whether that job was asked for."""
    known = orders.workload >= 0
    single = known & (orders.ordinal >= 0)
    if single.any():
        hours, at = np.unique(orders.hour[single], return_inverse=True)
        known[single] = orders.ordinal[single] < demand.counts(hours)[at, orders.workload[single]]
    return known


def _out(seed: int, orders: Orders) -> tuple[Flags, pa.Array]:
    """Whether the region is out in the hour the run would start, and that hour."""
    delay = np.nan_to_num(orders.delay_hours, nan=0.0, posinf=0.0, neginf=0.0)
    start = orders.hour + np.floor(np.clip(delay, 0, MAX_DELAY_HOURS)).astype(np.int64)
    hours, at = np.unique(start, return_inverse=True)
    if hours.size == 0:
        return np.zeros(0, bool), hour_timestamps(start)
    return outage_hours(seed, hours)[at, orders.region] & (orders.region >= 0), hour_timestamps(start)


def judge(demand: Demand, table: pa.Table, now_s: float | None) -> Verdict:
    """Which rows of :data:`PLACEMENT_SCHEMA` the cloud takes. ``now_s`` is in seconds since the epoch."""
    orders = orders_of(table, demand.workloads)
    per, kind = demand.workloads, orders.workload
    allowed = np.array([[w.allowed_regions is None or r in w.allowed_regions for r in REGION_IDS] for w in per])
    always = np.array([w.rhythm == "always" for w in per])[kind]
    spot_ok = np.array([w.spot_tolerant for w in per])[kind]
    delay = orders.delay_hours
    out, start = _out(demand.seed, orders)
    refusals = (
        ~_known(demand, orders),
        np.zeros(len(kind), bool) if now_s is None else orders.hour * HOUR_S < now_s,
        orders.region < 0,
        ~allowed[kind, orders.region],
        ~((delay >= 0) & (delay <= MAX_DELAY_HOURS)),
        always & (delay != 0),
        orders.spot & ~spot_ok,
        orders.instance < 0,
        out,
    )
    # The first reason that applies, in the order of REASONS; len(REASONS) stands for none.
    code = np.full(len(kind), len(REASONS))
    for k in reversed(range(len(REASONS))):
        code[refusals[k]] = k
    taken = pa.array(code == len(REASONS))
    detail = join(
        pick([*REASONS, ""], code),
        ": ",
        pick([*REGION_IDS, "unknown region"], orders.region % (len(REGION_IDS) + 1)),
        " from ",
        start.cast(pa.timestamp("s", tz="UTC")).cast(pa.string()),
    )
    judged = table.append_column("reason", pick([*REASONS, None], code)).append_column("detail", detail)
    refused = judged.filter(pa.array(code < len(REASONS))).cast(REFUSED_SCHEMA)
    return Verdict(accepted=table.filter(taken), refused=refused)

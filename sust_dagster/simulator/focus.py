"""The bill: FOCUS 1.2 rows of what ran.

Belongs here: the shape of the bill. One row per job and clock hour (``ChargePeriod`` is the whole hour,
``ConsumedQuantity`` the hours used in it), an egress row in the start hour of each job that left its region, and
what real bills carry besides usage, in tiny amounts:

* a Tax and a Credit row in the first hour of each month, which cancel;
* about one unused-commitment row a day (``BilledCost`` 0, ``EffectiveCost`` $0.02);
* about one correction row in four days: minus a second of one production service, at its price.

So ``sum(BilledCost)`` of usage rows is the cost of the jobs plus egress, less the corrections.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.simulator.arrivals import Ints, job_ids
from sust_dagster.simulator.clock import DAY_HOURS, HOUR_S, month_bounds
from sust_dagster.simulator.columns import constant, join, pick
from sust_dagster.simulator.focus_schema import BILLING_ACCOUNT_ID, bill_rows
from sust_dagster.simulator.instances import INSTANCES
from sust_dagster.simulator.network import egress_usd_per_gb
from sust_dagster.simulator.organisation import DEVELOPERS, TEAM_IDS
from sust_dagster.simulator.regions import REGION_IDS, REGIONS
from sust_dagster.simulator.runs import Runs, Scheduler, Slices, slices_of
from sust_dagster.simulator.streams import Stream
from sust_dagster.simulator.workloads import Workload

TAX_USD = 0.50
UNUSED_COMMITMENT_USD = 0.02
UNUSED_COMMITMENTS_PER_DAY = 1.0
CORRECTIONS_PER_DAY = 0.25
CORRECTION_S = 1

_SORT = [
    (name, "ascending") for name in ("ChargePeriodStart", "ResourceId", "ChargeCategory", "SkuMeter", "BilledCost")
]


def focus_table(scheduler: Scheduler, first: int, last: int) -> pa.Table:
    """The bill of hours ``[first, last)``: ``FOCUS_SCHEMA``, sorted by (ChargePeriodStart, ResourceId)."""
    runs = scheduler.runs(first - scheduler.lookback_hours, last)
    cut = slices_of(runs, first, last)
    workloads, seed = scheduler.demand.workloads, scheduler.demand.seed
    jobs = _JobColumns(runs, workloads)
    paid, listed = scheduler.hourly_usd(runs, cut)
    hours = np.arange(first, last, dtype=np.int64)
    table = pa.concat_tables(
        [
            _compute(jobs, cut, paid, listed),
            _egress(jobs, first, last),
            _corrections(seed, jobs, hours, cut, paid, listed),
            _unused_commitments(seed, hours),
            _tax_and_credit(hours),
        ]
    )
    return table.take(pc.sort_indices(table, sort_keys=_SORT)).combine_chunks()


class _JobColumns:
    """Text of the jobs, made once per job and taken by their rows."""

    def __init__(self, runs: Runs, workloads: tuple[Workload, ...]) -> None:
        self.runs = runs
        self.workloads = workloads
        kind = runs.requests.workload
        self.job_id = job_ids(runs.requests, workloads)
        team = np.array([TEAM_IDS.index(w.team_id) for w in workloads], np.int64)[kind]
        self.team = team
        accounts = [f"4444555500{k + 1:02d}" for k in range(len(TEAM_IDS))]
        self.account_id = pick(accounts, team)
        self.account_name = pick([f"team-{name}" for name in TEAM_IDS], team)
        arn = [f"arn:aws:ec2:{r}:{a}:instance/" for r in REGION_IDS for a in accounts]
        self.resource_id = join(pick(arn, runs.region * len(accounts) + team), self.job_id)
        self.tags = self._tags(kind)

    def _tags(self, kind: Ints) -> pa.Array:
        """Tags as JSON with the keys in order; the tier is what people tag, the category is policy's."""
        q = json.dumps
        tails = [
            f'","service":{q(w.service_name)},"team":{q(w.team_id)},"tier":{q(w.service_tier)}'
            f',"workload":{q(w.workload_id)}}}'
            for w in self.workloads
        ]
        owners = pick(list(DEVELOPERS), self.runs.requests.owner)
        return join('{"job":"', self.job_id, '","owner":"', owners, pick(tails, kind))

    def of(self, job: Ints) -> dict[str, pa.Array]:
        """The columns every row of a job has."""
        at = pa.array(job)
        return {
            "ResourceId": self.resource_id.take(at),
            "ResourceName": self.job_id.take(at),
            "ResourceType": constant("Instance", job.size),
            "SubAccountId": self.account_id.take(at),
            "SubAccountName": self.account_name.take(at),
            "Tags": self.tags.take(at),
        }


def _sku_details() -> list[str]:
    """SkuPriceDetails of each instance type, as JSON."""
    details = []
    for x in INSTANCES:
        properties: dict[str, object] = {
            "CoreCount": x.vcpus,
            "InstanceSeries": x.series,
            "InstanceType": x.instance_type,
            "MemorySize": x.memory_gib,
            "OperatingSystem": "Linux",
        }
        if x.gpus:
            properties |= {"GpuCount": x.gpus, "x_GpuModel": x.gpu_model}
        details.append(json.dumps(properties, sort_keys=True, separators=(",", ":")))
    return details


def _instance_columns(jobs: _JobColumns, cut: Slices) -> dict[str, pa.Array]:
    """Region, service and SKU columns of compute rows."""
    runs, n = jobs.runs, cut.job.size
    region, instance, spot = runs.region[cut.job], runs.instance[cut.job], runs.spot[cut.job].astype(np.int64)
    market = 2 * instance + spot
    # A SKU is a type in a region; its price ids differ by market.
    sku = region * len(INSTANCES) + instance
    skus = [f"EC2-{r}-{x.instance_type}" for r in REGION_IDS for x in INSTANCES]
    prices = [f"{s}.{m}" for s in skus for m in ("OnDemand", "Spot")]
    meters = [f"{m}:{x.instance_type}" for x in INSTANCES for m in ("BoxUsage", "SpotUsage")]
    words = [f"{x.instance_type} Linux {m} instance-hours" for x in INSTANCES for m in ("On-Demand", "Spot")]
    return {
        **jobs.of(cut.job),
        "ChargeCategory": constant("Usage", n),
        "ChargeDescription": pick(words, market),
        "ConsumedUnit": constant("Hours", n),
        "PricingCategory": pick(["Standard", "Dynamic"], spot),
        "PricingUnit": constant("Hours", n),
        "RegionId": pick(REGION_IDS, region),
        "RegionName": pick([r.name for r in REGIONS], region),
        "ServiceCategory": constant("Compute", n),
        "ServiceName": constant("Amazon Elastic Compute Cloud", n),
        "ServiceSubcategory": constant("Virtual Machines", n),
        "SkuId": pick(skus, sku),
        "SkuMeter": pick(meters, market),
        "SkuPriceDetails": pick(_sku_details(), instance),
        "SkuPriceId": pick(prices, 2 * sku + spot),
    }


def _money(quantity: np.ndarray, paid: np.ndarray, listed: np.ndarray) -> dict[str, pa.Array]:
    """Quantities and costs of usage rows: quantity times unit price, nothing rounded."""
    cost = pa.array(quantity * paid)
    return {
        "BilledCost": cost,
        "ConsumedQuantity": pa.array(quantity),
        "ContractedCost": cost,
        "ContractedUnitPrice": pa.array(paid),
        "EffectiveCost": cost,
        "ListCost": pa.array(quantity * listed),
        "ListUnitPrice": pa.array(listed),
        "PricingQuantity": pa.array(quantity),
    }


def _compute(jobs: _JobColumns, cut: Slices, paid: np.ndarray, listed: np.ndarray) -> pa.Table:
    return bill_rows(cut.hour, {**_instance_columns(jobs, cut), **_money(cut.usage_hours, paid, listed)})


def _egress(jobs: _JobColumns, first: int, last: int) -> pa.Table:
    """Data transfer out of the home region, in the hour the moved job starts."""
    runs = jobs.runs
    hour = runs.started_s // HOUR_S
    job = np.flatnonzero((runs.egress_gb > 0) & (hour >= first) & (hour < last))
    n, home, region = job.size, runs.home[job], runs.region[job]
    pair = home * len(REGION_IDS) + region
    meters = [f"{a}-{b}-AWS-Out-Bytes" for a in REGION_IDS for b in REGION_IDS]
    price = egress_usd_per_gb()[home, region]
    columns = {
        **jobs.of(job),
        **_money(runs.egress_gb[job], price, price),
        "ChargeCategory": constant("Usage", n),
        "ChargeDescription": pick([f"data transfer {m}" for m in meters], pair),
        "ConsumedUnit": constant("GB", n),
        "PricingCategory": constant("Standard", n),
        "PricingUnit": constant("GB", n),
        "RegionId": pick(REGION_IDS, home),
        "RegionName": pick([r.name for r in REGIONS], home),
        "ServiceCategory": constant("Networking", n),
        "ServiceName": constant("AWS Data Transfer", n),
        "ServiceSubcategory": constant("Network Connectivity", n),
        "SkuId": pick([f"DT-{m}" for m in meters], pair),
        "SkuMeter": pick(meters, pair),
        "SkuPriceId": pick([f"DT-{m}.OnDemand" for m in meters], pair),
    }
    return bill_rows(hour[job], columns)


def _corrections(
    seed: int, jobs: _JobColumns, hours: Ints, cut: Slices, paid: np.ndarray, listed: np.ndarray
) -> pa.Table:
    """Now and then a second of a production service given back, in the hour it was billed."""
    u = Stream.of(seed, "corrections").uniforms(hours)
    chosen = np.flatnonzero(u[:, 0] < CORRECTIONS_PER_DAY / DAY_HOURS)
    always = np.flatnonzero([w.rhythm == "always" for w in jobs.workloads])
    wanted = always[np.floor(u[chosen, 1] * always.size).astype(np.int64)]
    # The chosen service's slice of that hour; none where it was moved away in time.
    keys = cut.hour * len(jobs.workloads) + jobs.runs.requests.workload[cut.job]
    full = np.flatnonzero(np.isin(keys, hours[chosen] * len(jobs.workloads) + wanted) & (cut.seconds == HOUR_S))
    part = Slices(cut.job[full], cut.hour[full], np.full(full.size, -CORRECTION_S, np.int64))
    columns = _instance_columns(jobs, part)
    columns |= _money(part.usage_hours, paid[full], listed[full])
    columns["ChargeClass"] = constant("Correction", full.size)
    return bill_rows(part.hour, columns)


def _unused_commitments(seed: int, hours: Ints) -> pa.Table:
    """Hours of a commitment nobody used: they cost money, amortised, and no energy."""
    u = Stream.of(seed, "unused commitments").uniforms(hours)[:, 0]
    at = hours[u < UNUSED_COMMITMENTS_PER_DAY / DAY_HOURS]
    n = at.size
    plan = f"arn:aws:savingsplans::{BILLING_ACCOUNT_ID}:savingsplan/compute-1y"
    zero = constant(0.0, n, pa.float64())
    amount = constant(UNUSED_COMMITMENT_USD, n, pa.float64())
    columns = {
        "BilledCost": zero,
        "ChargeCategory": constant("Usage", n),
        "ChargeDescription": constant("unused compute savings plan commitment", n),
        "CommitmentDiscountCategory": constant("Spend", n),
        "CommitmentDiscountId": constant(plan, n),
        "CommitmentDiscountName": constant("compute-1y", n),
        "CommitmentDiscountQuantity": amount,
        "CommitmentDiscountStatus": constant("Unused", n),
        "CommitmentDiscountType": constant("Compute Savings Plan", n),
        "CommitmentDiscountUnit": constant("USD", n),
        "ContractedCost": zero,
        "EffectiveCost": amount,
        "ListCost": zero,
        "PricingCategory": constant("Committed", n),
        "PricingQuantity": amount,
        "PricingUnit": constant("USD", n),
        "ResourceId": constant(plan, n),
        "ResourceName": constant("compute-1y", n),
        "ResourceType": constant("Savings Plan", n),
        "ServiceCategory": constant("Compute", n),
        "ServiceName": constant("Savings Plans for AWS Compute usage", n),
    }
    return bill_rows(at, columns)


def _tax_and_credit(hours: Ints) -> pa.Table:
    """A tax and a credit of the same amount in the first hour of each month."""
    month, _ = month_bounds(hours)
    at = np.repeat(hours[month == hours], 2)
    kind = np.tile(np.arange(2), at.size // 2)
    amount = pa.array(np.where(kind == 0, TAX_USD, -TAX_USD))
    columns = {
        "BilledCost": amount,
        "ChargeCategory": pick(["Tax", "Credit"], kind),
        "ChargeDescription": pick(["sales tax", "promotional credit"], kind),
        "ChargeFrequency": constant("Recurring", at.size),
        "ContractedCost": amount,
        "EffectiveCost": amount,
        "ListCost": amount,
        "ServiceCategory": constant("Other", at.size),
        "ServiceName": pick(["Tax", "Credit"], kind),
    }
    return bill_rows(at, columns)

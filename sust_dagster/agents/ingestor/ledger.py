"""From billed rows in the normal form to the activity ledger.

Belongs here: the making of ledger rows, and the account of a stretch of input: every row ends in exactly one place,
ledger, quarantine with a reason, or a skip class with a count. Does not belong here: the rules which (``sorting``),
formats, files, anything about energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import (
    as_dictionary,
    codes,
    combinations,
    instants,
    microseconds,
    nullable,
    numbers,
    one_chunk,
    take_text,
)
from sust_dagster.agents.ingestor.duplicates import Seen
from sust_dagster.agents.ingestor.keys import key_parts, line_keys, record_refs
from sust_dagster.agents.ingestor.mapping import UNMAPPED_TEAM, MappingRules, Owners, map_owners
from sust_dagster.agents.ingestor.normal_form import SOURCE, BillBatch, Flag, flag_text
from sust_dagster.agents.ingestor.quarantine import NO_HOUR, quarantine_table
from sust_dagster.agents.ingestor.regions import region_ids
from sust_dagster.agents.ingestor.resources import Resources
from sust_dagster.agents.ingestor.slices import HOUR_US, cut, shape_weights
from sust_dagster.agents.ingestor.sorting import counts, is_correction, positions, refused_rows, sort_rows
from sust_dagster.world.ids import uuid5_column
from sust_dagster.world.schemas import ACTIVITY_LEDGER

_SLACK = 1.001


class OptionError(ValueError):
    """An ingest option that cannot be used."""


@dataclass(frozen=True)
class IngestOptions:
    """How bills become activity.

    ``mapping`` team, service and tier rules; ``instances`` reference table (provider, instance_type, vcpus,
    memory_gib, gpus, gpu_model); ``fx_usd`` USD per unit of a billing currency; ``load_shape`` name or 24
    weights by UTC hour for periods longer than an hour; ``cost_basis`` 'billed' or 'effective' (commitments
    amortised).
    """

    mapping: MappingRules = field(default_factory=MappingRules.from_dict)
    instances: pa.Table | None = None
    fx_usd: Mapping[str, float] = field(default_factory=dict)
    load_shape: str | Sequence[float] = "flat"
    cost_basis: str = "billed"

    def __post_init__(self) -> None:
        shape_weights(self.load_shape)
        if self.cost_basis not in ("billed", "effective"):
            raise OptionError(f"cost basis {self.cost_basis!r} is unknown; give 'billed' or 'effective'")
        bad = [c for c, rate in self.fx_usd.items() if not (np.isfinite(rate) and rate > 0)]
        if bad:
            raise OptionError(f"rates of {bad} are no positive numbers; give USD per unit of the currency")


@dataclass(frozen=True)
class IngestResult:
    """What became of a stretch of input rows.

    ``ledger`` and ``quarantine`` are in their declared schemas, ``ledger_at`` and ``quarantine_at`` (POSITIONS) say
    where the raw record of each of their rows stands; ``skipped`` counts input rows by class; ``counts`` (COUNTS)
    says the same by hour, bill, file, outcome and class, the hour null where a row claims none.
    """

    ledger: pa.Table
    quarantine: pa.Table
    skipped: dict[str, int]
    rows_read: int
    rows_ledger: int
    rows_quarantined: int
    rows_skipped: int
    counts: pa.Table
    ledger_at: pa.Table
    quarantine_at: pa.Table

    def __post_init__(self) -> None:
        assert self.rows_read == self.rows_ledger + self.rows_quarantined + self.rows_skipped, "rows went missing"
        assert self.rows_quarantined == self.quarantine.num_rows, "quarantine does not hold what was counted"
        assert self.rows_skipped == sum(self.skipped.values()), "skip classes do not add up"


def to_ledger(
    batch: BillBatch | pa.Table,
    options: IngestOptions | None = None,
    *,
    seen: Seen | None = None,
    window: tuple[int, int] | None = None,
    undated: int = NO_HOUR,
) -> IngestResult:
    """Turn rows in the normal form into ledger rows.

    ``batch`` may be a table alone, then without a label, rows that could not be read and raw rows. ``seen`` carries
    what was seen before, over batches. ``window`` (µs, whole hours) keeps only slices that start in it; the rest
    belong to other partitions. ``undated`` (µs) is the hour given to quarantined rows that claim none.
    """
    options = options or IngestOptions()
    seen = seen or Seen()
    batch = batch if isinstance(batch, BillBatch) else BillBatch("", batch)
    normal = batch.normal
    sorting, resources = sort_rows(normal, options.instances, window)
    free = normal if sorting.free.all() else normal.filter(pa.array(sorting.free))
    keys = line_keys(free, rest=seen.lines.order is not None)
    ordinal = sorting.skip_duplicates(keys, seen.lines)

    rows = np.flatnonzero(sorting.free)
    kept = normal if len(rows) == normal.num_rows else normal.take(pa.array(rows))
    still = sorting.kept_among_keyed
    key = key_parts(keys, ordinal).filter(pa.array(still)) if not still.all() else key_parts(keys, ordinal)
    ledger = _Ledger(kept, resources.take(rows), options, window)

    refused, bills, refused_at = refused_rows(batch, sorting)
    quarantine = quarantine_table(bills, refused, undated, seen.refused)
    skipped = sorting.skip_counts()
    return IngestResult(
        ledger=ledger.table(key),
        quarantine=quarantine,
        skipped=skipped,
        rows_read=batch.rows_read,
        rows_ledger=len(rows),
        rows_quarantined=quarantine.num_rows,
        rows_skipped=sum(skipped.values()),
        counts=counts(batch, sorting),
        ledger_at=ledger.positions(),
        quarantine_at=refused_at,
    )


class _Ledger:
    """Ledger rows of the rows that stay."""

    def __init__(
        self, normal: pa.Table, resources: Resources, options: IngestOptions, window: tuple[int, int] | None
    ) -> None:
        self.normal = normal
        self.resources = resources
        self.options = options
        self.start, _ = microseconds(normal.column("ChargePeriodStart"))
        self.end, _ = microseconds(normal.column("ChargePeriodEnd"))
        self.slices = cut(self.start, self.end, shape_weights(options.load_shape))
        if window is not None:
            keep = (self.slices.start >= window[0]) & (self.slices.start < window[1])
            self.slices = self.slices if keep.all() else self.slices.select(keep)
        self.whole = len(self.slices) == normal.num_rows and bool((np.diff(self.slices.row) == 1).all())

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Row totals as slice amounts."""
        if self.whole:
            return values * self.slices.share
        return values[self.slices.row] * self.slices.share

    def repeat(self, values: np.ndarray) -> np.ndarray:
        """Row figures on each slice."""
        return values if self.whole else values[self.slices.row]

    def text(self, values: pa.Array) -> pa.Array:
        """Row texts on each slice."""
        found = values if self.whole else values.take(pa.array(self.slices.row))
        return found.cast(pa.string())

    def positions(self) -> pa.Table:
        """Where the raw record of each slice stands."""
        at = positions(self.normal)
        return at if self.whole else at.take(pa.array(self.slices.row))

    def table(self, key: pa.Array) -> pa.Table:
        normal, r = self.normal, self.resources
        rows = normal.num_rows
        if not rows:
            return ACTIVITY_LEDGER.empty()
        flags = one_chunk(normal.column("x_Flags")).to_numpy(zero_copy_only=False).astype(np.uint32)
        region, region_flags = _regions(normal)
        owners = map_owners(normal, region, self.options.mapping)
        cost, currency, usd, cost_flags = _costs(normal, self.options)
        amounts = r.amounts(self.start, self.end)
        correction = is_correction(normal)
        negative = amounts.base < 0
        flags |= region_flags | cost_flags | amounts.flags | owners.flags[owners.group]
        flags[negative & ~correction] |= int(Flag.NEGATIVE_USAGE)
        flags[self.end - self.start > HOUR_US] |= int(Flag.SHAPED)
        period = (self.end - self.start) / HOUR_US
        one_resource = as_dictionary(normal.column("ResourceId")).is_valid().to_numpy(zero_copy_only=False)
        flags[one_resource & r.hourly & (np.abs(amounts.base) > period * _SLACK)] |= int(Flag.USAGE_EXCEEDS_PERIOD)
        refs = record_refs(as_dictionary(normal.column("x_Bill")).cast(pa.string()), key)
        slice_start = pa.array(self.slices.start)
        return ACTIVITY_LEDGER.conform(
            {
                "activity_id": uuid5_column("activity", [self.text(key), slice_start.cast(pa.string())]),
                **self._owned(owners),
                "cloud_provider": self.text(as_dictionary(normal.column("x_Provider"))),
                "region": self.text(region),
                "instance_type": self.text(r.instance_type),
                "resource_type": self.text(r.resource_type),
                "resource_qty": self.spread(amounts.quantity),
                "resource_unit": self.text(amounts.unit),
                "cost_usd": nullable(self.spread(usd)),
                "started_at": instants(self.slices.start),
                "ended_at": instants(self.slices.end),
                "source": take_text(pa.array([SOURCE]), np.zeros(len(self.slices), np.int64)).cast(pa.string()),
                "raw_record_ref": self.text(refs),
                "resource_id": self.text(as_dictionary(normal.column("ResourceId"))),
                "usage_hours": self.spread(amounts.usage_hours),
                "vcpus": nullable(self.repeat(amounts.vcpus)),
                "gpus": nullable(self.repeat(amounts.gpus)),
                "gpu_model": self.text(r.gpu_model),
                "memory_gib": nullable(self.repeat(amounts.memory_gib)),
                "vcpu_hours": nullable(self.spread(amounts.vcpu_hours)),
                "gpu_hours": nullable(self.spread(amounts.gpu_hours)),
                "utilisation": pa.nulls(len(self.slices), pa.float64()),
                "data_gb": nullable(self._data(amounts.data_gb, amounts.held_gb_hours)),
                "billed_cost": nullable(self.spread(cost)),
                "billing_currency": self.text(currency),
                "charge_class": self.text(
                    take_text(pa.array(["usage", "correction"]), (correction | negative).astype(np.int64))
                ),
                "quality": self.text(flag_text(flags)),
                "anomaly": pa.nulls(len(self.slices), pa.string()),
            }
        )

    def _data(self, sent: np.ndarray, held_gb_hours: np.ndarray) -> np.ndarray:
        """GB sent in each slice, or held on average during it."""
        hours = (self.slices.end - self.slices.start) / HOUR_US
        held = self.spread(held_gb_hours) / hours
        return np.where(np.isnan(held), self.spread(sent), held)

    def _owned(self, owners: Owners) -> dict[str, pa.Array]:
        """Owner columns: the mapping first, then what the bill itself names."""
        normal = self.normal

        def own(values: pa.Array, *fallbacks: str, last: str) -> pa.Array:
            found = values.take(pa.array(owners.group))
            for name in fallbacks:
                if not found.null_count:
                    break
                found = pc.coalesce(found, as_dictionary(normal.column(name)).cast(pa.string()))
            return self.text(pc.fill_null(found, last) if found.null_count else found)

        workload = pc.coalesce(owners.workload, owners.service)
        return {
            "job_id": own(owners.job, "ResourceId", "ResourceName", "SkuMeter", "ServiceName", last="unknown"),
            "workload_id": own(workload, "ResourceName", "ResourceId", "ServiceName", last="unknown"),
            "service_name": own(owners.service, "ServiceName", "x_ServiceCode", last="unknown"),
            "team_id": own(owners.team, last=UNMAPPED_TEAM),
            "workload_category": own(owners.category, last="urgent"),
            "service_tier": self.text(owners.tier.take(pa.array(owners.group))),
        }


def _regions(normal: pa.Table) -> tuple[pa.DictionaryArray, np.ndarray]:
    """Region id of each row, and its flags."""
    columns = [as_dictionary(normal.column(n)) for n in ("x_Provider", "RegionId", "AvailabilityZone", "SkuMeter")]
    has_region = columns[1].null_count == 0
    # Zone and meter matter only where the region is missing; leaving them out keeps the combinations few.
    group, first = combinations(columns[:2] if has_region else columns)
    at = pa.array(first)
    texts = [c.take(at).cast(pa.string()).to_pylist() for c in columns]
    found = region_ids(*texts)
    flags = np.array(
        [Flag.UNKNOWN_REGION * unknown | Flag.INFERRED_REGION * inferred for _, unknown, inferred in found], np.uint32
    )
    return take_text(pa.array([name for name, _, _ in found], pa.string()), group), flags[group]


def _costs(normal: pa.Table, options: IngestOptions) -> tuple[np.ndarray, pa.DictionaryArray, np.ndarray, np.ndarray]:
    """Cost in the billing currency, the currency, cost in USD (NaN: unknown), and flags."""
    cost = numbers(normal.column("BilledCost"))
    if options.cost_basis == "effective":
        effective = numbers(normal.column("EffectiveCost"))
        cost = np.where(np.isnan(effective), cost, effective)
    currency = as_dictionary(normal.column("BillingCurrency"))
    rates = {"USD": 1.0} | {k.upper(): v for k, v in options.fx_usd.items()}
    table = np.array([*(rates.get((c or "").upper(), np.nan) for c in currency.dictionary.to_pylist()), np.nan])
    rate = table[codes(currency)]
    own = numbers(normal.column("x_UsdPerUnit"))
    rate = np.where(np.isnan(rate), own, rate)
    flags = np.zeros(len(cost), np.uint32)
    flags[np.isnan(cost)] |= int(Flag.NO_COST)
    flags[np.isnan(rate) & ~np.isnan(cost)] |= int(Flag.NO_FX_RATE)
    return cost, currency, cost * rate, flags

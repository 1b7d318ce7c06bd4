"""From billed rows in the normal form to the activity ledger.

Belongs here: which rows become activity, what they use, and the making of ledger rows. Every input row ends in
exactly one place: ledger, quarantine with a reason, or a skip class with a count. Does not belong here: formats,
files, anything about energy.
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
    rows_as_json,
    take_text,
)
from sust_dagster.agents.ingestor.keys import Duplicates, LineKeys, key_parts, line_keys
from sust_dagster.agents.ingestor.mapping import UNMAPPED_TEAM, MappingRules, Owners, map_owners
from sust_dagster.agents.ingestor.normal_form import CHARGE_KINDS, SOURCE, Flag, Rejects, flag_text
from sust_dagster.agents.ingestor.quarantine import NO_HOUR, quarantine_table, row_refs
from sust_dagster.agents.ingestor.regions import region_ids
from sust_dagster.agents.ingestor.resources import Resources, read_resources
from sust_dagster.agents.ingestor.slices import HOUR_US, cut, shape_weights
from sust_dagster.world.ids import uuid5_column
from sust_dagster.world.schemas import ACTIVITY_LEDGER

_YEAR_2000 = 946_684_800_000_000
_YEAR_2100 = 4_102_444_800_000_000
_LONGEST = 366 * 24 * HOUR_US
_LARGEST_QUANTITY = 1e15
_LARGEST_COST = 1e12
_SLACK = 1.001

#: Rows outside the window that was asked for: they belong to another partition.
OUTSIDE = "outside_window"
DUPLICATE = "duplicate"

COUNTS = pa.schema(
    [
        ("hour", pa.timestamp("us", tz="UTC")),
        ("source_label", pa.string()),
        ("outcome", pa.string()),
        ("class_name", pa.string()),
        ("rows", pa.int64()),
    ]
)


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

    ``ledger`` and ``quarantine`` are in their declared schemas; ``skipped`` counts input rows by class;
    ``counts`` (COUNTS) says the same by hour, file, outcome and class, the hour null where a row claims none.
    """

    ledger: pa.Table
    quarantine: pa.Table
    skipped: dict[str, int]
    rows_read: int
    rows_ledger: int
    rows_quarantined: int
    rows_skipped: int
    counts: pa.Table

    def __post_init__(self) -> None:
        assert self.rows_read == self.rows_ledger + self.rows_quarantined + self.rows_skipped, "rows went missing"
        assert self.rows_quarantined == self.quarantine.num_rows, "quarantine does not hold what was counted"
        assert self.rows_skipped == sum(self.skipped.values()), "skip classes do not add up"


def to_ledger(
    normal: pa.Table,
    options: IngestOptions | None = None,
    *,
    duplicates: Duplicates | None = None,
    window: tuple[int, int] | None = None,
    rejects: Rejects | None = None,
    raw: pa.Table | None = None,
    source_columns: Mapping[str, str] | None = None,
    undated: int = NO_HOUR,
    label: str = "",
) -> IngestResult:
    """Turn rows in the normal form into ledger rows.

    ``duplicates`` carries what was seen before, over batches. ``window`` (µs, whole hours) keeps only slices
    that start in it; the rest belong to other partitions. ``rejects`` are rows the reader could not read;
    ``raw`` the same rows as the file has them and ``source_columns`` their names there, for the quarantine.
    ``undated`` (µs) is the hour given to quarantined rows that claim none, ``label`` the file of ``rejects``.
    """
    options = options or IngestOptions()
    rejects = rejects if rejects is not None else Rejects()
    sorting = _Sorting(normal)
    resources = read_resources(normal, options.instances)
    sorting.skip_by_kind(resources)
    if window is not None:
        sorting.skip_outside(window)
    sorting.check_rows(resources)
    keys = line_keys(normal.filter(pa.array(sorting.free))) if not sorting.free.all() else line_keys(normal)
    ordinal = sorting.skip_duplicates(keys, duplicates or Duplicates())

    rows = np.flatnonzero(sorting.free)
    kept = normal if len(rows) == normal.num_rows else normal.take(pa.array(rows))
    still = sorting.kept_among_keyed
    key = key_parts(keys, ordinal).filter(pa.array(still)) if not still.all() else key_parts(keys, ordinal)
    ledger = _Ledger(kept, resources.take(rows), options, window).table(key)

    bad = _checked_rejects(normal, sorting, raw, source_columns or {})
    quarantine = pa.concat_tables(
        [
            quarantine_table(label, rejects, undated),
            quarantine_table(_labels(normal, sorting.quarantined), bad, undated),
        ]
    )
    skipped = sorting.skip_counts()
    return IngestResult(
        ledger=ledger,
        quarantine=quarantine,
        skipped=skipped,
        rows_read=normal.num_rows + len(rejects),
        rows_ledger=len(rows),
        rows_quarantined=quarantine.num_rows,
        rows_skipped=sum(skipped.values()),
        counts=_counts(normal, sorting, rejects, label),
    )


class _Sorting:
    """Where each row ends: free (so far bound for the ledger), skipped by class, or quarantined by reason."""

    def __init__(self, normal: pa.Table) -> None:
        self.normal = normal
        rows = normal.num_rows
        self.free = np.ones(rows, bool)
        self.quarantined = np.zeros(rows, bool)
        self.reasons: list[tuple[str, str]] = []  # (reason, column of the normal form)
        self.classes: list[str] = []
        self.code = np.full(rows, -1, np.int64)  # position in reasons or classes
        self.start, self.no_start = microseconds(normal.column("ChargePeriodStart"))
        self.end, self.no_end = microseconds(normal.column("ChargePeriodEnd"))
        self.kept_among_keyed = np.ones(0, bool)

    def skip(self, name: str, mask: np.ndarray) -> None:
        mask = mask & self.free
        if mask.any():
            if name not in self.classes:
                self.classes.append(name)
            self.code[mask] = self.classes.index(name)
            self.free &= ~mask

    def reject(self, reason: str, column: str, mask: np.ndarray) -> None:
        mask = mask & self.free
        if mask.any():
            self.reasons.append((reason, column))
            self.code[mask] = len(self.reasons) - 1
            self.quarantined |= mask
            self.free &= ~mask

    def skip_by_kind(self, resources: Resources) -> None:
        kind = as_dictionary(self.normal.column("x_ChargeKind"))
        code = codes(kind)
        for i, name in enumerate(kind.dictionary.to_pylist()):
            if name not in CHARGE_KINDS:
                self.reject("unknown_charge_type", "x_ChargeKind", code == i)
            elif name != "usage":
                self.skip(name, code == i)
        self.reject("unknown_charge_type", "x_ChargeKind", code < 0)
        for name, mask in resources.skips():
            self.skip(name, mask)

    def skip_outside(self, window: tuple[int, int]) -> None:
        dated = ~self.no_start & ~self.no_end
        start, end = np.minimum(self.start, self.end), np.maximum(self.start, self.end)
        inside = (start < window[1]) & ((end > window[0]) | (start >= window[0]))
        self.skip(OUTSIDE, dated & ~inside)

    def check_rows(self, resources: Resources) -> None:
        """Quarantine rows whose figures cannot be activity."""
        self.reject("missing_period", "ChargePeriodStart", self.no_start)
        self.reject("missing_period", "ChargePeriodEnd", self.no_end)
        self.reject("end_before_start", "ChargePeriodEnd", self.end < self.start)
        self.reject("empty_period", "ChargePeriodEnd", self.end == self.start)
        self.reject("time_out_of_range", "ChargePeriodStart", self.start < _YEAR_2000)
        self.reject("time_out_of_range", "ChargePeriodEnd", self.end > _YEAR_2100)
        self.reject("period_too_long", "ChargePeriodEnd", self.end - self.start > _LONGEST)
        quantity = one_chunk(self.normal.column("ConsumedQuantity"))
        missing = quantity.is_null().to_numpy(zero_copy_only=False)
        if missing.any():
            self.skip("cost_correction", missing & is_correction(self.normal))
            self.reject("missing_quantity", "ConsumedQuantity", missing)
        values = np.where(missing, 0.0, numbers(quantity))
        self.reject("not_finite", "ConsumedQuantity", ~np.isfinite(values))
        with np.errstate(over="ignore", invalid="ignore"):
            self.reject("out_of_range", "ConsumedQuantity", np.abs(values * resources.factor) > _LARGEST_QUANTITY)
        for column in ("BilledCost", "EffectiveCost"):
            cost = one_chunk(self.normal.column(column))
            given = cost.is_valid().to_numpy(zero_copy_only=False)
            values = np.where(given, numbers(cost), 0.0)
            self.reject("not_finite", column, ~np.isfinite(values))
            self.reject("out_of_range", column, np.abs(values) > _LARGEST_COST)

    def skip_duplicates(self, keys: LineKeys, duplicates: Duplicates) -> np.ndarray:
        """Skip lines seen before; ``keys`` are of the rows still free. Returns their ordinals."""
        rows = np.flatnonzero(self.free)
        deliveries = one_chunk(self.normal.column("x_Delivery")).to_numpy(zero_copy_only=False)[rows]
        ordinal, seen = duplicates.see(keys, deliveries)
        self.kept_among_keyed = ~seen
        mask = np.zeros(len(self.free), bool)
        mask[rows[seen]] = True
        self.skip(DUPLICATE, mask)
        return ordinal

    def skip_counts(self) -> dict[str, int]:
        skipped = ~self.free & ~self.quarantined
        found = np.bincount(self.code[skipped], minlength=len(self.classes)) if skipped.any() else []
        return {name: int(n) for name, n in zip(self.classes, found, strict=False) if n}


def is_correction(normal: pa.Table) -> np.ndarray:
    """Rows that the bill calls a correction."""
    classes = as_dictionary(normal.column("ChargeClass"))
    hit = [i for i, v in enumerate(classes.dictionary.to_pylist()) if v and v.lower() == "correction"]
    return np.isin(codes(classes), hit)


def _labels(normal: pa.Table, mask: np.ndarray) -> pa.Array:
    return as_dictionary(normal.column("x_File")).filter(pa.array(mask)).cast(pa.string())


def _checked_rejects(
    normal: pa.Table, sorting: _Sorting, raw: pa.Table | None, source_columns: Mapping[str, str]
) -> Rejects:
    """The quarantined rows of a normal table, with the file's own names and texts where ``raw`` has them."""
    rows = np.flatnonzero(sorting.quarantined)
    if not len(rows):
        return Rejects()
    index = pa.array(rows)
    bad = normal.take(index)
    shown = raw.take(index) if raw is not None else bad
    code = sorting.code[rows]
    value = pa.nulls(len(rows), pa.string())
    for i, (_, column) in enumerate(sorting.reasons):
        name = source_columns.get(column, column)
        if name not in shown.column_names:
            name = column if column in shown.column_names else ""
        if name:
            text = pc.cast(one_chunk(shown.column(name)), pa.string())
            value = pc.if_else(pa.array(code == i), text, value)
    names = pa.array([source_columns.get(c, c) for _, c in sorting.reasons])
    return Rejects(
        rows=one_chunk(bad.column("x_Row")),
        reason=pa.array([r for r, _ in sorting.reasons]).take(pa.array(code)),
        column=names.take(pa.array(code)),
        value=value,
        raw=rows_as_json(shown),
        hour=one_chunk(bad.column("ChargePeriodStart")),
    )


def _counts(normal: pa.Table, sorting: _Sorting, rejects: Rejects, label_of_rejects: str) -> pa.Table:
    """Rows by hour claimed, file, outcome and class."""
    outcome = np.where(sorting.free, 0, np.where(sorting.quarantined, 1, 2))
    correction = is_correction(normal) | (numbers(normal.column("ConsumedQuantity")) < 0)
    names = ["usage", "correction", *(r for r, _ in sorting.reasons), *sorting.classes]
    shift = np.where(outcome == 1, 2, 2 + len(sorting.reasons))
    name = np.where(outcome == 0, correction.astype(np.int64), sorting.code + shift)
    hour = np.where(sorting.no_start, np.iinfo(np.int64).min, sorting.start // HOUR_US)
    label = as_dictionary(normal.column("x_File"))
    # Rows of a stream are labelled by their hour; the stream is what is counted.
    streams = pc.replace_substring_regex(label.dictionary, r"/\d{4}-\d{2}-\d{2}T\d{2}$", "")
    label = as_dictionary(pa.DictionaryArray.from_arrays(label.indices, streams).cast(pa.string()))
    tables = [_grouped(hour, label, outcome, take_text(pa.array(names), name))]
    if len(rejects):
        start, missing = microseconds(rejects.hour)
        hour = np.where(missing, np.iinfo(np.int64).min, start // HOUR_US)
        ones = np.ones(len(rejects), np.int64)
        text = take_text(pa.array([label_of_rejects]), ones - 1)
        tables.append(_grouped(hour, text, ones, as_dictionary(rejects.reason)))
    return pa.concat_tables(tables)


def _grouped(hour: np.ndarray, label: pa.DictionaryArray, outcome: np.ndarray, name: pa.DictionaryArray) -> pa.Table:
    distinct, hour_code = np.unique(hour, return_inverse=True)
    hours = pa.DictionaryArray.from_arrays(
        pa.array(hour_code.astype(np.int32)), pa.array([str(h) for h in range(len(distinct))], pa.string())
    )
    outcomes = take_text(pa.array(["ledger", "quarantine", "skipped"]), outcome)
    group, first = combinations([hours, label, outcomes, name])
    at = pa.array(first)
    hour_us = distinct[hour_code[first]] if len(first) else np.zeros(0, np.int64)
    undated = hour_us == np.iinfo(np.int64).min
    return pa.Table.from_arrays(
        [
            instants(np.where(undated, 0, hour_us) * HOUR_US, undated),
            label.take(at).cast(pa.string()),
            outcomes.take(at).cast(pa.string()),
            name.take(at).cast(pa.string()),
            pa.array(np.bincount(group, minlength=len(first)).astype(np.int64)),
        ],
        schema=COUNTS,
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
        label = as_dictionary(normal.column("x_File"))
        refs = row_refs(label.cast(pa.string()), one_chunk(normal.column("x_Row")))
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

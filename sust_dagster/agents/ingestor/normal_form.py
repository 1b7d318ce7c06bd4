"""The normal form of a bill: what every reader produces and the ingestor takes.

Belongs here: the columns (FOCUS names where FOCUS has one, ``x_`` names where it has none), their types and
meaning, the quality flags and the kinds of charge. Does not belong here: any provider's format, any rule.

Text columns are dictionary arrays, because bills repeat themselves: rules then work on the distinct values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.dictionary(pa.int32(), pa.string())
NUMBER = pa.float64()
TIME = pa.timestamp("us", tz="UTC")

#: ``source`` of every row that comes from a bill.
SOURCE = "billing_api"

#: Kinds of charge. Only ``usage`` becomes activity; every other kind is a skip class, counted by its name.
CHARGE_KINDS: Mapping[str, str] = {
    "usage": "something ran, was stored or was sent",
    "purchase": "a commitment or subscription was bought",
    "fee": "recurring or one-time fee, also of commitments",
    "tax": "tax",
    "credit": "credit or promotion",
    "refund": "refund",
    "discount": "discount booked as a line of its own",
    "adjustment": "adjustment or rounding",
    "negation": "counter-entry of usage that a savings plan covers",
    "commitment": "committed amount of a discount, not what was used",
    "unused_commitment": "committed but not used: no energy",
    "capacity_reservation": "total of a capacity reservation; what ran in it is billed on its own lines",
    "unused_capacity_reservation": "reserved capacity on which nothing ran",
    "split_allocation": "share of a machine that another line bills already (containers)",
    "cost_correction": "correction of a cost without any usage",
}


class Flag(IntFlag):
    """What is known to be weak about a row; stored as bits, shown by :func:`flag_text` in this order."""

    NAIVE_TIMESTAMP = 1 << 0
    SHAPED = 1 << 1
    UNKNOWN_INSTANCE = 1 << 2
    UNKNOWN_GPUS = 1 << 3
    DERIVED_VCPUS = 1 << 4
    UNKNOWN_REGION = 1 << 5
    INFERRED_REGION = 1 << 6
    UNKNOWN_UNIT = 1 << 7
    NO_COST = 1 << 8
    NO_FX_RATE = 1 << 9
    UNMAPPED_TEAM = 1 << 10
    NO_TIER = 1 << 11
    UNKNOWN_TIER = 1 << 12
    TIER_TAG_IGNORED = 1 << 13
    CATEGORY_TAG_IGNORED = 1 << 14
    USAGE_EXCEEDS_PERIOD = 1 << 15
    NEGATIVE_USAGE = 1 << 16


#: What each flag means, for the docs and the dashboard.
FLAG_DOCS: Mapping[str, str] = {
    "naive_timestamp": "the bill gives no zone; read as UTC, as the format's specification says",
    "shaped": "a period longer than an hour was spread over its hours by the load shape",
    "unknown_instance": "a machine whose vCPUs neither the bill nor the reference table gives",
    "unknown_gpus": "a GPU machine whose number of GPUs is not known",
    "derived_vcpus": "vCPUs follow from billed memory (serverless), not from the bill",
    "unknown_region": "region missing, or not one the provider has",
    "inferred_region": "region taken from the zone or the usage type, because the region column is empty",
    "unknown_unit": "unit of the quantity not recognised: kept as a count",
    "no_cost": "the bill gives no cost",
    "no_fx_rate": "billed in another currency and no rate given: cost_usd is null",
    "unmapped_team": "no rule and no tag names a team",
    "no_tier": "no tier known: treated as urgent",
    "unknown_tier": "the tier is not in the mapping's table: treated as urgent",
    "tier_tag_ignored": "the tag asks for more freedom than the policy's tier of this service: policy kept",
    "category_tag_ignored": "a tag declares the category itself: ignored, category comes from the tier",
    "usage_exceeds_period": "one resource is billed for more hours than its period has",
    "negative_usage": "negative usage that the bill does not call a correction: booked as one",
}


def flag_text(bits: np.ndarray) -> pa.DictionaryArray:
    """``quality`` texts of flag bits (uint32, one per row): ``ok``, or names joined by ``;``."""
    values, codes = np.unique(bits, return_inverse=True)
    names = [";".join(str(f.name).lower() for f in Flag if int(v) & f) or "ok" for v in values]
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string()))


@dataclass(frozen=True)
class NormalColumn:
    """One column of the normal form."""

    name: str
    type: pa.DataType
    doc: str


COLUMNS: tuple[NormalColumn, ...] = (
    NormalColumn("x_Bill", TEXT, "label of the bill: the file, folder or stream that was named; x_File unless given"),
    NormalColumn("x_File", TEXT, "label of the file or table the row is from"),
    NormalColumn("x_Row", pa.int64(), "number of the data row in it, from 1; the header is not counted"),
    NormalColumn("x_Delivery", pa.int64(), "files delivered together (parts of one export) share a number"),
    NormalColumn("x_Format", TEXT, "recognised format, e.g. focus-1.2, aws-cur, azure-cost-details"),
    NormalColumn("x_Flags", pa.uint32(), "Flag bits found while reading"),
    NormalColumn("x_Provider", TEXT, "aws, gcp, azure, oci, or the provider's name in lower case"),
    NormalColumn("x_ChargeKind", TEXT, "one of CHARGE_KINDS"),
    NormalColumn("ChargeClass", TEXT, "'Correction' or null"),
    NormalColumn("ChargePeriodStart", TIME, "start of the charge period"),
    NormalColumn("ChargePeriodEnd", TIME, "end of the charge period, exclusive"),
    NormalColumn("BilledCost", NUMBER, "cost as invoiced, in BillingCurrency"),
    NormalColumn("EffectiveCost", NUMBER, "cost with commitments amortised, in BillingCurrency"),
    NormalColumn("BillingCurrency", TEXT, "ISO 4217 code"),
    NormalColumn("x_UsdPerUnit", NUMBER, "USD per unit of BillingCurrency where the bill itself says so"),
    NormalColumn("ConsumedQuantity", NUMBER, "what was used, in ConsumedUnit"),
    NormalColumn("ConsumedUnit", TEXT, "unit as the bill writes it, with any multiplier ('10K', '100 Hours')"),
    NormalColumn("BillingAccountId", TEXT, "paying account"),
    NormalColumn("SubAccountId", TEXT, "account, subscription or project that used it"),
    NormalColumn("ServiceName", TEXT, "service as the provider names it"),
    NormalColumn("ServiceCategory", TEXT, "FOCUS service category"),
    NormalColumn("x_ServiceCode", TEXT, "provider's code of the service"),
    NormalColumn("SkuId", TEXT, "provider's SKU id"),
    NormalColumn("SkuPriceId", TEXT, "provider's price id"),
    NormalColumn("SkuMeter", TEXT, "meter: AWS usage type, Azure meter name, GCP SKU description"),
    NormalColumn("x_Operation", TEXT, "AWS operation, Azure meter sub-category"),
    NormalColumn("ChargeDescription", TEXT, "description of the charge"),
    NormalColumn("RegionId", TEXT, "region as the bill writes it"),
    NormalColumn("AvailabilityZone", TEXT, "zone as the bill writes it"),
    NormalColumn("ResourceId", TEXT, "provider's resource id"),
    NormalColumn("ResourceName", TEXT, "name of the resource"),
    NormalColumn("ResourceType", TEXT, "kind of resource"),
    NormalColumn("x_InstanceType", TEXT, "instance or machine type where the bill has a column for it"),
    NormalColumn("x_VCpus", NUMBER, "vCPUs of the resource where the bill says so"),
    NormalColumn("x_MemoryGib", NUMBER, "memory of the resource where the bill says so, GiB"),
    NormalColumn("x_Gpus", NUMBER, "GPUs of the resource where the bill says so"),
    NormalColumn("x_GpuModel", TEXT, "GPU model where the bill says so"),
    NormalColumn("Tags", TEXT, "tags or labels as one JSON object"),
    NormalColumn("x_LineId", pa.string(), "provider's own id of the line and its interval, where there is one"),
    NormalColumn("x_Detail", TEXT, "further text that tells two lines apart (extra information, export time)"),
)

NORMAL: pa.Schema = pa.schema([pa.field(c.name, c.type, metadata={"doc": c.doc}) for c in COLUMNS])

#: Columns that say where a row stands, not what it is: they change without the row changing.
PLACE_COLUMNS = ("x_Bill", "x_File", "x_Row", "x_Delivery")

#: Columns that must hold a value in every row of a normal table.
REQUIRED = ("x_File", "x_Row", "x_Provider", "x_ChargeKind")


class NormalFormError(ValueError):
    """A table is not in the normal form."""


def normal_table(columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> pa.Table:
    """A table in the normal form from the columns given; absent ones are null (flags, delivery: 0; bill: the file).

    Raises :class:`NormalFormError` for an unknown column, a missing required one or a wrong type.
    """
    unknown = set(columns) - set(NORMAL.names)
    if unknown:
        raise NormalFormError(f"unknown columns {sorted(unknown)}; the normal form has {NORMAL.names}")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise NormalFormError(f"columns {missing} are missing; every row needs them")
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for f in NORMAL:
        values = columns.get(f.name)
        if values is None and f.name == "x_Bill":
            values = columns["x_File"]
        if values is None:
            zero = f.name in ("x_Flags", "x_Delivery")
            values = pa.array(np.zeros(rows, f.type.to_pandas_dtype())) if zero else pa.nulls(rows, f.type)
        elif not values.type.equals(f.type):
            values = _fit(values, f)
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=NORMAL)


def _fit(values: pa.Array | pa.ChunkedArray, wanted: pa.Field) -> pa.Array | pa.ChunkedArray:
    try:
        if pa.types.is_dictionary(wanted.type):
            if pa.types.is_dictionary(values.type):
                return values.cast(wanted.type)
            return pc.dictionary_encode(values.cast(pa.string()))
        return values.cast(wanted.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise NormalFormError(f"column {wanted.name}: {error}") from error


def conform(table: pa.Table) -> pa.Table:
    """``table`` with exactly the normal form's columns, in order and type (see :func:`normal_table`)."""
    return normal_table({name: table.column(name) for name in table.column_names}, table.num_rows)


@dataclass(frozen=True)
class Rejects:
    """Input rows that could not be brought into the normal form, one element per row in each field.

    ``rows`` int64 row numbers; ``reason``, ``column``, ``value``, ``raw`` (JSON of the row) strings;
    ``hour`` the start the row claims, or null.
    """

    rows: pa.Array = field(default_factory=lambda: pa.array([], pa.int64()))
    reason: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    column: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    value: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    raw: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    hour: pa.Array = field(default_factory=lambda: pa.array([], TIME))

    def __len__(self) -> int:
        return len(self.rows)

    def with_rows(self, other: Rejects) -> Rejects:
        """These rows and then the other's."""
        if not len(self) or not len(other):
            return self if len(self) else other
        return Rejects(**{name: pa.concat_arrays([mine, getattr(other, name)]) for name, mine in vars(self).items()})

    def filter(self, mask: np.ndarray) -> Rejects:
        """The rows where ``mask`` is true."""
        if mask.all():
            return self
        keep = pa.array(mask)
        return Rejects(**{name: values.filter(keep) for name, values in vars(self).items()})


@dataclass(frozen=True)
class BillBatch:
    """A stretch of one bill: its rows in the normal form, and those that could not be read.

    ``label`` names the file, ``bill`` what was named to be read (a folder of many files is one bill): references
    and counts go by the bill, so that they do not change with the files its rows are spread over. ``raw`` holds
    the same rows as ``normal``, as the file has them, for the quarantine; ``source_columns`` says which column of
    the file a column of the normal form was read from.
    """

    label: str
    normal: pa.Table
    rejects: Rejects = field(default_factory=Rejects)
    raw: pa.Table | None = None
    source_columns: Mapping[str, str] = field(default_factory=dict)
    bill: str = ""

    @property
    def bill_label(self) -> str:
        """The bill's label: the file's own where no other is given."""
        return self.bill or self.label

    @property
    def rows_read(self) -> int:
        """Input rows behind this batch: each is in ``normal`` or in ``rejects``."""
        return self.normal.num_rows + len(self.rejects)

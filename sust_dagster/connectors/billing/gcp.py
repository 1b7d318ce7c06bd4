"""Google Cloud billing exports, standard and detailed: dotted columns, nested records, or records as JSON text.

Belongs here: the export's columns, cost types and labels. Its times are BigQuery timestamps, so UTC.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import nullable, numbers
from sust_dagster.connectors.billing.fields import Column, Fields, choose, coalesce, equals, mapped
from sust_dagster.connectors.billing.formats import Converted, Format
from sust_dagster.connectors.billing.parsing import json_values

#: Cost types and the kind of charge each is.
KINDS = {
    "regular": "usage",
    "tax": "tax",
    "adjustment": "adjustment",
    "rounding_error": "adjustment",
    "rounding error": "adjustment",
    "credit": "credit",
}


def _nested(record: str, name: str, **options: bool) -> Column:
    return Column((f"{record}.{name}", f"{record}_{name}"), **options)


COLUMNS = {
    "start": Column(("usage_start_time",), required=True),
    "end": Column(("usage_end_time",), required=True),
    "service_id": _nested("service", "id"),
    "service": _nested("service", "description"),
    "sku_id": _nested("sku", "id"),
    "sku": _nested("sku", "description"),
    "project": _nested("project", "id"),
    "project_labels": _nested("project", "labels"),
    "labels": Column(("labels",)),
    "resource_tags": Column(("tags",)),
    "system_labels": Column(("system_labels",)),
    "region": _nested("location", "region"),
    "place": _nested("location", "location"),
    "zone": _nested("location", "zone"),
    "cost": Column(("cost",), required=True, many=True),
    "currency": Column(("currency",)),
    "rate": Column(("currency_conversion_rate",)),
    "quantity": _nested("usage", "amount", many=True),
    "unit": _nested("usage", "unit"),
    "cost_type": Column(("cost_type",)),
    "resource_name": _nested("resource", "name"),
    "resource": _nested("resource", "global_name"),
    "account": Column(("billing_account_id",)),
    "export_time": Column(("export_time",)),
    # The records as JSON text, where the export was written so.
    "service_record": Column(("service",)),
    "sku_record": Column(("sku",)),
    "project_record": Column(("project",)),
    "location_record": Column(("location",)),
    "usage_record": Column(("usage",)),
    "resource_record": Column(("resource",)),
}
SHOWN = {
    "ChargePeriodStart": "start",
    "ChargePeriodEnd": "end",
    "ConsumedQuantity": "quantity",
    "BilledCost": "cost",
    "x_ChargeKind": "cost_type",
}
_SYSTEM = "compute.googleapis.com/"
_SYSTEM_KEYS = tuple(_SYSTEM + k for k in ("machine_spec", "cores", "memory"))


def _convert(f: Fields) -> Converted:
    records = {r: _record(f, r) for r in ("service", "sku", "project", "location", "usage", "resource")}

    def text(meaning: str, record: str, key: str) -> pa.DictionaryArray:
        values = f.text(meaning)
        return coalesce(values, records[record][key]) if key in records[record] else values

    kind = mapped(coalesce(f.text("cost_type"), f.constant("regular")), lambda t: KINDS.get(t.lower(), t))
    sku = text("sku", "sku", "description")
    kind = choose(equals(kind, "usage") & _starts(sku, "Commitment"), "commitment", kind)
    labels = f.tags("system_labels")
    system = json_values(labels, _SYSTEM_KEYS)
    region = coalesce(text("region", "location", "region"), text("place", "location", "location"))
    rate = numbers(f.number("rate"))
    quantity = f.number("quantity") if f.has("quantity") else f.number_of(records["usage"].get("amount", f.nothing()))
    return {
        "x_Provider": f.constant("gcp"),
        "x_ChargeKind": kind,
        "ChargePeriodStart": f.time("start"),
        "ChargePeriodEnd": f.time("end"),
        "BilledCost": f.number("cost"),
        "EffectiveCost": f.number("cost"),
        "BillingCurrency": f.text("currency"),
        "x_UsdPerUnit": nullable(np.where(rate > 0, 1 / np.where(rate > 0, rate, 1.0), np.nan)),
        "ConsumedQuantity": quantity,
        "ConsumedUnit": text("unit", "usage", "unit"),
        "BillingAccountId": f.text("account"),
        "SubAccountId": text("project", "project", "id"),
        "ServiceName": text("service", "service", "description"),
        "x_ServiceCode": text("service_id", "service", "id"),
        "SkuId": text("sku_id", "sku", "id"),
        "SkuMeter": sku,
        "ChargeDescription": sku,
        "RegionId": region,
        "AvailabilityZone": text("zone", "location", "zone"),
        "ResourceId": coalesce(text("resource", "resource", "global_name"), text("resource_name", "resource", "name")),
        "ResourceName": text("resource_name", "resource", "name"),
        "x_InstanceType": system[_SYSTEM + "machine_spec"],
        "x_VCpus": f.number_of(system[_SYSTEM + "cores"]),
        "x_MemoryGib": pc.divide(f.number_of(system[_SYSTEM + "memory"]), 1024.0),
        "Tags": f.tags("labels", "resource_tags", "project_labels"),
        # A table that is exported again repeats the export time; usage that arrives later has another.
        "x_Detail": f.text("export_time"),
    }


def _record(f: Fields, name: str) -> dict[str, pa.DictionaryArray]:
    """Values of a record that was written as JSON text."""
    keys = {
        "service": ("id", "description"),
        "sku": ("id", "description"),
        "project": ("id", "name"),
        "location": ("location", "region", "zone"),
        "usage": ("amount", "unit"),
        "resource": ("name", "global_name"),
    }[name]
    return f.json(f"{name}_record", keys) if f.has(f"{name}_record") else {}


def _starts(values: pa.DictionaryArray, prefix: str) -> np.ndarray:
    hit = mapped(values, lambda v: "y" if v.startswith(prefix) else None)
    return hit.is_valid().to_numpy(zero_copy_only=False)


def _name(names: frozenset[str]) -> str:
    detailed = any(n in ("resource", "resource.name", "resourcename", "resource.globalname") for n in names)
    return "gcp-detailed" if detailed else "gcp-standard"


FORMAT = Format(
    name=_name,
    is_ours=lambda names: (
        {"usagestarttime", "cost"} <= names
        and any(n in names for n in ("sku.description", "skudescription", "sku", "sku.id"))
    ),
    columns=COLUMNS,
    convert=_convert,
    shown=SHOWN,
)

"""AWS Cost and Usage Reports: the legacy CUR (slash names), its Athena spelling, and CUR 2.0 (snake case, maps).

Belongs here: CUR columns, line item types and tag columns. CUR times are UTC by AWS's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.billing.fields import Column, Fields, choose, coalesce, equals, mapped, present
from sust_dagster.connectors.billing.formats import Converted, Format
from sust_dagster.connectors.billing.tags import tags_of_columns

#: Line item types and the kind of charge each is.
KINDS = {
    "usage": "usage",
    "discountedusage": "usage",
    "savingsplancoveredusage": "usage",
    "fee": "fee",
    "rifee": "fee",
    "tax": "tax",
    "credit": "credit",
    "refund": "refund",
    "savingsplanupfrontfee": "purchase",
    "savingsplanrecurringfee": "purchase",
    "savingsplannegation": "negation",
    "discount": "discount",
    "bundleddiscount": "discount",
    "edpdiscount": "discount",
    "sppdiscount": "discount",
    "privateratediscount": "discount",
    "rivolumediscount": "discount",
    "solutionproviderprogramdiscount": "discount",
    "distributordiscount": "discount",
    "adjustment": "adjustment",
    "roundingadjustment": "adjustment",
}


def _both(group: str, name: str, **options: bool) -> Column:
    """A column in its three spellings: ``group/name``, ``group_name`` and the snake case of both."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", f"{group}_{name}").lower()
    return Column((f"{group}/{name}", snake), **options)


COLUMNS = {
    "line_id": _both("identity", "LineItemId", many=True),
    "interval": _both("identity", "TimeInterval"),
    "start": _both("lineItem", "UsageStartDate", required=True),
    "end": _both("lineItem", "UsageEndDate", required=True),
    "type": _both("lineItem", "LineItemType", required=True),
    "cost": _both("lineItem", "UnblendedCost", required=True, many=True),
    "sp_cost": _both("savingsPlan", "SavingsPlanEffectiveCost"),
    "ri_cost": _both("reservation", "EffectiveCost"),
    "currency": _both("lineItem", "CurrencyCode"),
    "quantity": _both("lineItem", "UsageAmount", required=True, many=True),
    "unit": _both("pricing", "unit"),
    "payer": _both("bill", "PayerAccountId"),
    "account": _both("lineItem", "UsageAccountId"),
    "code": _both("lineItem", "ProductCode", required=True),
    "service": Column(("product/ProductName", "product/servicename", "product_product_name", "product_servicename")),
    "family": Column(("product/productFamily", "product_product_family")),
    "sku": Column(("product/sku", "product_sku")),
    "rate": _both("pricing", "RateId"),
    "meter": _both("lineItem", "UsageType"),
    "operation": _both("lineItem", "Operation"),
    "description": _both("lineItem", "LineItemDescription"),
    "region": Column(
        (
            "product/regionCode", "product_region_code", "product/region", "product_region", "product/fromRegionCode",
            "product_from_region_code", "product/location", "product_location",
        )
    ),
    "zone": _both("lineItem", "AvailabilityZone"),
    "resource": _both("lineItem", "ResourceId"),
    "instance_type": Column(("product/instanceType", "product_instance_type")),
    "vcpu": Column(("product/vcpu", "product_vcpu")),
    "memory": Column(("product/memory", "product_memory")),
    "gpu": Column(("product/gpu", "product_gpu")),
    "product": Column(("product",)),
    "parent": Column(("splitLineItem/ParentResourceId", "split_line_item_parent_resource_id")),
    "tag_map": Column(("resource_tags", "tags")),
}  # fmt: skip
SHOWN = {
    "ChargePeriodStart": "start",
    "ChargePeriodEnd": "end",
    "ConsumedQuantity": "quantity",
    "BilledCost": "cost",
    "x_ChargeKind": "type",
}

#: Values of the CUR 2.0 ``product`` map that have no column of their own.
_PRODUCT_KEYS = ("product_name", "servicename", "region", "instance_type", "vcpu", "memory", "gpu")
_TAG = re.compile(r"^(?:resourceTags/|resource_tags_)(?P<key>.+)$")
_GIB = r"^(?P<n>\d+(?:\.\d+)?)"


def _convert(f: Fields) -> Converted:
    product = f.json("product", _PRODUCT_KEYS) if f.has("product") else dict.fromkeys(_PRODUCT_KEYS, f.nothing())
    line_type = f.text("type")
    kind = mapped(line_type, lambda t: KINDS.get(t.replace(" ", "").lower(), t))
    kind = choose(equals(kind, "usage") & present(f.text("parent")), "split_allocation", kind)
    service = coalesce(coalesce(f.text("service"), product["product_name"]), product["servicename"])
    code = f.text("code")
    cost = f.number("cost")
    return {
        "x_Provider": f.constant("aws"),
        "x_ChargeKind": kind,
        "ChargePeriodStart": f.time("start"),
        "ChargePeriodEnd": f.time("end"),
        "BilledCost": cost,
        "EffectiveCost": _effective(f, line_type, cost),
        "BillingCurrency": f.text("currency"),
        "ConsumedQuantity": f.number("quantity"),
        "ConsumedUnit": f.text("unit"),
        "BillingAccountId": f.text("payer"),
        "SubAccountId": f.text("account"),
        "ServiceName": coalesce(service, code),
        "ServiceCategory": f.text("family"),
        "x_ServiceCode": code,
        "SkuId": f.text("sku"),
        "SkuPriceId": f.text("rate"),
        "SkuMeter": f.text("meter"),
        "x_Operation": f.text("operation"),
        "ChargeDescription": f.text("description"),
        "RegionId": coalesce(f.text("region"), product["region"]),
        "AvailabilityZone": f.text("zone"),
        "ResourceId": f.text("resource"),
        "x_InstanceType": coalesce(f.text("instance_type"), product["instance_type"]),
        "x_VCpus": f.number_of(coalesce(f.text("vcpu"), product["vcpu"])),
        "x_MemoryGib": f.number_of(coalesce(f.text("memory"), product["memory"]), _GIB),
        "x_Gpus": f.number_of(coalesce(f.text("gpu"), product["gpu"])),
        "Tags": f.tags("tag_map") if f.has("tag_map") else tags_of_columns(f, _TAG),
        "x_LineId": _line_id(f),
    }


def _effective(f: Fields, line_type: pa.DictionaryArray, cost: pa.Array) -> pa.Array:
    """Cost with commitments amortised: what the plan or the reservation costs for this usage."""
    plan, reserved = equals(line_type, "SavingsPlanCoveredUsage"), equals(line_type, "DiscountedUsage")
    if plan.any():
        cost = pc.if_else(pa.array(plan), pc.coalesce(f.number("sp_cost"), cost), cost)
    if reserved.any():
        cost = pc.if_else(pa.array(reserved), pc.coalesce(f.number("ri_cost"), cost), cost)
    return cost


def _line_id(f: Fields) -> pa.Array:
    """Line id and interval in one; null where the report has no ids."""
    line = f.plain("line_id")
    if line.null_count == len(line):
        return line
    line = pc.if_else(pc.equal(line, ""), None, line)
    return pc.binary_join_element_wise(line, pc.fill_null(f.text("interval").cast(pa.string()), ""), "|")


def tag_columns(columns: Sequence[str]) -> list[str]:
    """Columns of the legacy report that hold one tag each."""
    return [c for c in columns if _TAG.match(c)]


def _name(names: frozenset[str]) -> str:
    if "lineitem/usageamount" in names or "lineitem/usagestartdate" in names:
        return "aws-cur"
    return "aws-cur-2" if names & {"product", "resourcetags", "tags"} else "aws-cur-athena"


FORMAT = Format(
    name=_name,
    is_ours=lambda names: (
        any(n.startswith("lineitem/") for n in names)
        or bool(names & {"lineitemusageamount", "lineitemusagestartdate", "lineitemlineitemtype"})
    ),
    columns=COLUMNS,
    convert=_convert,
    shown=SHOWN,
    tag_columns=tag_columns,
)

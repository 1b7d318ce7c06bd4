"""Oracle Cloud cost reports.

Belongs here: the report's columns. Its times are UTC by Oracle's documentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.billing.fields import Column, Fields, choose, coalesce, equals
from sust_dagster.connectors.billing.formats import Converted, Format
from sust_dagster.connectors.billing.tags import tags_of_columns

COLUMNS = {
    "reference": Column(("lineItem/referenceNo",), many=True),
    "tenant": Column(("lineItem/tenantId",)),
    "start": Column(("lineItem/intervalUsageStart",), required=True),
    "end": Column(("lineItem/intervalUsageEnd",), required=True),
    "service": Column(("product/service",), required=True),
    "compartment": Column(("product/compartmentId",)),
    "region": Column(("product/region",)),
    "zone": Column(("product/availabilityDomain",)),
    "resource": Column(("product/resourceId",)),
    "quantity": Column(("usage/billedQuantity", "usage/consumedQuantity"), required=True, many=True),
    "sku": Column(("cost/productSku",)),
    "description": Column(("product/Description",)),
    "cost": Column(("cost/myCost",), required=True, many=True),
    "currency": Column(("cost/currencyCode",)),
    "unit": Column(("cost/billingUnitReadable", "cost/skuUnitDescription")),
    "correction": Column(("lineItem/isCorrection",)),
}
SHOWN = {
    "ChargePeriodStart": "start",
    "ChargePeriodEnd": "end",
    "ConsumedQuantity": "quantity",
    "BilledCost": "cost",
}
_TAG = re.compile(r"^tags/(?P<key>.+)$")


def _convert(f: Fields) -> Converted:
    reference = f.plain("reference")
    line = pc.binary_join_element_wise(
        pc.if_else(pc.equal(reference, ""), None, reference), pc.fill_null(f.text("start").cast(pa.string()), ""), "|"
    )
    cost = f.number("cost")
    return {
        "x_Provider": f.constant("oci"),
        "x_ChargeKind": f.constant("usage"),
        "ChargeClass": choose(equals(f.text("correction"), "true"), "Correction", f.nothing()),
        "ChargePeriodStart": f.time("start"),
        "ChargePeriodEnd": f.time("end"),
        "BilledCost": cost,
        "EffectiveCost": cost,
        "BillingCurrency": f.text("currency"),
        "ConsumedQuantity": f.number("quantity"),
        "ConsumedUnit": f.text("unit"),
        "BillingAccountId": f.text("tenant"),
        "SubAccountId": coalesce(f.text("compartment"), f.text("tenant")),
        "ServiceName": f.text("service"),
        "SkuId": f.text("sku"),
        "SkuMeter": f.text("description"),
        "ChargeDescription": f.text("description"),
        "RegionId": f.text("region"),
        "AvailabilityZone": f.text("zone"),
        "ResourceId": f.text("resource"),
        "Tags": tags_of_columns(f, _TAG),
        "x_LineId": line,
    }


def _tag_columns(columns: Sequence[str]) -> list[str]:
    return [c for c in columns if _TAG.match(c)]


FORMAT = Format(
    name=lambda _: "oci-cost-report",
    is_ours=lambda names: "lineitem/intervalusagestart" in names,
    columns=COLUMNS,
    convert=_convert,
    shown=SHOWN,
    tag_columns=_tag_columns,
)

"""Azure cost details: EA and MCA, actual and amortised, newer and older headers, pay-as-you-go usage files.

Belongs here: the header variants, charge types, dates and additional information. A row is a day, and Azure's days
are UTC days. The order of slashed dates follows the exporter's locale: it is decided per file, from the billing
period first, and never guessed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import nullable, numbers
from sust_dagster.agents.ingestor.slices import HOUR_US
from sust_dagster.connectors.billing.fields import Column, Fields, choose, coalesce, equals, mapped
from sust_dagster.connectors.billing.formats import Converted, Format

_DAY = pa.scalar(24 * HOUR_US, pa.duration("us"))

#: Charge types and the kind of charge each is. Older files have no such column: they hold usage only.
KINDS = {
    "usage": "usage",
    "purchase": "purchase",
    "refund": "refund",
    "tax": "tax",
    "credit": "credit",
    "adjustment": "adjustment",
    "roundingadjustment": "adjustment",
    "unusedreservation": "unused_commitment",
    "unusedsavingsplan": "unused_commitment",
}

COLUMNS = {
    "date": Column(("Date", "UsageDateTime", "UsageDate", "UsageStartDate"), required=True),
    "period_start": Column(("BillingPeriodStartDate", "BillingPeriodStart", "ServicePeriodStartDate")),
    "period_end": Column(("BillingPeriodEndDate", "BillingPeriodEnd", "ServicePeriodEndDate", "BillingPeriod")),
    "charge_type": Column(("ChargeType",)),
    "cost": Column(("CostInBillingCurrency", "Cost", "PreTaxCost", "ExtendedCost"), required=True, many=True),
    "cost_usd": Column(("CostInUsd",), many=True),
    "currency": Column(("BillingCurrency", "BillingCurrencyCode", "Currency", "CurrencyCode")),
    "quantity": Column(("Quantity", "UsageQuantity", "ConsumedQuantity"), many=True),
    "unit": Column(("UnitOfMeasure", "Unit")),
    "billing_account": Column(("BillingAccountId", "EnrollmentNumber")),
    "account": Column(("SubscriptionId", "SubscriptionGuid")),
    "category": Column(("MeterCategory",), required=True),
    "subcategory": Column(("MeterSubCategory", "MeterSubcategoryName")),
    "meter": Column(("MeterName",)),
    "meter_id": Column(("MeterId", "ResourceGuid")),
    "family": Column(("ServiceFamily",)),
    "consumed_service": Column(("ConsumedService", "ConsumedServiceId")),
    "product": Column(("ProductName", "Product")),
    "region": Column(("ResourceLocation", "Location", "ResourceLocationNormalized", "MeterRegion")),
    "zone": Column(("AvailabilityZone",)),
    "resource": Column(("ResourceId", "InstanceId", "InstanceName")),
    "resource_name": Column(("ResourceName",)),
    "group": Column(("ResourceGroup", "ResourceGroupName")),
    "additional": Column(("AdditionalInfo",)),
    "reservation": Column(("ReservationId",)),
    "benefit": Column(("BenefitId",)),
    "model": Column(("PricingModel",)),
    "tags": Column(("Tags",)),
}
SHOWN = {
    "ChargePeriodStart": "date",
    "ChargePeriodEnd": "date",
    "ConsumedQuantity": "quantity",
    "BilledCost": "cost",
    "x_ChargeKind": "charge_type",
}
#: Columns that prove the order of slashed dates, best first.
DATE_COLUMNS = ("period_end", "period_start", "date")


def _convert(f: Fields) -> Converted:
    start = f.time("date")
    day = pc.floor_temporal(start, unit="day")
    kind = mapped(
        coalesce(f.text("charge_type"), f.constant("usage")), lambda t: KINDS.get(t.replace(" ", "").lower(), t)
    )
    resource = f.text("resource")
    reserved = mapped(resource, lambda r: "y" if "/capacityreservationgroups/" in r.lower() else None)
    kind = choose(
        equals(kind, "usage") & reserved.is_valid().to_numpy(zero_copy_only=False), "unused_capacity_reservation", kind
    )
    info = f.json("additional", ("ServiceType", "VCPUs", "vCores"))
    size = mapped(info["ServiceType"], lambda s: s if s.startswith(("Standard_", "Basic_", "Internal_")) else None)
    cost, usd = f.number("cost"), numbers(f.number("cost_usd"))
    billed = numbers(cost)
    given = np.isfinite(usd) & np.isfinite(billed) & (billed != 0)
    with np.errstate(over="ignore"):
        rate = np.where(given, usd / np.where(given, billed, 1.0), np.nan)
    return {
        "x_Provider": f.constant("azure"),
        "x_ChargeKind": kind,
        "ChargePeriodStart": day,
        "ChargePeriodEnd": pc.add(day, _DAY),
        "BilledCost": cost,
        "EffectiveCost": cost,
        "BillingCurrency": f.text("currency"),
        "x_UsdPerUnit": nullable(np.where(rate > 0, rate, np.nan)),
        "ConsumedQuantity": f.number("quantity"),
        "ConsumedUnit": f.text("unit"),
        "BillingAccountId": f.text("billing_account"),
        "SubAccountId": f.text("account"),
        "ServiceName": f.text("category"),
        "ServiceCategory": f.text("family"),
        "x_ServiceCode": f.text("consumed_service"),
        "SkuId": f.text("meter_id"),
        # Reserved and on-demand hours of one resource are two lines of a day.
        "SkuPriceId": coalesce(coalesce(f.text("benefit"), f.text("reservation")), f.text("model")),
        "SkuMeter": f.text("meter"),
        "x_Operation": f.text("subcategory"),
        "ChargeDescription": f.text("product"),
        "RegionId": f.text("region"),
        "AvailabilityZone": f.text("zone"),
        "ResourceId": resource,
        "ResourceName": f.text("resource_name"),
        "ResourceType": f.text("group"),
        "x_InstanceType": size,
        "x_VCpus": f.number_of(coalesce(info["VCPUs"], info["vCores"])),
        "Tags": f.tags("tags"),
        "x_Detail": f.text("additional"),
    }


FORMAT = Format(
    name=lambda names: "azure-cost-details" if names & {"chargetype", "frequency"} else "azure-usage",
    is_ours=lambda names: (
        "metercategory" in names and bool(names & {"date", "usagedatetime", "usagedate", "quantity", "consumedservice"})
    ),
    columns=COLUMNS,
    convert=_convert,
    shown=SHOWN,
)

"""FOCUS 1.0 to 1.3, as the providers and the simulated cloud write it.

Belongs here: FOCUS columns and their way into the normal form. FOCUS times are UTC by its specification, so a time
without a zone is read as UTC and flagged.
"""

from __future__ import annotations

from sust_dagster.connectors.billing.fields import Column, Fields, choose, coalesce, equals, mapped
from sust_dagster.connectors.billing.formats import Converted, Format

_PROVIDERS = {
    "aws": "aws",
    "amazon": "aws",
    "amazon web services": "aws",
    "microsoft": "azure",
    "microsoft azure": "azure",
    "azure": "azure",
    "google": "gcp",
    "google cloud": "gcp",
    "google cloud platform": "gcp",
    "gcp": "gcp",
    "oracle": "oci",
    "oracle cloud": "oci",
    "oracle cloud infrastructure": "oci",
    "oci": "oci",
}
_KINDS = {
    "usage": "usage",
    "purchase": "purchase",
    "tax": "tax",
    "credit": "credit",
    "adjustment": "adjustment",
    "refund": "refund",
    "fee": "fee",
    "discount": "discount",
}
_SINCE = (
    ("1.3", ("allocatedmethodid", "allocatedresourceid", "contractapplied", "serviceprovidername", "hostprovidername")),
    ("1.2", ("pricingcurrency", "invoiceid", "billingaccounttype", "subaccounttype", "pricingcurrencyeffectivecost")),
    ("1.1", ("skumeter", "skupricedetails", "servicesubcategory", "capacityreservationid", "commitmentdiscountunit")),
)

COLUMNS = {
    "start": Column(("ChargePeriodStart",), required=True),
    "end": Column(("ChargePeriodEnd",), required=True),
    "category": Column(("ChargeCategory",), required=True),
    "class": Column(("ChargeClass",)),
    "billed": Column(("BilledCost",), required=True, many=True),
    "effective": Column(("EffectiveCost",), many=True),
    "currency": Column(("BillingCurrency",)),
    "quantity": Column(("ConsumedQuantity",), required=True, many=True),
    "unit": Column(("ConsumedUnit",)),
    "billing_account": Column(("BillingAccountId",)),
    "account": Column(("SubAccountId",)),
    "provider": Column(("ProviderName", "ServiceProviderName", "HostProviderName", "PublisherName")),
    "service": Column(("ServiceName",), required=True),
    "service_category": Column(("ServiceCategory",)),
    "service_code": Column(("x_ServiceCode", "x_ServiceId")),
    "sku": Column(("SkuId",)),
    "sku_price": Column(("SkuPriceId",)),
    "meter": Column(("SkuMeter", "x_UsageType", "x_SkuMeterName")),
    "operation": Column(("x_Operation", "x_SkuMeterSubcategory")),
    "description": Column(("ChargeDescription",)),
    "region": Column(("RegionId",)),
    "zone": Column(("AvailabilityZone",)),
    "resource": Column(("ResourceId",)),
    "resource_name": Column(("ResourceName",)),
    "resource_type": Column(("ResourceType",)),
    "details": Column(("SkuPriceDetails",)),
    "more_details": Column(("x_SkuDetails",)),
    "commitment_status": Column(("CommitmentDiscountStatus",)),
    "reservation_status": Column(("CapacityReservationStatus",)),
    "tags": Column(("Tags",)),
}
SHOWN = {
    "ChargePeriodStart": "start",
    "ChargePeriodEnd": "end",
    "ConsumedQuantity": "quantity",
    "BilledCost": "billed",
    "EffectiveCost": "effective",
    "x_ChargeKind": "category",
}

_SIZES = (
    "InstanceType",
    "CoreCount",
    "MemorySize",
    "GpuCount",
    "x_GpuModel",
    "GpuModel",
    "x_InstanceType",
    "x_CoreCount",
    "x_GpuCount",
)
_AZURE_SIZES = ("ServiceType", "VCPUs")


def _convert(f: Fields) -> Converted:
    provider = mapped(f.text("provider"), lambda name: _PROVIDERS.get(name.strip().lower(), name.strip().lower()))
    sizes = f.json("details", _SIZES)
    azure = f.json("more_details", _AZURE_SIZES)
    kind = mapped(f.text("category"), lambda c: _KINDS.get(c.strip().lower(), c))
    usage = equals(kind, "usage")
    kind = choose(usage & equals(f.text("commitment_status"), "unused"), "unused_commitment", kind)
    kind = choose(usage & equals(f.text("reservation_status"), "unused"), "unused_capacity_reservation", kind)
    model = coalesce(sizes["x_GpuModel"], sizes["GpuModel"])
    return {
        "x_Provider": coalesce(provider, f.constant("unknown")),
        "x_ChargeKind": kind,
        "ChargeClass": f.text("class"),
        "ChargePeriodStart": f.time("start"),
        "ChargePeriodEnd": f.time("end"),
        "BilledCost": f.number("billed"),
        "EffectiveCost": f.number("effective"),
        "BillingCurrency": f.text("currency"),
        "ConsumedQuantity": f.number("quantity"),
        "ConsumedUnit": f.text("unit"),
        "BillingAccountId": f.text("billing_account"),
        "SubAccountId": f.text("account"),
        "ServiceName": f.text("service"),
        "ServiceCategory": f.text("service_category"),
        "x_ServiceCode": f.text("service_code"),
        "SkuId": f.text("sku"),
        "SkuPriceId": f.text("sku_price"),
        "SkuMeter": f.text("meter"),
        "x_Operation": f.text("operation"),
        "ChargeDescription": f.text("description"),
        "RegionId": f.text("region"),
        "AvailabilityZone": f.text("zone"),
        "ResourceId": f.text("resource"),
        "ResourceName": f.text("resource_name"),
        "ResourceType": f.text("resource_type"),
        "x_InstanceType": coalesce(coalesce(sizes["InstanceType"], sizes["x_InstanceType"]), azure["ServiceType"]),
        "x_VCpus": f.number_of(coalesce(coalesce(sizes["CoreCount"], sizes["x_CoreCount"]), azure["VCPUs"])),
        "x_MemoryGib": f.number_of(sizes["MemorySize"], r"^(?P<n>\d+(?:\.\d+)?)"),
        "x_Gpus": f.number_of(coalesce(sizes["GpuCount"], sizes["x_GpuCount"])),
        "x_GpuModel": model,
        "Tags": f.tags("tags"),
    }


def _name(names: frozenset[str]) -> str:
    for version, columns in _SINCE:
        if names.intersection(columns):
            return f"focus-{version}"
    return "focus-1.0"


FORMAT = Format(
    name=_name,
    is_ours=lambda names: (
        {"chargeperiodstart", "chargecategory"} <= names
        or {"chargeperiodstart", "chargeperiodend", "billedcost"} <= names
    ),
    columns=COLUMNS,
    convert=_convert,
    shown=SHOWN,
)

"""FOCUS 1.2: the columns of the bill and what every row has in common.

Belongs here: the bill's schema and the making of rows from the columns a kind of charge fills. All mandatory
columns of FOCUS 1.2 are there, and the conditional ones of a provider with instances, regions, tags, commitments
and SKUs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from sust_dagster.simulator.arrivals import Ints
from sust_dagster.simulator.clock import TIMESTAMP, hour_timestamps, month_bounds
from sust_dagster.simulator.columns import constant

BILLING_ACCOUNT_ID = "111122223333"
ISSUER = "Amazon Web Services, Inc."

#: Columns of the bill in alphabetical order, as FOCUS files have them.
FOCUS_SCHEMA = pa.schema(
    {
        "AvailabilityZone": pa.string(),
        "BilledCost": pa.float64(),
        "BillingAccountId": pa.string(),
        "BillingAccountName": pa.string(),
        "BillingCurrency": pa.string(),
        "BillingPeriodEnd": TIMESTAMP,
        "BillingPeriodStart": TIMESTAMP,
        "ChargeCategory": pa.string(),
        "ChargeClass": pa.string(),
        "ChargeDescription": pa.string(),
        "ChargeFrequency": pa.string(),
        "ChargePeriodEnd": TIMESTAMP,
        "ChargePeriodStart": TIMESTAMP,
        "CommitmentDiscountCategory": pa.string(),
        "CommitmentDiscountId": pa.string(),
        "CommitmentDiscountName": pa.string(),
        "CommitmentDiscountQuantity": pa.float64(),
        "CommitmentDiscountStatus": pa.string(),
        "CommitmentDiscountType": pa.string(),
        "CommitmentDiscountUnit": pa.string(),
        "ConsumedQuantity": pa.float64(),
        "ConsumedUnit": pa.string(),
        "ContractedCost": pa.float64(),
        "ContractedUnitPrice": pa.float64(),
        "EffectiveCost": pa.float64(),
        "InvoiceId": pa.string(),
        "InvoiceIssuerName": pa.string(),
        "ListCost": pa.float64(),
        "ListUnitPrice": pa.float64(),
        "PricingCategory": pa.string(),
        "PricingQuantity": pa.float64(),
        "PricingUnit": pa.string(),
        "ProviderName": pa.string(),
        "PublisherName": pa.string(),
        "RegionId": pa.string(),
        "RegionName": pa.string(),
        "ResourceId": pa.string(),
        "ResourceName": pa.string(),
        "ResourceType": pa.string(),
        "ServiceCategory": pa.string(),
        "ServiceName": pa.string(),
        "ServiceSubcategory": pa.string(),
        "SkuId": pa.string(),
        "SkuMeter": pa.string(),
        "SkuPriceDetails": pa.string(),
        "SkuPriceId": pa.string(),
        "SubAccountId": pa.string(),
        "SubAccountName": pa.string(),
        "Tags": pa.string(),
    }
)


def bill_rows(hours: Ints, given: Mapping[str, pa.Array]) -> pa.Table:
    """Rows of the bill: the given columns, what every row has in common, and nulls."""
    n = hours.size
    month, following = month_bounds(hours)
    common = {
        "BillingAccountId": constant(BILLING_ACCOUNT_ID, n),
        "BillingAccountName": constant("Example organisation", n),
        "BillingCurrency": constant("USD", n),
        "BillingPeriodStart": hour_timestamps(month),
        "BillingPeriodEnd": hour_timestamps(following),
        "ChargePeriodStart": hour_timestamps(hours),
        "ChargePeriodEnd": hour_timestamps(hours + 1),
        "ChargeFrequency": constant("Usage-Based", n),
        "InvoiceIssuerName": constant(ISSUER, n),
        "ProviderName": constant("AWS", n),
        "PublisherName": constant(ISSUER, n),
    }
    columns = {**common, **given}
    arrays = [columns[f.name] if f.name in columns else pa.nulls(n, f.type) for f in FOCUS_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=FOCUS_SCHEMA)

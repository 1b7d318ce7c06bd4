"""Bills: files, folders and object stores in the providers' formats, and the simulated cloud."""

from __future__ import annotations

from sust_dagster.connectors.billing.errors import BillingError
from sust_dagster.connectors.billing.files import FileBilling, FileInfo, TableBilling, from_arrow
from sust_dagster.connectors.billing.mapping_file import load_mapping
from sust_dagster.connectors.billing.people_csv import escaped_for_people, escaped_text
from sust_dagster.connectors.billing.protocol import BillBatch, BillingSource, Rejects

__all__ = [
    "BillBatch",
    "BillingError",
    "BillingSource",
    "FileBilling",
    "FileInfo",
    "Rejects",
    "TableBilling",
    "escaped_for_people",
    "escaped_text",
    "from_arrow",
    "load_mapping",
]

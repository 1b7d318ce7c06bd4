"""SENSE: from billed usage in normal form to the activity ledger, or to quarantine with a reason."""

from __future__ import annotations

from sust_dagster.agents.ingestor.anomalies import (
    HISTORY,
    HISTORY_COLUMNS,
    ServiceHours,
    cost_spikes,
    freshness,
    gaps,
    mark,
)
from sust_dagster.agents.ingestor.ledger import IngestOptions, IngestResult, OptionError, to_ledger
from sust_dagster.agents.ingestor.mapping import MappingError, MappingRules
from sust_dagster.agents.ingestor.normal_form import NORMAL, BillBatch, Flag, Rejects, normal_table
from sust_dagster.agents.ingestor.pipeline import Ingestion, IngestSummary, RangeResult, ingest, ingest_range
from sust_dagster.agents.ingestor.records import FoundRecord, RecordReferenceError, find_record

__all__ = [
    "HISTORY",
    "HISTORY_COLUMNS",
    "NORMAL",
    "BillBatch",
    "Flag",
    "FoundRecord",
    "IngestOptions",
    "IngestResult",
    "IngestSummary",
    "Ingestion",
    "MappingError",
    "MappingRules",
    "OptionError",
    "RangeResult",
    "RecordReferenceError",
    "Rejects",
    "ServiceHours",
    "cost_spikes",
    "find_record",
    "freshness",
    "gaps",
    "ingest",
    "ingest_range",
    "mark",
    "normal_table",
    "to_ledger",
]

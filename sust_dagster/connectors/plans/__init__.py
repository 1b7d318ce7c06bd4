"""Plain files the planner reads: jobs, prices, capacity, egress, latency.

Belongs here: reading CSV and Parquet into typed tables, each refusal naming file, row, column and fix. Does not belong
here: which values a job may have and what they mean (``agents.planner.jobs`` and ``tables``).
"""

from __future__ import annotations

from sust_dagster.connectors.plans.inputs import (
    PlanFileError,
    read_capacity,
    read_egress,
    read_jobs_file,
    read_latency,
    read_prices,
    told_of,
)

__all__ = ["PlanFileError", "read_capacity", "read_egress", "read_jobs_file", "read_latency", "read_prices", "told_of"]

"""Partitions: the hours, days and weeks of a project, all UTC.

Belongs here: how a project's time becomes Dagster partitions. A simulated project ends, so its partition set
ends with it, whatever today's date is; a live one runs on.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg

from sust_dagster.settings import Project

#: One run covers a whole range of partitions: a month of hours is one run, not 720.
SINGLE_RUN = dg.BackfillPolicy.single_run()


def hourly(project: Project) -> dg.HourlyPartitionsDefinition:
    """Every hour of the project; of a live one, those that are over."""
    ahead = 0
    if project.source == "simulated" and project.end is not None:
        # A simulated cloud has its own clock: its hours are there although ours may not have come to them.
        ahead = max(0, -((datetime.now(UTC) - project.end) // timedelta(hours=1)))
    return dg.HourlyPartitionsDefinition(
        start_date=project.start, end_date=project.end, timezone="UTC", end_offset=ahead
    )


def hour_key(instant: datetime) -> str:
    """Partition key of the hour that starts at ``instant`` (UTC)."""
    return instant.strftime("%Y-%m-%d-%H:%M")


def range_tags(start: datetime, end: datetime) -> dict[str, str]:
    """Run tags that make one run cover the hours of ``[start, end)``."""
    return {
        "dagster/asset_partition_range_start": hour_key(start),
        "dagster/asset_partition_range_end": hour_key(end - timedelta(hours=1)),
    }

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


def daily(project: Project) -> dg.DailyPartitionsDefinition:
    """Every day that begins within the project's hours; of a live project, up to today: its plan is made at 03:00."""
    first = project.start.replace(hour=0)
    if first < project.start:
        first += timedelta(days=1)
    # The day the project ends in is a day of it.
    last = None if project.end is None else (project.end + timedelta(hours=23)).replace(hour=0)
    ahead = 1
    if project.source == "simulated" and last is not None:
        ahead = max(1, -((datetime.now(UTC) - last) // timedelta(days=1)))
    return dg.DailyPartitionsDefinition(start_date=first, end_date=last, timezone="UTC", end_offset=ahead)


def days_of(start: datetime, end: datetime) -> list[datetime]:
    """The days of a window of whole days."""
    return [start + timedelta(days=d) for d in range((end - start).days)]


def day_key(day: datetime) -> str:
    """Partition key of a day (UTC)."""
    return day.strftime("%Y-%m-%d")


def hour_key(instant: datetime) -> str:
    """Partition key of the hour that starts at ``instant`` (UTC)."""
    return instant.strftime("%Y-%m-%d-%H:%M")


def range_tags(start: datetime, end: datetime) -> dict[str, str]:
    """Run tags that make one run cover the hours of ``[start, end)``."""
    return key_range_tags(hour_key(start), hour_key(end - timedelta(hours=1)))


def key_range_tags(first: str, last: str) -> dict[str, str]:
    """Run tags that make one run cover the partitions from ``first`` to ``last``, both included."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}

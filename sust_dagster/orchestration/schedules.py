"""Schedules: when the loop's jobs run. Explicit times only; nothing here can multiply runs.

Belongs here: cron expressions and the range each tick covers. Scheduled asset jobs run one partition a tick;
what must catch up asks for a range through run tags.
"""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from sust_dagster.orchestration.executing import EXECUTE_MINUTE
from sust_dagster.orchestration.jobs import RECONCILE_DAYS, AssetJob
from sust_dagster.orchestration.partitions import day_key, key_range_tags, range_tags
from sust_dagster.orchestration.verification_desk import VERIFY_HOUR, days_to_verify
from sust_dagster.settings import Project


def build(project: Project, jobs: dict[str, AssetJob]) -> list[Any]:
    """The schedules of the loop, all UTC."""
    hourly_job = jobs["hourly_sense_and_model"]

    @dg.schedule(
        name="reconcile_late_data",
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        job=hourly_job,
        description=f"Ingest and account for the last {RECONCILE_DAYS} days again, as one run; unchanged hours stay.",
    )
    def reconcile_late_data(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        end = context.scheduled_execution_time.replace(minute=0, second=0, microsecond=0)
        return _range_request(project, end - timedelta(days=RECONCILE_DAYS), end)

    @dg.schedule(
        name="daily_verification",
        cron_schedule=f"0 {VERIFY_HOUR} * * *",
        execution_timezone="UTC",
        job=jobs["daily_verify"],
        description="Days of execution whose data has settled, and the rest of their month: its credit is one total.",
    )
    def daily_verification(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        window = days_to_verify(context.scheduled_execution_time, project.start)
        if window is None:
            return dg.SkipReason("no day of execution has settled yet")
        first, last = window
        tags = key_range_tags(day_key(first), day_key(last))
        return dg.RunRequest(run_key=f"{first:%Y-%m-%d}-{last:%Y-%m-%d}", tags={**tags, "sust/reason": "settled"})

    schedules: list[Any] = [
        dg.build_schedule_from_partitioned_job(
            hourly_job, name="hourly_sense_and_model", minute_of_hour=5, description="The hour that just ended."
        ),
        reconcile_late_data,
        daily_verification,
        dg.build_schedule_from_partitioned_job(
            jobs["daily_plan"],
            name="daily_plan",
            hour_of_day=3,
            description="The plan of the day: forecasts, recommendations, and the decisions that need nobody.",
        ),
        dg.build_schedule_from_partitioned_job(
            jobs["execute_approved"],
            name="daily_execution",
            hour_of_day=3,
            minute_of_hour=EXECUTE_MINUTE,
            description="What is approved by half past three is in place when the plan's first jobs are asked for.",
        ),
        dg.ScheduleDefinition(
            name="daily_checkpoint",
            job=jobs["sign_log_checkpoint"],
            cron_schedule="30 5 * * *",
            execution_timezone="UTC",
            description="After the night's work: a signed head of the transparency log, to be kept elsewhere.",
        ),
        dg.ScheduleDefinition(
            name="compact_lake",
            job=jobs["compact_lake"],
            cron_schedule="15 4 * * 0",
            execution_timezone="UTC",
            description="Once a week, when nothing else writes.",
        ),
    ]
    if "daily_marts" in jobs:
        schedules.append(
            dg.ScheduleDefinition(
                name="daily_marts",
                job=jobs["daily_marts"],
                cron_schedule="45 2 * * *",
                execution_timezone="UTC",
                description="After late data is in, before the plan of the day.",
            )
        )
    return schedules


def _range_request(project: Project, start: datetime, end: datetime) -> dg.RunRequest | dg.SkipReason:
    start = max(start, project.start)
    end = min(end, project.end or end)
    if end <= start:
        return dg.SkipReason(f"the project's hours end at {project.end}")
    tags = {**range_tags(start, end), "sust/reason": "late or revised input"}
    return dg.RunRequest(run_key=f"{start:%Y-%m-%dT%H}-{end:%Y-%m-%dT%H}", tags=tags)

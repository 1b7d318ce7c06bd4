"""Sensors: what cannot wait for a clock.

Belongs here: a plan out of turn for a new workload or a cost spike, the review of decisions whose time has come, the
execution of what people approved, another verification of what rests on data restated since, the alert when a step of
the loop falls silent.
Each asks for at most one run a tick, with a key that names its cause, so that nothing can multiply runs. Does not
belong here: what a trigger is (``agents.planner.triggers``), what a review decides (governance), which outcomes were
restated (``restated``).
"""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from sust_dagster.orchestration.decision_desk import DecisionDesk
from sust_dagster.orchestration.executing import execution_desk
from sust_dagster.orchestration.heartbeats import alert_late
from sust_dagster.orchestration.jobs import AssetJob
from sust_dagster.orchestration.partitions import day_key, key_range_tags
from sust_dagster.orchestration.planning_desk import PLAN_HOUR, PlanningDesk
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.restated import restated

#: Ledger hours looked at for triggers when a sensor starts without a memory.
FIRST_LOOK_HOURS = 6
_PLANNED = ("grid_forecast", "upcoming_jobs", "plan", "decision_events")


def build(jobs: dict[str, AssetJob]) -> list[Any]:
    """The sensors of the loop."""

    @dg.sensor(
        name="plan_on_demand",
        job=jobs["daily_plan"],
        minimum_interval_seconds=600,
        description="A workload not seen before or a cost spike is planned now, not tomorrow at 03:00.",
    )
    def plan_on_demand(
        context: dg.SensorEvaluationContext, project: ProjectResource
    ) -> dg.SensorResult | dg.SkipReason:
        until = project.project.present().replace(minute=0, second=0, microsecond=0)
        since = datetime.fromisoformat(context.cursor) if context.cursor else until - timedelta(hours=FIRST_LOOK_HOURS)
        if since >= until:
            return dg.SkipReason("no hour has ended since the last look")
        found = PlanningDesk(project).triggers(since, until)
        requests = []
        if found and until.hour >= PLAN_HOUR:
            config = {"issued_at": until.isoformat(), "workloads": sorted({t.workload_id for t in found})}
            requests.append(
                dg.RunRequest(
                    run_key=f"plan_on_demand {until.isoformat()}",
                    partition_key=day_key(until),
                    run_config={"ops": {name: {"config": config} for name in _PLANNED}},
                    tags={"sust/reason": "; ".join(f"{t.reason} {t.workload_id}" for t in found)[:500]},
                )
            )
        return dg.SensorResult(run_requests=requests, cursor=until.isoformat())

    @dg.sensor(
        name="review_decisions",
        job=jobs["review_decisions"],
        minimum_interval_seconds=300,
        description="Approves what people have signed, and lets silence and overdue approvals expire.",
    )
    def review_decisions(project: ProjectResource) -> dg.RunRequest | dg.SkipReason:
        now = project.project.present()
        due = DecisionDesk(project.handle("governance")).due(now)
        if not due:
            return dg.SkipReason("nothing proposed or approved has come to its time")
        return dg.RunRequest(run_key=f"review {now.isoformat()}", tags={"sust/reason": f"{len(due)} due"})

    @dg.sensor(
        name="execute_approved",
        job=jobs["execute_approved"],
        minimum_interval_seconds=120,
        description="Carries out what people approve during the day, and finishes what a stopped run left open.",
    )
    def execute_approved(project: ProjectResource) -> dg.RunRequest | dg.SkipReason:
        now = project.project.present()
        desk = execution_desk(project, now)
        waiting = [*desk.due(), *desk.open_intents()]
        if not waiting:
            return dg.SkipReason("nothing is approved and not begun, and nothing begun is open")
        return dg.RunRequest(
            run_key=f"execute {now.isoformat()}",
            partition_key=day_key(now),
            tags={"sust/reason": f"{len(waiting)} approved or open"},
        )

    @dg.sensor(
        name="verify_restated",
        job=jobs["daily_verify"],
        minimum_interval_seconds=600,
        description="Verifies again what rests on data that was restated since, however long ago it was executed.",
    )
    def verify_restated(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SensorResult:
        found = restated(project.project, project.project.present(), context.cursor)
        window = found.days(project.project)
        if window is None:
            unread = len(found.unreadable)
            said = f"; the evidence of {unread} is not there or not what its name says" if unread else ""
            return dg.SensorResult(skip_reason=f"no outcome rests on data restated since{said}", cursor=found.cursor)
        request = dg.RunRequest(
            run_key=f"verify_restated {found.cause}",
            tags={
                **key_range_tags(day_key(window[0]), day_key(window[1])),
                "sust/reason": f"restated since: {found.cause}",
            },
        )
        return dg.SensorResult(run_requests=[request], cursor=found.cursor)

    @dg.sensor(
        name="watch_the_loop",
        minimum_interval_seconds=600,
        description="Raises an alert when a step of the loop is late by its cadence; it starts nothing.",
    )
    def watch_the_loop(context: dg.SensorEvaluationContext, project: ProjectResource) -> dg.SkipReason:
        late = alert_late(project, project.project.present(), context.instance)
        return dg.SkipReason(f"late: {', '.join(late)}" if late else "every step is on time")

    return [plan_on_demand, review_decisions, execute_approved, verify_restated, watch_the_loop]

"""The execution desk of a project: its targets, limits and what is known of its workloads, put together.

Belongs here: the assembly that the ACT asset, the sensor and the command line share. Does not belong here: what is done
with it (``execution_desk``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pyarrow as pa

from sust_dagster.agents.executor.canary import CanaryRules
from sust_dagster.agents.executor.executions import executions_of
from sust_dagster.agents.executor.limits import Limits
from sust_dagster.agents.planner.awaited import awaited
from sust_dagster.connectors.execution import closed_target, targets_of
from sust_dagster.connectors.market import workload_register
from sust_dagster.connectors.metrics.simulated import health_of
from sust_dagster.orchestration.execution_desk import LEASE, ExecutionDesk
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.access import AgentHandle
from sust_dagster.world.books_schema import TABLES_SQL

#: Minute of 03:00 UTC at which what was approved by then is carried out: jobs of the plan begin at 04:00.
EXECUTE_MINUTE = 30


def execution_desk(project: ProjectResource, now: datetime) -> ExecutionDesk:
    """The desk of a project at ``now``, which is also the present of a simulated cloud."""
    settings = project.project
    closed, register = closed_target(settings), workload_register(settings)
    return ExecutionDesk(
        project.handle("executor"),
        {} if closed else targets_of(settings, lambda: now),
        target=settings.execution_target,
        limits=Limits(
            settings.execution_enabled and closed is None,
            (),
            settings.max_changes_per_day,
            settings.max_share_of_workloads_per_day,
            awaited(register),
            settings.seed,
            settings.holdout_share,
        ),
        known_workloads=register.num_rows or None,
        canary=CanaryRules(share=settings.canary_share),
        health=health_of(settings),
        # A simulated clock stands still between a kill and the next start, and there is never a second worker.
        lease=timedelta(0) if settings.source == "simulated" else LEASE,
    )


def execution_rows(handle: AgentHandle, start: datetime, end: datetime) -> pa.Table:
    """EXECUTIONS of the intents about which anything was written in ``[start, end)``, from the books alone."""
    when = TABLES_SQL["outbox"].c.occurred_at
    touched = handle.read_books("outbox", None, when >= start, when < end, columns=["recommendation_id"])
    ids = sorted(set(touched.column("recommendation_id").to_pylist()))
    about = {"recommendation_id": ids}
    return executions_of(handle.read_books("outbox", about), handle.read_books("decision_events", about))

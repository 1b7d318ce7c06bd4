"""The execution desk of a project: its targets, limits and what is known of its workloads, put together.

Belongs here: the assembly that the ACT asset, the sensor and the command line share. Does not belong here: what is done
with it (``execution_desk``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sust_dagster.agents.executor.canary import CanaryRules
from sust_dagster.agents.executor.limits import Limits
from sust_dagster.connectors.execution import closed_target, targets_of
from sust_dagster.connectors.market import workload_register
from sust_dagster.connectors.metrics.simulated import health_of
from sust_dagster.orchestration.execution_desk import LEASE, ExecutionDesk
from sust_dagster.orchestration.resources import ProjectResource

#: Minute of 03:00 UTC at which what was approved by then is carried out: jobs of the plan begin at 04:00.
EXECUTE_MINUTE = 30


def execution_desk(project: ProjectResource, now: datetime) -> ExecutionDesk:
    """The desk of a project at ``now``, which is also the present of a simulated cloud."""
    settings = project.project
    closed = closed_target(settings)
    return ExecutionDesk(
        project.handle("executor"),
        {} if closed else targets_of(settings, lambda: now),
        target=settings.execution_target,
        limits=Limits(
            settings.execution_enabled and closed is None,
            (),
            settings.max_changes_per_day,
            settings.max_share_of_workloads_per_day,
        ),
        known_workloads=workload_register(settings).num_rows or None,
        canary=CanaryRules(share=settings.canary_share),
        health=health_of(settings),
        # A simulated clock stands still between a kill and the next start, and there is never a second worker.
        lease=timedelta(0) if settings.source == "simulated" else LEASE,
    )

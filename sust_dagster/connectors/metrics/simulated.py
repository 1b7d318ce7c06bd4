"""The fake cloud's monitoring: health of a workload in a span of time, as any monitoring would give it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from sust_dagster.agents.executor.canary import Health
from sust_dagster.connectors.sources import fake_cloud
from sust_dagster.settings import Project


def health_of(project: Project) -> Callable[[str, datetime, datetime], Health | None] | None:
    """The project's health source; None where nothing measures it. The cloud is looked at anew at each call."""
    if project.source != "simulated":
        return None

    def health(workload_id: str, start: datetime, end: datetime) -> Health | None:
        found = fake_cloud(project).health(workload_id, start, end)
        return None if found is None else Health(found.p99_ms, found.error_rate, found.samples)

    return health

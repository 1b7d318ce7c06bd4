"""Which outside system carries out a project's approved changes: its settings turned into targets.

Belongs here: the choice, with retries and a breaker around each target. Does not belong here: the targets themselves,
when they are called (the execution desk).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from sust_dagster.connectors.resilience import Resilient
from sust_dagster.connectors.schedulers.placement_file import placements_path
from sust_dagster.connectors.schedulers.simulated import SimulatedScheduler
from sust_dagster.connectors.sources import untouched_cloud
from sust_dagster.connectors.targets import Target
from sust_dagster.settings import Project


def targets_of(project: Project, now: Callable[[], datetime]) -> Mapping[str, Target]:
    """Targets of a project by name; ``now`` is the present of a simulated cloud. None where nothing is carried out."""
    if project.execution_target == "none":
        return {}
    scheduler = SimulatedScheduler(placements_path(project.root), untouched_cloud(project), now)
    return {scheduler.name: Resilient(scheduler)}


def closed_target(project: Project) -> str | None:
    """Why a project's changes cannot be carried out at all; None where they can."""
    if project.execution_target == "none":
        return "execution_target is none: set it in sust.toml to where changes are carried out"
    if project.execution_target == "simulated" and project.source != "simulated":
        return "execution_target is simulated, and this project's cloud is not: set another one in sust.toml"
    return None

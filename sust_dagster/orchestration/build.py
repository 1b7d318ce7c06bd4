"""The assembly of everything Dagster sees.

Belongs here: one function that puts assets, checks, jobs, schedules and resources of a project together. Tests,
the command line and special deployments pass another project or other resources instead of patching.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

# Range backfills and partitioned checks are marked beta; the warning would print once per asset and process.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

from sust_dagster.orchestration import checks, jobs, partitions, schedules, sensors  # noqa: E402
from sust_dagster.orchestration.assets import act, decide, marts, model, sense, verify  # noqa: E402
from sust_dagster.orchestration.io_managers import LakeIOManager  # noqa: E402
from sust_dagster.orchestration.resources import ProjectResource  # noqa: E402
from sust_dagster.settings import Project, load_project  # noqa: E402


def build_defs(
    project: Project | None = None,
    *,
    resources: Mapping[str, Any] | None = None,
    with_marts: bool = True,
) -> dg.Definitions:
    """Definitions of a project (default: the one named by the environment).

    ``resources`` replace the default ones by key. ``with_marts=False`` leaves dbt out: it takes seconds to parse.
    """
    project = project or load_project()
    hourly, daily = partitions.hourly(project), partitions.daily(project)
    world = ProjectResource(root=str(project.root))
    job_list = jobs.build(hourly, daily, with_marts=with_marts)
    by_name = {job.name: job for job in job_list}
    return dg.Definitions(
        assets=[
            *sense.build(hourly),
            *model.build(hourly),
            *decide.build(daily),
            *act.build(daily),
            *verify.build(daily),
            *(marts.build() if with_marts else ()),
        ],
        asset_checks=checks.build(hourly, project),
        jobs=job_list,
        schedules=schedules.build(project, by_name),
        sensors=sensors.build(by_name),
        resources={
            "project": world,
            "lake": LakeIOManager(project=world),
            **({"dbt": marts.dbt_resource()} if with_marts else {}),
            **(resources or {}),
        },
        # Steps take seconds; a process for each would take longer than the work.
        executor=dg.in_process_executor,
    )

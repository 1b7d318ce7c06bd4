"""`sust demo`: a month of a simulated cloud, the whole loop day by day through the Dagster assets.

Belongs here: the order of the demo's stages and how it resumes. A stage that is done is not done again; a run
that was cut off is run again over the hours it had not finished, with the same result.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
from rich.progress import Progress

from sust_dagster.settings import PROJECT_FILE, Project, ProjectError, load_project, simulated_project


@dataclass(frozen=True)
class DemoResult:
    """Where the demo is and what it found."""

    project: Project
    jobs: int
    spend_usd: float
    report: Path
    totals: dict[str, Any]
    scorecard: dict[str, Any]


def prepare(out: Path, days: int, seed: int, replay: str = "") -> Project:
    """The demo's project: the one in ``out`` when it is the same demo (more days extend it), else a new one.

    Raises :class:`ProjectError` when ``out`` holds another project.
    """
    wanted = simulated_project(out, days=days, seed=seed, grid_replay=replay)
    if (out / PROJECT_FILE).exists():
        found = load_project(out)
        if (found.source, found.seed, found.start, found.grid_replay) != ("simulated", seed, wanted.start, replay):
            raise ProjectError(
                f"{out} holds another project (source {found.source}, seed {found.seed}); "
                "give another --out, or the seed it was made with"
            )
        if found.end is not None and wanted.end is not None and found.end > wanted.end:
            raise ProjectError(f"{out} already holds hours up to {found.end}; give --days that reach at least there")
        wanted = found.model_copy(update={"end": wanted.end})  # what was set in its sust.toml stays
    wanted.save()
    return wanted


def run_demo(out: Path, days: int, seed: int, bars: Progress, replay: str = "") -> DemoResult:
    """Run, or resume, the demo in ``out``."""
    project = prepare(out, days, seed, replay)
    task = bars.add_task("simulate the cloud, write jobs.csv", total=days)
    jobs = write_jobs(project, project.start, project.last_hour_end())
    bars.update(task, completed=days)

    # Dagster is imported only now: it takes longer than the simulation.
    from sust_dagster.faces.loop import Loop
    from sust_dagster.faces.report import summary, write_report
    from sust_dagster.faces.runs import open_instance, run_job
    from sust_dagster.faces.scorecard import write_scorecard
    from sust_dagster.orchestration.assets.marts import DBT_PROJECT
    from sust_dagster.orchestration.build import build_defs

    task = bars.add_task("load the definitions", total=1)
    marts = DBT_PROJECT.is_dir()
    defs = build_defs(project, with_marts=marts)
    bars.update(task, completed=1)
    with open_instance(project) as instance:
        task = bars.add_task("the loop: sense, model, decide, act, verify", total=days)
        Loop(project, defs, instance).run(lambda done: bars.advance(task, done))
        # dbt is a process of its own: while it works, the scorecard is counted.
        counting = bars.add_task("write the scorecard", total=1)
        with ThreadPoolExecutor(max_workers=1) as beside:
            counted = beside.submit(write_scorecard, project)
            counted.add_done_callback(lambda _: bars.update(counting, completed=1))
            if marts:
                task = bars.add_task("build and test the marts", total=1)
                run_job(defs, instance, "daily_marts")
                bars.update(task, completed=1)
            card = counted.result()
    task = bars.add_task("draw the report", total=1)
    report = write_report(project, project.root / "report.html", pngs=project.root / "charts")
    bars.advance(task)
    spend = float(pc.sum(jobs.column("cost_usd")).as_py())
    return DemoResult(project, jobs.num_rows, spend, report, summary(project), card)


def write_jobs(project: Project, start: datetime, end: datetime) -> pa.Table:
    """Write ``jobs.csv``: every job the cloud was asked for in ``[start, end)``, as it would run untouched."""
    from sust_dagster.connectors.sources import untouched_cloud

    jobs = untouched_cloud(project).jobs(start, end)
    target = project.root / "jobs.csv"
    temporary = target.with_suffix(".csv.tmp")
    pcsv.write_csv(jobs, temporary)
    temporary.replace(target)
    return jobs

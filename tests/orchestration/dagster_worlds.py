"""Small projects and how the tests run Dagster on them: in this process, on an instance in memory."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.partitions import range_tags
from sust_dagster.settings import SIMULATION_START, Project, simulated_project
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.world.lake import Lake

START = SIMULATION_START
HOUR = timedelta(hours=1)


def simulated(root: Path, *, days: int = 1, **changes: Any) -> Project:
    """A saved project of a simulated cloud."""
    project = simulated_project(root, days=days, seed=42, **changes)
    project.save()
    return project


def billed(root: Path, bill: pa.Table, *, hours: int = 24, **changes: Any) -> Project:
    """A saved project whose activity is a FOCUS bill on disk."""
    path = root.with_name(f"{root.name}-bill.parquet")
    pq.write_table(bill, path)
    given = {"end": START + hours * HOUR, "grid": "static", **changes}
    project = Project(root=root, source="files", billing=[str(path)], start=START, **given)
    project.save()
    return project


def focus_bill(hours: int, *, seed: int = 42) -> pa.Table:
    """What the simulated cloud bills for the first hours."""
    return FakeCloud(seed).focus_rows(START, START + hours * HOUR)


def with_values(table: pa.Table, column: str, rows: Iterable[int], value: Any) -> pa.Table:
    """``table`` with ``column`` set to ``value``, or to its return for the old one, in the given rows."""
    values = table.column(column).to_pylist()
    for row in rows:
        values[row] = value(values[row]) if callable(value) else value
    field = table.schema.field(column)
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))


def run(
    project: Project,
    job: str = "hourly_sense_and_model",
    window: tuple[datetime, datetime] | None = None,
    *,
    tags: dict[str, str] | None = None,
    partition_key: str | None = None,
    defs: dg.Definitions | None = None,
    ok: bool = True,
) -> dg.ExecuteInProcessResult:
    """Run a job over ``window`` in one run; ``ok=False`` returns failures instead of raising them."""
    defs = defs or build_defs(project, with_marts=False)
    given = {**(range_tags(*window) if window else {}), **(tags or {})}
    with dg.DagsterInstance.ephemeral() as instance:
        return defs.resolve_job_def(job).execute_in_process(
            instance=instance, tags=given, partition_key=partition_key, raise_on_error=ok
        )


def fill(project: Project, window: tuple[datetime, datetime] | None = None) -> dg.ExecuteInProcessResult:
    """Install the factors, then sense and model the project's hours (default: all)."""
    defs = build_defs(project, with_marts=False)
    run(project, "factors", defs=defs)
    return run(project, window=window or (project.start, project.last_hour_end()), defs=defs)


def check(project: Project, asset: str, window: tuple[datetime, datetime]) -> dict[str, dg.AssetCheckEvaluation]:
    """Run the checks of an asset over what the lake holds, and nothing else; by name."""
    defs = build_defs(project, with_marts=False)
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [*(defs.assets or ()), *(defs.asset_checks or ())],
            selection=dg.AssetSelection.checks_for_assets(asset),
            resources=dict(defs.resources or {}),
            tags=range_tags(*window),
            instance=instance,
            raise_on_error=False,
        )
    return {e.check_name: e for e in result.get_asset_check_evaluations()}


def materializations(result: dg.ExecuteInProcessResult, asset: str) -> dict[str | None, dict[str, Any]]:
    """Partition → metadata values of what a run materialised of an asset."""
    return {
        e.materialization.partition: {k: v.value for k, v in e.materialization.metadata.items()}
        for e in result.get_asset_materialization_events()
        if e.asset_key == dg.AssetKey(asset)
    }


def lake_of(project: Project) -> Lake:
    return Lake(project.lake_root)

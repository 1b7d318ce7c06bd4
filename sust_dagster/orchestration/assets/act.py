"""ACT: what was approved is carried out, and what became of it is written down.

Belongs here: the asset the executor writes. Its run acts when its days hold the moment of acting, which is now unless
the run says otherwise; a run over past days changes nothing outside and writes their rows again from the books.
"""

from collections import Counter
from datetime import datetime
from typing import Any

import dagster as dg
import pyarrow as pa

from sust_dagster.orchestration.declarations import asset_properties
from sust_dagster.orchestration.executing import execution_desk, execution_rows
from sust_dagster.orchestration.execution_desk import Executed
from sust_dagster.orchestration.io_managers import between, window_of
from sust_dagster.orchestration.partitions import SINGLE_RUN
from sust_dagster.orchestration.previews import show_days, words_table
from sust_dagster.orchestration.resources import ProjectResource


class ExecuteConfig(dg.Config):
    """When to act."""

    at: str = ""
    """Moment of acting, ISO 8601 UTC; empty: the project's present."""


def build(daily: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this step, over the project's days."""

    @dg.asset(
        io_manager_key="lake",
        deps=["decision_events"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        **asset_properties("executions", "executor"),
    )
    def executions(
        context: dg.AssetExecutionContext, project: ProjectResource, config: ExecuteConfig
    ) -> dg.Output[pa.Table]:
        start, end = window_of(context)
        now = datetime.fromisoformat(config.at) if config.at else project.project.present()
        acts = start <= now < end
        done = execution_desk(project, now).execute(now) if acts else Executed()
        rows = execution_rows(project.handle("executor"), start, end)
        table = between(rows, "executed_at", start, end)
        show_days(context, "executions", table, "executed_at")
        return dg.Output(table, metadata={"run_rows": table.num_rows, "acted": acts, **_metadata(done, table)})

    return [executions]


def _metadata(done: Executed, table: pa.Table) -> dict[str, Any]:
    """The attempts of these days by how they ended; of this run how many, and why not the others."""
    ended = Counter(zip(*(table.column(n).to_pylist() for n in ("target", "status")), strict=True))
    return {
        "attempts": words_table(
            ("target", "status", "attempts"), [(*key, n) for key, n in sorted(ended.items())], right=(2,)
        ),
        "executed": len(done.executed),
        "failed": dg.MetadataValue.json(dict(Counter(done.failed.values()))),
        "held": dg.MetadataValue.json(dict(Counter(done.held.values()))),
        "open": len(done.open),
    }

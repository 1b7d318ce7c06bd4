"""The IO manager: a partition, or a whole range of them, to and from the lake.

Belongs here: which rows an asset's window covers and what the commit did, as metadata. Dagster's own Parquet
IO managers handle one partition at a time; a month in one run needs the range.
"""

from datetime import datetime
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.lake import WriteResult

#: Run tag with the reason of a restatement.
REASON_TAG = "sust/reason"
DEFAULT_REASON = "recomputed: an input or a factor changed"


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores an asset's Arrow table in the lake table of the same name, through its agent's handle."""

    project: dg.ResourceDependency[ProjectResource]

    def handle_output(self, context: dg.OutputContext, obj: pa.Table) -> None:
        window = context.asset_partitions_time_window
        result = self.project.handle(context.definition_metadata["agent"]).write_lake(
            context.asset_key.path[-1],
            obj,
            window.start,
            window.end,
            reason=_reason(context),
            run_id=context.run_id,
        )
        context.add_output_metadata(commit_metadata(result))

    def load_input(self, context: dg.InputContext) -> pa.Table:
        window = context.asset_partitions_time_window
        return self.project.handle(context.definition_metadata["agent"]).read_lake(
            context.asset_key.path[-1], window.start, window.end
        )


def _reason(context: dg.OutputContext) -> str:
    return context.step_context.run_tags.get(REASON_TAG, DEFAULT_REASON)


def commit_metadata(result: WriteResult) -> dict[str, Any]:
    """What a write did, for the asset's page."""
    metadata: dict[str, Any] = {
        "lake_version": result.version,
        "committed": result.committed,
        "slots_written": len(result.slots_written),
        "slots_unchanged": result.slots_unchanged,
    }
    if result.restated:
        metadata["restated_slots"] = len(result.restated)
        lines = [
            f"| {r.slot} | `{(r.before or 'none')[:12]}` | `{(r.after or 'none')[:12]}` |" for r in result.restated
        ]
        head = "| slot | before | after |\n|---|---|---|\n"
        metadata["restatements"] = dg.MetadataValue.md(head + "\n".join(lines[:24]))
    return metadata


def between(table: pa.Table, time_column: str, start: datetime, end: datetime) -> pa.Table:
    """Rows whose time lies in ``[start, end)``; the table itself when that is all of it."""
    times, kind = table.column(time_column), pa.timestamp("us", tz="UTC")
    inside = pc.and_(pc.greater_equal(times, pa.scalar(start, kind)), pc.less(times, pa.scalar(end, kind)))
    return table if pc.all(inside).as_py() in (True, None) else table.filter(inside)


def window_of(context: dg.AssetExecutionContext) -> tuple[datetime, datetime]:
    """The half-open UTC range that this run covers."""
    window = context.partition_time_window
    return window.start, window.end

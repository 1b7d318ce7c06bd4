"""MODEL: what the activity emitted, hour by hour, with bounds.

Belongs here: the assets the accountant writes.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant import account
from sust_dagster.agents.accountant.grid import GridDataError
from sust_dagster.agents.accountant.known_good import REACH, stand_in
from sust_dagster.connectors.grid import GridError
from sust_dagster.connectors.grid import hourly as hourly_intensity
from sust_dagster.orchestration.declarations import asset_properties, column_lineage
from sust_dagster.orchestration.io_managers import between, window_of
from sust_dagster.orchestration.partitions import SINGLE_RUN
from sust_dagster.orchestration.previews import by_hour_of_day, line_plot, show, sparkline, top_table
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.schemas import GRID_INTENSITY

GRID_SIGNAL = dg.AssetSpec(
    "grid_signal",
    group_name="cloud",
    description="Grid carbon intensity as published: a file, an annual table, or the simulated grid's signal.",
    kinds={"source"},
)

_LINEAGE = column_lineage(
    {
        "energy_kwh": {
            "activity_ledger": ["vcpu_hours", "gpu_hours", "usage_hours", "utilisation"],
            "emission_factors": ["value"],
        },
        "facility_kwh": {"activity_ledger": ["vcpu_hours", "gpu_hours"], "emission_factors": ["value"]},
        "intensity_kgco2_kwh": {"grid_intensity": ["intensity_kgco2_kwh"]},
        "kg_location": {
            "activity_ledger": ["vcpu_hours", "gpu_hours", "region", "started_at"],
            "grid_intensity": ["intensity_kgco2_kwh"],
            "emission_factors": ["value"],
        },
        "kg_location_lower": {
            "grid_intensity": ["system_rel_lower", "hour_rel_lower"],
            "emission_factors": ["value_lower"],
        },
        "kg_location_upper": {
            "grid_intensity": ["system_rel_upper", "hour_rel_upper"],
            "emission_factors": ["value_upper"],
        },
        "kg_market": {"grid_intensity": ["intensity_kgco2_kwh"], "emission_factors": ["value"]},
        "kg_embodied": {"activity_ledger": ["usage_hours", "instance_type"], "emission_factors": ["value"]},
        "cost_usd": {"activity_ledger": ["cost_usd"]},
    }
)

#: What each partition of the emissions shows, summed.
_SHOWN = (
    "energy_kwh", "kg_location", "kg_location_lower", "kg_location_upper", "kg_market", "kg_embodied", "cost_usd",
)  # fmt: skip


def build(hourly: dg.PartitionsDefinition) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of this step, over the project's hours."""

    @dg.asset(**asset_properties("emission_factors", "accountant"))
    def emission_factors(project: ProjectResource) -> dg.MaterializeResult:
        installed = project.install_factors()
        active = project.factor_store.active(datetime.now(UTC))
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": active.num_rows,
                "activated": installed.activated,
                "waiting_for_review": installed.waiting,
                "unchanged": installed.unchanged,
                "by_type": _counts(active, "factor_type"),
            }
        )

    @dg.asset(
        io_manager_key="lake",
        deps=[GRID_SIGNAL],
        partitions_def=hourly,
        backfill_policy=SINGLE_RUN,
        **asset_properties("grid_intensity", "accountant"),
    )
    def grid_intensity(context: dg.AssetExecutionContext, project: ProjectResource) -> dg.Output[pa.Table]:
        table, about = _intensity(context, project, *window_of(context))
        context.log_event(
            dg.AssetObservation(context.asset_key, metadata={"intensity_by_region": _intensity_plot(table)})
        )
        show(context, "grid_intensity", table, "ts", of_the_run=_grid_metadata(table) | about)
        return dg.Output(table)

    @dg.asset(
        io_manager_key="lake",
        ins={table: dg.AssetIn(metadata={"agent": "accountant"}) for table in ("activity_ledger", "grid_intensity")},
        deps=[emission_factors],
        partitions_def=hourly,
        backfill_policy=SINGLE_RUN,
        **asset_properties("emissions", "accountant"),
    )
    def emissions(
        context: dg.AssetExecutionContext,
        project: ProjectResource,
        activity_ledger: pa.Table,
        grid_intensity: pa.Table,
    ) -> dg.Output[pa.Table]:
        parts = [
            account(
                between(activity_ledger, "started_at", first, last),
                grid_intensity,
                factors,
                method=project.project.method,
                instances=project.instances,
                instruments=project.instruments,
            )
            for first, last, factors in project.factor_epochs(*window_of(context))
        ]
        table = pa.concat_tables(parts)
        show(context, "emissions", table, "started_at", sums=_SHOWN, of_the_run=_emissions_metadata(table))
        return dg.Output(table)

    return [GRID_SIGNAL, emission_factors, grid_intensity, emissions]


def _counts(table: pa.Table, by: str) -> dg.MetadataValue:
    counted = table.group_by(by).aggregate([([], "count_all")]).sort_by(by)
    lines = [f"| {r[by]} | {r['count_all']} |" for r in counted.to_pylist()]
    return dg.MetadataValue.md(f"| {by} | rows |\n|---|---:|\n" + "\n".join(lines))


def _intensity(
    context: dg.AssetExecutionContext, project: ProjectResource, start: datetime, end: datetime
) -> tuple[pa.Table, dict[str, Any]]:
    """The hours as the source gives them; last known good ones stand in for what it does not, each flagged.

    A source that cannot be read or used is an error only where nothing stands in: a project that never had a signal.
    """
    problem: GridError | GridDataError | None = None
    try:
        grid = hourly_intensity(project.grid, start, end, project.regions)
        table, gaps = grid.table, grid.gaps.num_rows
    except (GridError, GridDataError) as error:
        table, gaps, problem = GRID_INTENSITY.empty(), 0, error
        context.log.warning("the grid source gives nothing: %s", error)
    missing = len(project.regions) * ((end - start) // timedelta(hours=1)) - table.num_rows
    added = GRID_INTENSITY.empty()
    if missing > 0:
        stored = project.handle("accountant").read_lake("grid_intensity", start - REACH, start)
        added = stand_in(pa.concat_tables([stored, table]), start, end, project.regions)
    if problem is not None and not added.num_rows:
        raise problem
    keys = [(c, "ascending") for c in ("ts", "region", "signal", "method")]
    whole = pa.concat_tables([table, added]).sort_by(keys) if added.num_rows else table
    return whole, {"gaps": gaps, "last_known_good_hours": added.num_rows, "source_problem": str(problem or "none")}


def _grid_metadata(table: pa.Table) -> dict[str, Any]:
    flagged = pc.sum(pc.not_equal(table.column("quality"), "ok")).as_py() or 0
    return {
        "regions": len(pc.unique(table.column("region"))),
        "mean_g_per_kwh": (pc.mean(table.column("intensity_kgco2_kwh")).as_py() or 0.0) * 1000,
        "flagged_hours": flagged,
    }


def _intensity_plot(table: pa.Table) -> dg.MetadataValue:
    series = {}
    for region in pc.unique(table.column("region")).to_pylist()[:6]:
        rows = table.filter(pc.equal(table.column("region"), region)).sort_by("ts")
        g_per_kwh = pc.multiply(rows.column("intensity_kgco2_kwh"), 1000).to_numpy()
        series[region] = (rows.column("ts").to_numpy(), g_per_kwh)
    return line_plot(series, "gCO2e/kWh")


def _emissions_metadata(table: pa.Table) -> dict[str, Any]:
    return {
        "dagster/column_lineage": _LINEAGE,
        "not_estimated_rows": table.column("kg_location").null_count,
        "kg_by_hour_of_day": sparkline(by_hour_of_day(table, "started_at", "kg_location")),
        "top_teams": top_table(table, "team_id", "kg_location", "kgCO2e"),
    }

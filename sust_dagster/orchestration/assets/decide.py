"""DECIDE: what the next day's jobs should do, who must agree, and what they said.

Belongs here: the assets the planner and governance write. A day's plan is made at 03:00 UTC from what was known then,
for the jobs asked for from 04:00 on until 04:00 of the next day: the hour between is for approval and execution.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from sust_dagster.agents.planner.daily import DayPlan
from sust_dagster.agents.planner.forecast import ForecastError
from sust_dagster.orchestration.declarations import asset_properties, column_lineage
from sust_dagster.orchestration.io_managers import window_of
from sust_dagster.orchestration.partitions import SINGLE_RUN, days_of
from sust_dagster.orchestration.planning_desk import PLAN_HOUR, PlanningDesk
from sust_dagster.orchestration.previews import forecast_plot, show_days, top_table, words_table
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.world.schemas import TABLES

_LINEAGE = column_lineage(
    {
        "est_carbon_delta_kg": {
            "upcoming_jobs": ["it_kw", "expected_count", "duration_hours", "requested_start"],
            "grid_forecast": ["intensity_kgco2_kwh"],
        },
        "est_carbon_delta_kg_lower": {"grid_forecast": ["intensity_p05", "intensity_p95"]},
        "est_carbon_delta_kg_upper": {"grid_forecast": ["intensity_p05", "intensity_p95"]},
        "est_cost_delta_usd": {"upcoming_jobs": ["cost_usd", "data_gb", "expected_count"]},
        "workload_category": {"upcoming_jobs": ["category"]},
    }
)

_LIMITS_KEPT = "plan_keeps_every_limit"


class PlanConfig(dg.Config):
    """A plan out of turn: for a new workload or a cost spike, at another hour than 03:00."""

    issued_at: str = ""
    """Moment of planning, ISO 8601 UTC, a whole hour of the partition's day; empty: 03:00."""
    workloads: list[str] = Field(default_factory=list)
    """Plan these only and keep the day's other recommendations; empty: all."""


def moment_of(day: datetime, config: PlanConfig) -> datetime:
    """When the plan of a day is made. Raises ``ValueError`` for a moment outside the day."""
    if not config.issued_at:
        return day + timedelta(hours=PLAN_HOUR)
    moment = datetime.fromisoformat(config.issued_at)
    if moment.tzinfo is None or not day <= moment < day + timedelta(days=1) or moment.minute or moment.second:
        raise ValueError(f"issued_at={config.issued_at!r} is no whole UTC hour of {day:%Y-%m-%d}")
    return moment


def build(daily: dg.PartitionsDefinition) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The assets of this step, over the project's days."""

    @dg.asset(
        io_manager_key="lake",
        deps=["grid_signal"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        **asset_properties("grid_forecast", "planner"),
    )
    def grid_forecast(
        context: dg.AssetExecutionContext, project: ProjectResource, config: PlanConfig
    ) -> dg.Output[pa.Table]:
        start, end = window_of(context)
        moments = [moment_of(day, config) for day in days_of(start, end)]
        try:
            made = PlanningDesk(project).forecasts(moments)
        except (ForecastError, ArithmeticError, np.linalg.LinAlgError) as error:
            # No reason to plan nothing: the plan takes the newest forecast there is, as long as that is young enough.
            context.log.warning("no forecast can be made: %s", error)
            kept = project.handle("planner").read_lake("grid_forecast", start, end)
            return dg.Output(kept, metadata={"run_rows": kept.num_rows, "problem": str(error)})
        table = _together("grid_forecast", [m.table for m in made])
        context.log_event(dg.AssetObservation(context.asset_key, metadata={"last": forecast_plot(made[-1].table)}))
        missing = pa.concat_tables([m.missing for m in made])
        show_days(context, "grid_forecast", table, "issued_at")
        return dg.Output(
            table,
            metadata={
                "run_rows": table.num_rows,
                "regions": len(pc.unique(table.column("region"))),
                "without_forecast": dg.MetadataValue.json(dict(Counter(missing.column("reason").to_pylist()))),
            },
        )

    @dg.asset(
        io_manager_key="lake",
        deps=["activity_ledger", "emissions"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        **asset_properties("upcoming_jobs", "planner"),
    )
    def upcoming_jobs(
        context: dg.AssetExecutionContext, project: ProjectResource, config: PlanConfig
    ) -> dg.Output[pa.Table]:
        desk = PlanningDesk(project)
        days = days_of(*window_of(context))
        table = _together("upcoming_jobs", [desk.upcoming(day, moment_of(day, config)) for day in days])
        show_days(context, "upcoming_jobs", table, "planned_for")
        return dg.Output(
            table,
            metadata={
                "run_rows": table.num_rows,
                "run_expected_runs": pc.sum(table.column("expected_count")).as_py() or 0.0,
                "expected_by_workload": top_table(table, "workload_id", "expected_count", "runs"),
            },
        )

    @dg.multi_asset(
        name="plan",
        outs={
            table: dg.AssetOut(io_manager_key="lake", **asset_properties(table, "planner"))
            for table in ("recommendations", "placements")
        },
        deps=["grid_forecast", "upcoming_jobs"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        check_specs=[
            dg.AssetCheckSpec(
                _LIMITS_KEPT,
                asset="placements",
                blocking=True,
                description="The plan, replayed hour by hour by code that did not make it, breaks no limit.",
            )
        ],
    )
    def plan(
        context: dg.AssetExecutionContext, project: ProjectResource, config: PlanConfig
    ) -> Iterator[dg.Output[pa.Table] | dg.AssetCheckResult]:
        desk = PlanningDesk(project)
        days = days_of(*window_of(context))
        made = [desk.plan(day, moment_of(day, config), config.workloads) for day in days]
        kept = _of_others(project, days, config)
        recommendations = _together("recommendations", [*kept["recommendations"], *(m.recommendations for m in made)])
        placements = [m.plan.recommended.placements for m in made]
        show_days(context, "recommendations", recommendations, "planned_for")
        yield dg.Output(
            recommendations,
            "recommendations",
            metadata={"dagster/column_lineage": _LINEAGE, **_metadata(made[-1].plan, recommendations)},
        )
        placed = _together("placements", [*kept["placements"], *placements])
        show_days(context, "placements", placed, "planned_for")
        by_region = top_table(placed, "region", "expected_runs", "runs")
        yield dg.Output(placed, "placements", metadata={"run_rows": placed.num_rows, "by_region": by_region})
        broken = [m.plan.violations.filter(m.plan.violations.column("by_plan")) for m in made]
        yield dg.AssetCheckResult(
            asset_key="placements",
            check_name=_LIMITS_KEPT,
            passed=not sum(b.num_rows for b in broken),
            metadata={
                "broken": dg.MetadataValue.json(dict(Counter(k for b in broken for k in b.column("kind").to_pylist()))),
                "days": len(days),
            },
        )

    @dg.asset(
        deps=["recommendations", "placements"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        **asset_properties("decision_events", "governance"),
    )
    def decision_events(
        context: dg.AssetExecutionContext, project: ProjectResource, config: PlanConfig
    ) -> dg.MaterializeResult[None]:
        desk = PlanningDesk(project)
        counts: Counter[str] = Counter()
        for day in days_of(*window_of(context)):
            moment = moment_of(day, config)
            rows = project.handle("planner").read_lake("recommendations", day, day + timedelta(days=1))
            counts["proposed"] += desk.propose(rows, moment)
            reviewed = desk.review(moment)
            counts["approved"] += len(reviewed.approved)
            counts["rejected"] += len(reviewed.rejected)
            counts["expired"] += len(reviewed.expired)
            counts["waiting"] = len(reviewed.waiting)
        return dg.MaterializeResult(metadata=dict(counts))

    return [grid_forecast, upcoming_jobs, plan, decision_events]


def _together(table: str, parts: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables([TABLES[table].empty(), *parts])


def _of_others(project: ProjectResource, days: Sequence[datetime], config: PlanConfig) -> dict[str, list[pa.Table]]:
    """The days' rows of workloads that are not planned again."""
    kept: dict[str, list[pa.Table]] = {"recommendations": [], "placements": []}
    if config.workloads:
        again = pa.array(config.workloads, pa.string())
        for name, parts in kept.items():
            rows = project.handle("planner").read_lake(name, days[0], days[-1] + timedelta(days=1))
            parts.append(rows.filter(pc.invert(pc.is_in(rows.column("workload_id"), again))))
    return kept


def _metadata(last: DayPlan, recommendations: pa.Table) -> dict[str, Any]:
    """What the last day's plan says of itself, and sums over the run; its intervals are added up."""
    sums = ("est_carbon_delta_kg", "est_carbon_delta_kg_lower", "est_carbon_delta_kg_upper", "est_cost_delta_usd")
    gap = last.summary.get("gap")
    return {
        "plan": _plan_table(last.summary),
        "by_workload": top_table(recommendations, "workload_id", "est_carbon_delta_kg", "kgCO2e", ascending=True),
        "run_rows": recommendations.num_rows,
        **{f"run_{name}": pc.sum(recommendations.column(name)).as_py() or 0.0 for name in sums},
        **({"last_day_gap": gap} if gap is not None else {}),
        "last_day": dg.MetadataValue.json(dict(last.summary)),
        "last_day_stay": dg.MetadataValue.json(last.reasons),
        "last_day_left_out": dg.MetadataValue.json(last.recommended.left_out),
    }


def _plan_table(said: Mapping[str, Any]) -> dg.MetadataValue:
    """The last day's plan beside nothing changed and beside a plain region table, and how far it is from the best."""
    names = (("before", "nothing changed"), ("after", "as planned"), ("static_table", "by a table of mean intensities"))
    rows = [
        (words, f"{said[f'kg_{name}']:,.3f}", f"{said[f'cost_usd_{name}']:,.2f}")
        for name, words in names
        if said.get(f"kg_{name}") is not None
    ]
    if not rows:
        return dg.MetadataValue.text("nothing to plan")
    table = words_table(("last day, all known runs", "kgCO2e", "USD"), rows, right=(1, 2))
    proven = "no bound is proven"
    if said.get("gap") is not None:
        percent = f"{100 * said['gap']:.2f} %"
        proven = f"score {said['objective']:,.4g}, no plan below {said['lower_bound']:,.4g}: gap {percent}"
    return dg.MetadataValue.md(f"{table.value}\n\n{said['formulation']} ({said['why']}); {proven}")

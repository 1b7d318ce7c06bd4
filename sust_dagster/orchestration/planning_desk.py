"""A day's planning over the world: what is read, which domain function is called, what is handed on.

Belongs here: the reads behind each step of a plan, through the planner's and governance's handles. The Dagster assets
and `sust plan` on a project share this. Does not belong here: arithmetic (``agents.planner``), storing (the assets).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.grid import GridDataError
from sust_dagster.agents.governance import PolicyVersion, assess
from sust_dagster.agents.governance.planning import day_rules, within_policy
from sust_dagster.agents.planner.awaited import awaited
from sust_dagster.agents.planner.daily import DayPlan, Surroundings, plan_day
from sust_dagster.agents.planner.forecast import HISTORY_DAYS as GRID_HISTORY_DAYS
from sust_dagster.agents.planner.forecast import Forecast, forecasts
from sust_dagster.agents.planner.holdout import planned_and_held_out
from sust_dagster.agents.planner.recommend import proposals
from sust_dagster.agents.planner.triggers import Trigger, triggers
from sust_dagster.agents.planner.upcoming import (
    EMISSIONS_COLUMNS,
    HISTORY_DAYS,
    LEDGER_COLUMNS,
    MOVE_COLUMNS,
    PAST_COLUMNS,
    upcoming_jobs,
)
from sust_dagster.connectors.grid import GridError
from sust_dagster.connectors.grid import hourly as hourly_intensity
from sust_dagster.connectors.market import halvable_types, market_at, workload_register
from sust_dagster.orchestration.decision_desk import DecisionDesk, Reviewed
from sust_dagster.orchestration.policy_desk import PolicyDesk
from sust_dagster.orchestration.policy_seed import seed_policy
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.reference import regions as reference_regions
from sust_dagster.world.decisions import Transition
from sust_dagster.world.schemas import RECOMMENDATIONS

#: Hour of the day (UTC) at which its plan is made.
PLAN_HOUR = 3
#: Hours between the plan and the first job it speaks of: for approval and execution.
LEAD_HOURS = 1
#: Hours ahead that intensity is forecast: jobs of the next day, deferred by a day, and their run.
HORIZON_HOURS = 72
#: Plans so much older than the history may have moved runs into it: a day's plan, and the longest delay.
MOVED_BEFORE = timedelta(days=3)
#: Who proposes.
AUTHOR = "planner"


@dataclass(frozen=True)
class Planned:
    """A day's plan with its risk assessed."""

    plan: DayPlan
    recommendations: pa.Table


class PlanningDesk:
    """What the planner reads and makes for a day. ``moment`` (when the plan is made) is always given: no clock here."""

    def __init__(self, project: ProjectResource) -> None:
        self._project = project
        self._planner = project.handle("planner")

    # -- inputs -------------------------------------------------------------------------------------

    def forecasts(self, moments: Sequence[datetime]) -> list[Forecast]:
        """Forecasts issued at ``moments`` (ascending), each from the grid's hours before it.

        Where the grid's source gives nothing that can be used they rest on the hours that were accounted with: the rows
        say how old the newest is (``stale``, ``last known good``), and regions without enough of them have none.
        """
        begin = moments[0] - timedelta(days=GRID_HISTORY_DAYS)
        try:
            history = hourly_intensity(self._project.grid, begin, moments[-1], self._project.regions).table
        except (GridError, GridDataError):
            history = self._planner.read_lake("grid_intensity", begin, moments[-1])
        return forecasts(history, moments, HORIZON_HOURS, regions=self._project.regions)

    def upcoming(self, day: datetime, moment: datetime) -> pa.Table:
        """Job groups expected from an hour after ``moment`` until 04:00 of the day after ``day``."""
        begin = moment - timedelta(days=HISTORY_DAYS)
        ledger = self._planner.read_lake("activity_ledger", begin, moment, columns=LEDGER_COLUMNS)
        emissions = self._planner.read_lake("emissions", begin, moment, columns=EMISSIONS_COLUMNS)
        first = moment + timedelta(hours=LEAD_HOURS)
        last = day + timedelta(days=1, hours=PLAN_HOUR + LEAD_HOURS)
        earlier = begin - MOVED_BEFORE  # what ran at the history's beginning was planned before it
        past = self._planner.read_lake("upcoming_jobs", earlier, day, columns=PAST_COLUMNS)
        return upcoming_jobs(
            ledger, emissions, self._register, day, first, last, moment, past, self._carried_out(earlier, day)
        )  # fmt: skip

    def _carried_out(self, begin: datetime, end: datetime) -> pa.Table:
        """Placements of the days ``[begin, end)`` that were begun: whether watched still, kept or undone too late, runs
        that are found there were put there.
        """
        placements = self._planner.read_lake("placements", begin, end)
        events = self._planner.read_books("decision_events", {"to_status": "executing"}, columns=["recommendation_id"])
        done = pc.is_in(placements.column("recommendation_id"), events.column("recommendation_id").combine_chunks())
        return placements.filter(done).select(list(MOVE_COLUMNS))

    @cached_property
    def _register(self) -> pa.Table:
        return workload_register(self._project.project)

    # -- plan ---------------------------------------------------------------------------------------

    def policy(self, moment: datetime) -> PolicyVersion:
        """The policy in force; a project without any gets its first."""
        seed_policy(self._project.world, self._project.project, moment)
        return PolicyDesk(self._project.handle("governance")).in_force(moment)

    def plan(self, day: datetime, moment: datetime, workloads: Sequence[str] = ()) -> Planned:
        """The plan of a day from the stored forecasts and groups; ``workloads``: of these only."""
        policy = self.policy(moment)
        asked = self._project.project
        rules = day_rules(policy, self._halvable)
        rules = replace(rules, effort=asked.plan_effort, least_saving_kg=asked.min_saving_kg)
        groups = self._planner.read_lake("upcoming_jobs", day, day + timedelta(days=1))
        if workloads:
            groups = groups.filter(pc.is_in(groups.column("workload_id"), pa.array(list(workloads), pa.string())))
        earliest = moment - timedelta(hours=rules.max_forecast_age_hours)
        forecasts = self._planner.read_lake("grid_forecast", earliest, day + timedelta(days=1))
        groups = within_policy(groups, policy.policy, self._project.regions)
        groups, stay = planned_and_held_out(groups, asked.seed, asked.holdout_share)
        made = plan_day(groups, forecasts, self._surroundings(moment), rules, day, moment)
        made = replace(made, reasons=made.reasons | ({"held_out": stay} if stay else {}))
        assessed = assess(made.recommended.recommendations, policy, self._precedents(moment))
        return Planned(made, RECOMMENDATIONS.conform(assessed))

    def _surroundings(self, moment: datetime) -> Surroundings:
        market = market_at(self._project.project, moment)
        _, _, factors = next(iter(self._project.factor_epochs(moment, moment + timedelta(hours=1))))
        return Surroundings(
            regions=reference_regions().select(["region", "provider", "continent"]),
            factors=factors,
            method=self._project.project.method,
            prices=market.prices,
            prices_are_levels=market.prices_are_levels,
            spot=market.spot,
            egress=market.egress,
            latency=market.latency,
            capacity=market.capacity,
            closed=market.closed,
            awaited=frozenset(awaited(self._register)),
        )

    @cached_property
    def _halvable(self) -> frozenset[str]:
        return halvable_types()

    def _precedents(self, moment: datetime) -> dict[str, int]:
        # What is approved at that very moment, by a run that is done again, is no precedent of itself.
        return DecisionDesk(self._project.handle("governance")).precedents(moment)

    # -- decisions ----------------------------------------------------------------------------------

    def propose(self, recommendations: pa.Table, moment: datetime) -> int:
        """Propose what was not proposed before; how many of them were new."""
        policy = self.policy(moment).version
        ids = recommendations.column("recommendation_id").to_pylist()
        known = self._planner.read_books("decision_events", {"recommendation_id": ids}, columns=["recommendation_id"])
        before = set(known.column("recommendation_id").to_pylist())
        wanted = [
            Transition(
                row["recommendation_id"],
                "proposed",
                row["rationale_text"],
                plan_hash=row["plan_hash"],
                policy_version=policy,
                payload=row,
            )
            for row in proposals(recommendations, AUTHOR)
            if row["recommendation_id"] not in before
        ]
        return sum(decided.appended for decided in self._planner.transitions(wanted, now=moment))

    def review(self, moment: datetime) -> Reviewed:
        """Governance's decisions on everything proposed."""
        return DecisionDesk(self._project.handle("governance")).review(moment)

    # -- triggers -----------------------------------------------------------------------------------

    def triggers(self, since: datetime, until: datetime) -> list[Trigger]:
        """What the ledger's hours ``[since, until)`` hold that a plan should not wait a day for."""
        columns = ["workload_id", "started_at", "anomaly"]
        begin = until - timedelta(days=HISTORY_DAYS)
        return triggers(self._planner.read_lake("activity_ledger", begin, until, columns=columns), since, until)

"""The loop day by day over a simulated cloud: sense and model, plan, people sign, act; and again the
next day; then verify.

Belongs here: which job runs when on the simulated clock, and where a stopped loop goes on. Does not belong here: what
the steps do (the assets), the demo's files (``demo``).

A day's plan is made at 03:00 for the jobs asked for from 04:00 on; people sign at 03:10; at 03:30 it is carried out.
Every step is done once: what the instance says is done is not done again, and a step that was cut off is run again with
the same result, because each reads only what was known at its moment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from sust_dagster.faces.hours import missing_ranges, partitions_done
from sust_dagster.faces.runs import run_job
from sust_dagster.orchestration.decision_desk import DecisionDesk
from sust_dagster.orchestration.executing import EXECUTE_MINUTE
from sust_dagster.orchestration.partitions import day_key
from sust_dagster.orchestration.planning_desk import PLAN_HOUR
from sust_dagster.orchestration.policy_desk import PolicyDesk
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.simulator.people import signers

#: Minute after 03:00 at which the simulated people look at what waits for them.
SIGN_MINUTE = 10
#: Days between compactions.
_WEEK = 7
#: Steps of planning; each is run again alone where it was cut off.
_PLANNING = (("upcoming_jobs",), ("recommendations", "placements"), ("decision_events",))

Tell = Callable[[int], None]


class Loop:
    """One simulated project, driven through its own Dagster instance."""

    def __init__(self, project: Project, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self._project, self._defs, self._instance = project, defs, instance

    def run(self, tell: Tell) -> None:
        """All days of the project that are not done; ``tell`` is told of each that is."""
        first, end = self._project.start, self._project.last_hour_end()
        days = [first.replace(hour=0) + timedelta(days=k) for k in range((end - first).days)]
        self._job("factors")
        self.forecast(days)
        for day in days:
            moment = day + timedelta(hours=PLAN_HOUR)
            if self._done("executions", day):
                tell(1)
                continue
            self.sense(first, min(moment, end))
            self.plan(day)
            self.sign(moment + timedelta(minutes=SIGN_MINUTE))
            if (day - first).days % _WEEK == _WEEK - 1:
                self.compact(day)
            self.act(day, moment + timedelta(minutes=EXECUTE_MINUTE))
            tell(1)
        self.sense(first, end)
        self.verify(days, end)
        self._job("sign_log_checkpoint", reason="the days are over")

    def sense(self, start: datetime, end: datetime) -> None:
        """The hours that are not in yet."""
        for window in missing_ranges(self._instance, start, end):
            self._job("hourly_sense_and_model", window=window, reason="the loop's hours")

    def forecast(self, days: Sequence[datetime]) -> None:
        """The forecasts of all days, as one run: each is made from the grid's hours before its own moment."""
        missing = [day for day in days if not self._done("grid_forecast", day)]
        if missing:
            self._job("daily_plan", days=(missing[0], missing[-1]), reason="forecasts", assets=("grid_forecast",))

    def plan(self, day: datetime) -> None:
        """Expect, plan, propose and review, each where it is not done."""
        missing = [step for step in _PLANNING if not all(self._done(name, day) for name in step)]
        if missing == list(_PLANNING):
            names = [name for step in _PLANNING for name in step]
            self._job("daily_plan", days=(day, day), reason="the plan of the day", assets=names)
            return
        for step in missing:
            self._job("daily_plan", days=(day, day), reason="the plan of the day, gone on with", assets=step)

    def sign(self, now: datetime) -> None:
        """The fake organisation's people sign what waits for them; what is signed already stays as it is."""
        with ProjectResource(root=str(self._project.root)) as resource:
            handle = resource.handle("governance")
            desk, roles = DecisionDesk(handle), PolicyDesk(handle).in_force(now).policy.roles
            wanted = []
            for case in desk.cases(now):
                decision = case.decision
                roles_wanted = decision.waits_for[: 1 if decision.verdict == "needs_review" else None]
                asked = signers(roles_wanted, case.proposal["team_id"], roles.team_leads, roles.platform)
                wanted += [(case.recommendation_id, account, role) for account, role in asked]
            desk.approve_all(wanted, now, reason="looked at it and agree")

    def act(self, day: datetime, now: datetime) -> None:
        """Carry out what is approved."""
        config = {"ops": {"executions": {"config": {"at": now.isoformat()}}}}
        self._job("execute_approved", days=(day, day), reason="what was approved", config=config)

    def verify(self, days: Sequence[datetime], now: datetime) -> None:
        """Verify what was executed on ``days`` from what is known at ``now``, as one run over all of them.

        What has not settled by then says so; a demo that goes on for more days verifies it anew.
        """
        if all(self._done("outcomes", day) for day in days):
            return
        config = {"ops": {"outcomes": {"config": {"at": now.isoformat()}}}}
        self._job("daily_verify", days=(days[0], days[-1]), reason="the data is settled", config=config)

    def compact(self, day: datetime) -> None:
        """Fold the hours of the days before ``day``, as every week: what reads a month reads a file a day."""
        config = {"ops": {"fold_closed_days": {"config": {"before": day.isoformat()}}}}
        self._job("compact_lake", reason="the week is over", config=config)

    def _done(self, asset: str, day: datetime) -> bool:
        return day_key(day) in partitions_done(self._instance, asset, {day_key(day)})

    def _job(
        self,
        name: str,
        *,
        window: tuple[datetime, datetime] | None = None,
        days: tuple[datetime, datetime] | None = None,
        reason: str | None = None,
        assets: Collection[str] = (),
        config: dict[str, Any] | None = None,
    ) -> None:
        run_job(
            self._defs, self._instance, name, window=window, days=days, reason=reason, assets=assets, config=config
        )  # fmt: skip

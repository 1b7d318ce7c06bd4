"""What Dagster, the lake and the books say of each step of the loop: when it last succeeded, what it had to do without.

Belongs here: gathering those facts, and the alert about a step that fell silent. Does not belong here: what they amount
to (``world.health``), showing it (the faces), mending anything.

A heartbeat is the newest partition that was made last by a run that went well, as the Dagster instance remembers it;
without an instance that knows of any, the newest slot of the step's tables. Its time is the project's: the end of an
hour, the moment of a day's plan. What was used instead of what was missing is read from the rows themselves, where it
is flagged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.known_good import STAND_IN_FLAGS
from sust_dagster.agents.planner.forecast.issue import LAST_KNOWN
from sust_dagster.connectors.execution import closed_target
from sust_dagster.orchestration.alerts import raise_alert
from sust_dagster.orchestration.executing import EXECUTE_MINUTE
from sust_dagster.orchestration.execution_desk import FAILED, STUCK
from sust_dagster.orchestration.partitions import day_key, hour_key
from sust_dagster.orchestration.planning_desk import PLAN_HOUR
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.restated import restated, verify_command
from sust_dagster.orchestration.verification_desk import SETTLE_DAYS, UNSETTLED, VERIFY_HOUR, WINDOW_DAYS
from sust_dagster.settings import Project
from sust_dagster.world.books import Books
from sust_dagster.world.health import STEPS, Fault, Step, StepHealth, health, lateness
from sust_dagster.world.lake import Lake, slot_start
from sust_dagster.world.schemas import TABLES, Agent

#: Assets whose partitions make a step's heartbeat; all of them.
_BEATS: Mapping[Step, Sequence[str]] = {
    "sense": ("activity_ledger", "quarantine", "ingest_counts"),
    "model": ("grid_intensity", "emissions"),
    "decide": ("recommendations", "placements", "decision_events"),
    "act": ("executions",),
    "verify": ("outcomes",),
}
#: Tables whose age is shown.
_TABLES: Mapping[Step, Sequence[str]] = {
    "sense": ("activity_ledger",),
    "model": ("grid_intensity", "emissions"),
    "decide": ("grid_forecast", "upcoming_jobs", "recommendations"),
    "act": ("executions",),
    "verify": ("outcomes",),
}
_JOBS: Mapping[Step, str] = {
    "sense": "hourly_sense_and_model",
    "model": "hourly_sense_and_model",
    "decide": "daily_plan",
    "act": "execute_approved",
    "verify": "daily_verify",
}
_AGENTS: Mapping[Step, Agent] = {
    "sense": "ingestor", "model": "accountant", "decide": "planner", "act": "executor",
    "verify": "verifier",
}  # fmt: skip
#: Kind of the alert of a step that is late; its subject is the step and since when.
LATE = "step_late"
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
#: Days back that a partition is looked for in the instance.
_LOOK_BACK_DAYS = 35
#: Part of the recent rows that is looked at for flags.
_RECENT = _DAY


def loop_health(project: Project, now: datetime, instance: dg.DagsterInstance | None = None) -> dict[Step, StepHealth]:
    """Each step of the loop at ``now``, the project's present, by name; nothing is written."""
    return _Look(project, now, instance).steps()


def alert_late(project: ProjectResource, now: datetime, instance: dg.DagsterInstance | None) -> list[str]:
    """Raise an alert for each step that is late, once for each time it fell silent; the late steps, in words."""
    said = []
    look = _Look(project.project, now, instance)
    for step in STEPS:
        last = look.last_success(step)
        late = None if last is None else lateness(step, last, now)
        if late is None or last is None:
            continue
        agent, subject = _AGENTS[step], f"{step} since {last:%Y-%m-%d %H:%M}"
        with project.handle(agent).transaction() as transaction:
            raise_alert(transaction, agent, LATE, subject, f"{step}: {late.reason}; {late.remedy}", actor=None, now=now)
        said.append(subject)
    return said


class _Look:
    def __init__(self, project: Project, now: datetime, instance: dg.DagsterInstance | None) -> None:
        self._project, self._now, self._instance = project, now, instance
        self._lake = Lake(project.lake_root)

    def steps(self) -> dict[Step, StepHealth]:
        faults = {"sense": self._sense, "model": self._model, "decide": self._decide, "act": self._act}
        faults["verify"] = self._verify
        found: dict[Step, StepHealth] = {}
        for step in STEPS:
            last = self.last_success(step)
            tables = {name: self._until(name) for name in _TABLES[step]}
            mine = [] if last is None else [*self._failed_run(step), *faults[step](last)]
            found[step] = health(step, last, self._now, mine, tables)
        return found

    # -- heartbeats ---------------------------------------------------------------------------------

    def last_success(self, step: Step) -> datetime | None:
        hourly = step in ("sense", "model")
        done = self._done(_BEATS[step], hourly=hourly)
        if done is None:
            # Decisions have no slot of their own: the plan they are about stands for them.
            newest = [self._newest_slot(t) for t in _BEATS[step] if TABLES[t].home == "lake"]
            held = [t for t in newest if t is not None]
            if not held:
                return None
            done = max(held)  # a table without rows in an hour has no slot of it
        if hourly:
            return done + _HOUR
        if step == "verify":  # a day of execution is verified when its data has settled
            return min(done + timedelta(days=1 + SETTLE_DAYS, hours=VERIFY_HOUR), self._now)
        return done + timedelta(hours=PLAN_HOUR, minutes=EXECUTE_MINUTE if step == "act" else 0)

    def _done(self, assets: Sequence[str], *, hourly: bool) -> datetime | None:
        """Start of the newest partition up to now that all the assets made last in a run that went well."""
        if self._instance is None:
            return None
        made = [
            self._instance.event_log_storage.get_latest_storage_id_by_partition(
                dg.AssetKey(a), dg.DagsterEventType.ASSET_MATERIALIZATION
            )
            for a in assets
        ]
        bad = set(
            self._instance.get_run_ids(
                dg.RunsFilter(statuses=[s for s in dg.DagsterRunStatus if s != dg.DagsterRunStatus.SUCCESS])
            )
        )
        unit, name = (_HOUR, hour_key) if hourly else (_DAY, day_key)
        first = self._now.replace(minute=0, second=0, microsecond=0)
        start = first if hourly else first.replace(hour=0)
        for k in range(_LOOK_BACK_DAYS * (24 if hourly else 1)):
            at = start - k * unit
            ids = [m.get(name(at)) for m in made]
            if all(i is not None for i in ids) and not (bad and self._in_runs(assets, ids, bad)):
                return at
        return None

    def _in_runs(self, assets: Sequence[str], ids: Sequence[int | None], runs: set[str]) -> bool:
        assert self._instance is not None
        for asset, storage_id in zip(assets, ids, strict=True):
            wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), storage_ids=[storage_id or 0])
            records = self._instance.fetch_materializations(wanted, limit=1).records
            if any(r.run_id in runs for r in records):
                return True
        return False

    def _failed_run(self, step: Step) -> Iterator[Fault]:
        """The step's job, where its newest run failed."""
        if self._instance is None:
            return
        newest = self._instance.get_runs(dg.RunsFilter(job_name=_JOBS[step]), limit=1)
        if newest and newest[0].status == dg.DagsterRunStatus.FAILURE:
            run = newest[0].run_id[:8]
            yield Fault(
                "degraded",
                f"the last run of {_JOBS[step]} failed ({run}): what it should have made is as it was",
                f"look at run {run} in `sust ui`",
            )

    def _newest_slot(self, table: str) -> datetime | None:
        slots = self._lake.slots(table) if self._lake.version(table) is not None else {}
        started = [s for s in map(slot_start, slots) if s < self._now]
        return max(started) if started else None

    def _until(self, table: str) -> datetime | None:
        """Until when a table holds something: the end of its newest hour, the beginning of its newest day."""
        newest = self._newest_slot(table)
        return newest if newest is None or TABLES[table].partition != "hour" else newest + _HOUR

    def _recent(self, table: str, columns: Sequence[str]) -> pa.Table:
        if self._lake.version(table) is None:
            return TABLES[table].empty().select(list(columns))
        return self._lake.read(table, self._now - _RECENT, self._now, columns=list(columns))

    # -- faults -------------------------------------------------------------------------------------

    def _sense(self, last: datetime) -> Iterator[Fault]:  # noqa: ARG002 - every look is handed the heartbeat
        limit = self._project.freshness_limit_hours
        newest = pc.max(self._recent("activity_ledger", ["ended_at"]).column("ended_at")).as_py()
        if newest is not None and self._now - newest <= timedelta(hours=limit):
            return
        age = f"{(self._now - newest) / _HOUR:.0f} h old" if newest else f"over {_RECENT / _HOUR:.0f} h old"
        yield Fault(
            "degraded",
            f"the newest activity is {age}, the limit is {limit:g} h: plans rest on what was billed until then",
            "look at the billing source and its schedule",
        )

    def _model(self, last: datetime) -> Iterator[Fault]:  # noqa: ARG002
        grid = self._recent("grid_intensity", ["quality"]).column("quality").to_pylist()
        flags = Counter(f for q in grid for f in STAND_IN_FLAGS if f in q.split(";"))
        if flags:
            said = ", ".join(f"{n} {flag}" for flag, n in sorted(flags.items()))
            yield Fault(
                "degraded",
                f"of the last {len(grid)} hours of grid intensity (all regions) some are not the source's own: {said}; "
                "the last known stand in with wider bounds",
                "look at the grid source; reconcile_late_data or `sust backfill` replaces them when it answers",
            )
        quality = self._recent("emissions", ["quality"]).column("quality")
        dark = pc.sum(pc.match_substring(quality, "no_intensity")).as_py() or 0
        if dark:
            yield Fault(
                "degraded",
                f"{dark} rows of the last day have no kg: no intensity is known for their hour, nothing stands in",
                "give the project a grid source that holds these regions",
            )

    def _decide(self, last: datetime) -> Iterator[Fault]:
        day = last.replace(hour=0)
        known = self._lake.read("grid_forecast", day - 14 * _DAY, day + _DAY, columns=["issued_at", "region"])
        latest = known.group_by("region").aggregate([("issued_at", "max")]).to_pylist()
        newest = {r["region"]: r["issued_at_max"] for r in latest}
        made = self._lake.read("recommendations", day, day + _DAY, columns=["forecast_method"]).column(0).to_pylist()
        old = sum(LAST_KNOWN in m for m in made)
        remedy = "look at the grid source, then materialise grid_forecast and the job daily_plan again"
        stale = sorted(r for r, t in newest.items() if last - t >= _DAY)
        if not newest:
            yield Fault("degraded", "there is no forecast of grid intensity: nothing is proposed", remedy)
        elif stale or old:
            what = (
                f"the forecasts of {len(stale)} of {len(newest)} regions were a day old or older"
                if stale
                else ("the newest grid hours were over a day old")
            )
            rest = f"{old} of {len(made)} recommendations rest on last known good ones: wider bounds, less confidence"
            yield Fault("degraded", f"{what} when the last plan was made: {rest}", remedy)

    def _verify(self, last: datetime) -> Iterator[Fault]:
        """Outcomes that should have settled and did not, and those whose data is another one now."""
        due = last - timedelta(days=1 + WINDOW_DAYS)
        rows = self._lake.read("outcomes", due - 14 * _DAY, due, columns=["reason"]).column("reason")
        late = pc.sum(pc.match_substring(rows, UNSETTLED)).as_py() or 0
        if late:
            yield Fault(
                "degraded",
                f"{late} outcomes are not settled {WINDOW_DAYS} days after their day: they have no number",
                "look at the billing source for their hours, then materialise the job daily_verify for their days",
            )
        found = restated(self._project, self._now)
        days = found.days(self._project)
        if days is not None:
            yield Fault(
                "degraded",
                f"{len(found.outcomes)} outcomes rest on data that was restated since: their figures are the old ones",
                f"switch the sensor verify_restated on, or {verify_command(*days)}",
            )
        if found.unreadable:
            yield Fault(
                "degraded",
                f"the evidence of {len(found.unreadable)} outcomes is not there or not what its name says, first: "
                f"{found.unreadable[0]}; whether their data was restated is not known",
                "restore the folder of evidence from a copy; `sust evidence verify` names what is wrong in it",
            )

    def _act(self, last: datetime) -> Iterator[Fault]:
        closed = closed_target(self._project)
        if closed:
            yield Fault("stopped", f"{closed}; nothing is begun", "set execution_target in sust.toml")
        if not self._project.execution_enabled:
            said = "execution is switched off: nothing further is begun, what is begun is finished or undone"
            yield Fault("stopped", said, "set execution_enabled = true in sust.toml")
        with Books(self._project.books_address) as books:
            log = books.read("decision_log", columns=["status", "approved_at"])
            alerts = books.read("alerts").to_pylist()
        states = zip(*(log.column(c).to_pylist() for c in ("status", "approved_at")), strict=True)
        held = sum(state == "approved" and at is not None and at <= last for state, at in states)
        if held:
            yield Fault(
                "degraded",
                f"{held} approved changes were not begun{self._why_held()}; they wait, what runs stays as it is",
                "see `sust execute` for what speaks against each; an approval that waits too long expires",
            )
        seen = {a["alert_id"] for a in alerts if a["event"] == "acknowledged"}
        raised = [a for a in alerts if a["event"] == "raised" and a["kind"] in (FAILED, STUCK)]
        bad = [a for a in raised if a["alert_id"] not in seen]
        if bad:
            yield Fault(
                "degraded",
                f"{len(bad)} executions failed or are stuck and the others go on, first: {bad[0]['text']}",
                "look at each with `sust alerts`, then acknowledge it",
            )

    def _why_held(self) -> str:
        """What the last run of the executor said of what it did not begin."""
        if self._instance is None:
            return ""
        event = self._instance.get_latest_materialization_event(dg.AssetKey("executions"))
        made = event.asset_materialization if event else None
        held = made.metadata.get("held") if made else None
        reasons = held.value if held is not None and isinstance(held.value, dict) else {}
        return f" ({'; '.join(sorted(map(str, reasons)))})" if reasons else ""

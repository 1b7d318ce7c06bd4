"""DECIDE as Dagster runs it: forecasts, plans, proposals and reviews over a simulated project's days."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.compute as pc
import pytest
from dagster_worlds import START, fill, lake_of, materializations, run, simulated

from sust_dagster.agents.planner import daily
from sust_dagster.agents.planner.rules import plan_rules
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.decision_desk import DecisionDesk
from sust_dagster.orchestration.partitions import day_key, key_range_tags
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.decisions import fold

DAY = timedelta(days=1)
TABLES = ("grid_forecast", "upcoming_jobs", "recommendations", "placements")
SECOND, THIRD = START + DAY, START + 2 * DAY


def plan(project: Project, first: datetime, last: datetime, **given: Any) -> dg.ExecuteInProcessResult:
    """The daily job over the days from ``first`` to ``last``, in one run."""
    return run(project, "daily_plan", tags=key_range_tags(day_key(first), day_key(last)), **given)


@pytest.fixture(scope="module")
def sensed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = simulated(tmp_path_factory.mktemp("decide") / "project", days=3)
    fill(project)
    return project


@pytest.fixture(scope="module")
def planned(sensed: Project) -> tuple[Project, dg.ExecuteInProcessResult]:
    return sensed, plan(sensed, SECOND, THIRD)


@pytest.fixture
def events(planned: tuple[Project, dg.ExecuteInProcessResult]) -> Iterator[dict[str, list[dict[str, Any]]]]:
    with ProjectResource(root=str(planned[0].root)) as resource:
        rows = resource.handle("governance").read_books("decision_events").to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["recommendation_id"], []).append(row)
    yield found


def test_a_forecast_speaks_of_the_hours_after_it_was_issued(planned: tuple[Project, Any]) -> None:
    table = lake_of(planned[0]).read("grid_forecast")
    assert set(table.column("issued_at").to_pylist()) == {SECOND + timedelta(hours=3), THIRD + timedelta(hours=3)}
    assert pc.all(pc.greater_equal(table.column("ts"), table.column("issued_at"))).as_py()
    assert table.num_rows == 2 * 5 * 72
    for low, high in zip(("p05", "p10", "p50", "p90"), ("p10", "p50", "p90", "p95"), strict=True):
        ordered = pc.less_equal(table.column(f"intensity_{low}"), table.column(f"intensity_{high}"))
        assert pc.all(ordered).as_py()


def test_groups_are_those_of_the_planned_hours(planned: tuple[Project, Any]) -> None:
    table = lake_of(planned[0]).read("upcoming_jobs", SECOND, THIRD)
    starts = table.column("requested_start")
    assert pc.min(starts).as_py() >= SECOND + timedelta(hours=4)
    assert pc.max(starts).as_py() < THIRD + timedelta(hours=4)


def test_every_recommendation_adds_up_from_its_placements(planned: tuple[Project, Any]) -> None:
    lake = lake_of(planned[0])
    recommendations, placements = lake.read("recommendations"), lake.read("placements")
    assert recommendations.num_rows > 10
    change = pc.subtract(placements.column("kg_after"), placements.column("kg_before"))
    sums = placements.append_column("change", change).group_by("recommendation_id").aggregate([("change", "sum")])
    by_id = dict(zip(sums["recommendation_id"].to_pylist(), sums["change_sum"].to_pylist(), strict=True))
    for row in recommendations.to_pylist():
        assert row["est_carbon_delta_kg"] == pytest.approx(by_id[row["recommendation_id"]])
        assert row["est_carbon_delta_kg_lower"] <= row["est_carbon_delta_kg"] <= row["est_carbon_delta_kg_upper"]
        assert row["risk_level"] in ("low", "medium", "high")
        assert row["policy_version"] == 1


def test_a_second_run_writes_and_proposes_nothing(planned: tuple[Project, Any]) -> None:
    again = plan(planned[0], SECOND, THIRD)
    for table in TABLES:
        assert not materializations(again, table)[day_key(THIRD)]["committed"], table
    assert materializations(again, "decision_events")[day_key(THIRD)]["proposed"] == 0


def test_days_planned_alone_are_as_those_of_a_range(planned: tuple[Project, Any], tmp_path: Path) -> None:
    alone = simulated(tmp_path / "project", days=3)
    fill(alone)
    for day in (THIRD, SECOND):
        plan(alone, day, day)
    for table in TABLES:
        assert (
            lake_of(alone)
            .read(table)
            .sort_by(_order(table))
            .equals(lake_of(planned[0]).read(table).sort_by(_order(table)))
        ), table


def _order(table: str) -> list[tuple[str, str]]:
    keys = {
        "grid_forecast": ("issued_at", "region", "ts"),
        "upcoming_jobs": ("planned_for", "job_id"),
        "recommendations": ("recommendation_id",),
        "placements": ("recommendation_id", "job_id"),
    }[table]
    return [(k, "ascending") for k in keys]


def test_nothing_is_approved_before_people_have_seen_twenty(events: dict[str, list[dict[str, Any]]]) -> None:
    states = {fold(history) for history in events.values()}
    assert "approved" not in states
    assert {h[0]["actor"] for h in events.values()} == {"planner"}
    assert {e["agent"] for h in events.values() for e in h[1:]} <= {"governance"}


def test_a_plan_of_a_past_day_expires(events: dict[str, list[dict[str, Any]]], planned: tuple[Project, Any]) -> None:
    rows = lake_of(planned[0]).read("recommendations", SECOND, THIRD).column("recommendation_id").to_pylist()
    assert rows
    assert {fold(events[r]) for r in rows} == {"expired"}


def test_the_replay_of_the_plan_is_a_blocking_check(
    sensed: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: a planner that forgets the limits is caught, and nothing of it is proposed."""
    project = simulated(tmp_path / "project", days=2)
    (project.root / "policy.toml").write_text(_min_carbon_policy(project))
    fill(project)
    monkeypatch.setattr(daily, "choose_plan", lambda problem, objective, *_: plan_rules(problem, objective))
    monkeypatch.setattr(daily, "withdraw", _only_these_go_home)
    failed = plan(project, SECOND, SECOND, ok=False)
    (check,) = failed.get_asset_check_evaluations()
    assert not failed.success
    assert (check.check_name, check.passed) == ("plan_keeps_every_limit", False)
    assert "cost_limit" in str(check.metadata["broken"].value)
    assert not materializations(failed, "decision_events")
    monkeypatch.undo()
    mended = plan(project, SECOND, SECOND)
    assert mended.success
    assert materializations(mended, "decision_events")


def _only_these_go_home(problem, region, delay, back, _gain, why):
    """Moves taken back without a look at what that does to the limits."""
    home = np.where(back, problem.home, region), np.where(back, 0, delay)
    return *home, np.where(back, why, 0).astype(np.uint8)


def _min_carbon_policy(project: Project) -> str:
    from sust_dagster.agents.governance import write_policy_file
    from sust_dagster.orchestration.policy_seed import first_policy

    policy = first_policy(project)
    planning = policy.planning.model_copy(update={"objective": "min-carbon"})
    return write_policy_file(policy.model_copy(update={"planning": planning}))


def test_a_plan_out_of_turn_replaces_the_workload_it_is_for(tmp_path: Path) -> None:
    project = simulated(tmp_path / "project", days=2)
    fill(project)
    plan(project, SECOND, SECOND)
    before = lake_of(project).read("recommendations")
    chosen = before.sort_by("est_carbon_delta_kg").column("workload_id").to_pylist()[0]
    config = {"issued_at": (SECOND + timedelta(hours=9)).isoformat(), "workloads": [chosen]}
    defs = build_defs(project, with_marts=False)
    names = ("grid_forecast", "upcoming_jobs", "plan", "decision_events")
    with dg.DagsterInstance.ephemeral() as instance:
        done = defs.resolve_job_def("daily_plan").execute_in_process(
            instance=instance,
            partition_key=day_key(SECOND),
            run_config={"ops": {name: {"config": config} for name in names}},
        )
    assert done.success
    after = lake_of(project).read("recommendations")
    others = pc.not_equal(before.column("workload_id"), chosen)
    order = _order("recommendations")
    kept = after.filter(pc.not_equal(after.column("workload_id"), chosen))
    assert kept.sort_by(order).equals(before.filter(others).sort_by(order))
    issued = after.filter(pc.equal(after.column("workload_id"), chosen)).column("issued_at").to_pylist()
    assert issued == [SECOND + timedelta(hours=9)]


def test_silence_expires_and_signatures_approve(tmp_path: Path) -> None:
    """The review job between the plans: what has come to its time is decided, the rest waits."""
    project = simulated(tmp_path / "project", days=2)
    fill(project)
    plan(project, SECOND, SECOND)
    moment = SECOND + timedelta(hours=4)
    with ProjectResource(root=str(project.root)) as resource:
        desk = DecisionDesk(resource.handle("governance"))
        assert desk.due(moment) == []
        case = next(c for c in desk.cases(moment) if c.decision.waits_for)
        signers = _signers(resource, case, moment)
        for role, account in signers.items():
            signed = desk.approve(case.recommendation_id, account, moment, role=role)
        assert signed.state == "approved"
        assert desk.precedents()[case.proposal["action_type"]] == 1
        assert set(desk.due(SECOND + DAY)) >= {c.recommendation_id for c in desk.cases(moment)}


def _signers(resource: ProjectResource, case: Any, moment: datetime) -> dict[str, str]:
    from sust_dagster.orchestration.policy_desk import PolicyDesk

    roles = PolicyDesk(resource.handle("governance")).in_force(moment).policy.roles
    of = {"team-lead": roles.team_leads[case.proposal["team_id"]][0], "platform": roles.platform[0]}
    return {role: of[role] for role in case.decision.waits_for[: 2 if case.decision.risk.level == "high" else 1]}


def test_the_schedule_plans_the_day_it_runs_on(tmp_path: Path) -> None:
    project = simulated(tmp_path / "project", days=1, source="files", billing=[], grid="static")
    live = project.model_copy(update={"end": None})
    live.save()
    defs = build_defs(live, with_marts=False)
    schedule = defs.resolve_schedule_def("daily_plan")
    assert schedule.cron_schedule == "0 3 * * *"
    at = datetime(2026, 11, 20, 3, tzinfo=UTC)
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=at, repository_def=defs.get_repository_def()
        )
        tick = schedule.evaluate_tick(context)
    assert [r.partition_key for r in tick.run_requests or []] == ["2026-11-20"]


def sensor_tick(project: Project, name: str, cursor: str | None = None) -> Any:
    defs = build_defs(project, with_marts=False)
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            resources={"project": ProjectResource(root=str(project.root))},
            definitions=defs,
        ) as context,
    ):
        return defs.resolve_sensor_def(name).evaluate_tick(context)


def test_the_sensors_ask_for_a_plan_and_a_review_when_there_is_cause(tmp_path: Path) -> None:
    project = simulated(tmp_path / "project", days=2)
    fill(project)
    plan(project, SECOND, SECOND)
    end = START + 2 * DAY
    quiet = sensor_tick(project, "plan_on_demand", cursor=end.isoformat())
    assert not quiet.run_requests
    # Two hours after the start everything is new against the two hours before; at the end nothing is.
    early = simulated_until(project, START + timedelta(hours=5))
    asked = sensor_tick(early, "plan_on_demand", cursor=(START + timedelta(hours=2)).isoformat())
    (request,) = asked.run_requests
    assert request.partition_key == day_key(START)
    assert request.run_config["ops"]["plan"]["config"]["workloads"]
    assert asked.cursor == (START + timedelta(hours=5)).isoformat()
    project.save()
    due = sensor_tick(project, "review_decisions")
    assert len(due.run_requests) == 1
    assert run(project, "review_decisions").success
    assert not sensor_tick(project, "review_decisions").run_requests


def simulated_until(project: Project, end: datetime) -> Project:
    """The same project as it was at an earlier moment."""
    earlier = project.model_copy(update={"end": end})
    earlier.save()
    return earlier


def test_the_first_day_expects_what_its_three_hours_of_history_can_say(sensed: Project) -> None:
    """No other hour has one of its kind a day before."""
    plan(sensed, START, START)
    starts = lake_of(sensed).read("upcoming_jobs", START, SECOND).column("requested_start").to_pylist()
    assert {s.hour for s in starts} == {0, 1, 2}
    assert min(starts) == SECOND

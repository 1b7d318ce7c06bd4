"""Each input taken away in turn: what the steps then do stands in their rows, and is what the heartbeats say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster_worlds import START, check, fill, lake_of, run, simulated

from sust_dagster.agents.planner.forecast import ForecastError
from sust_dagster.connectors.grid import GridError
from sust_dagster.connectors.grid.simulated import SimulatedGrid
from sust_dagster.connectors.schedulers.simulated import SimulatedScheduler
from sust_dagster.connectors.targets import TargetUnavailable
from sust_dagster.faces.loop import Loop
from sust_dagster.faces.runs import RunError, open_instance
from sust_dagster.orchestration import planning_desk
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.heartbeats import LATE, alert_late, loop_health
from sust_dagster.orchestration.partitions import day_key, key_range_tags
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project, load_project
from sust_dagster.world.health import Step, StepHealth

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
DAYS = 5
ACT_AT = timedelta(hours=3, minutes=30)


def silent_from(monkeypatch: pytest.MonkeyPatch, moment: datetime, *, answers: bool = True) -> None:
    """The grid's source has no hour from ``moment`` on; with ``answers=False`` it does not even answer then."""
    real = SimulatedGrid.read

    def read(self: SimulatedGrid, start: datetime, end: datetime, regions: Any = None) -> pa.Table:
        if end > moment and not answers:
            raise GridError("the provider does not answer")
        table = real(self, start, end, regions)
        return table.filter(pc.less(table["ts"], pa.scalar(moment, table.schema.field("ts").type)))

    monkeypatch.setattr(SimulatedGrid, "read", read)


def plan(project: Project, day: datetime, **given: Any) -> dg.ExecuteInProcessResult:
    return run(project, "daily_plan", tags=key_range_tags(day_key(day), day_key(day)), **given)


def at(project: Project, now: datetime) -> dict[Step, StepHealth]:
    """What the tables and books say."""
    return loop_health(project, now)


def rows(project: Project, table: str, start: datetime, end: datetime, *columns: str) -> list[dict[str, Any]]:
    return lake_of(project).read(table, start, end, columns=list(columns)).to_pylist()


@pytest.fixture(scope="module")
def sensed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two of the project's days, sensed and accounted for."""
    made = simulated(tmp_path_factory.mktemp("degraded") / "project", days=DAYS)
    fill(made, (START, START + 2 * DAY))
    return made


@pytest.fixture
def project(sensed: Project, tmp_path: Path) -> Project:
    return load_project(shutil.copytree(sensed.root, tmp_path / "project"))


@pytest.mark.parametrize("answers", [True, False], ids=["no hours", "no answer"])
def test_a_silent_grid_leaves_the_last_known_good_intensities(
    project: Project, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """Every hour goes on being accounted for, from the day before, with wider bounds and the flag in both rows."""
    outage = START + 2 * DAY
    silent_from(monkeypatch, outage, answers=answers)
    fill(project, (outage, outage + 12 * HOUR))
    grid = rows(project, "grid_intensity", outage, outage + 12 * HOUR, "ts", "region", "intensity_kgco2_kwh", "quality",
                "hour_rel_upper", "estimated")  # fmt: skip
    assert len(grid) == 12 * 5
    own = {(r["ts"], r["region"]): r for r in rows(
        project, "grid_intensity", outage - DAY, outage, "ts", "region", "intensity_kgco2_kwh", "hour_rel_upper"
    )}  # fmt: skip
    later = [r for r in grid if not answers or r["ts"] >= outage + 3 * HOUR]  # three hours are an ordinary gap
    for r in later:
        before = own[r["ts"] - DAY, r["region"]]
        assert r["intensity_kgco2_kwh"] == before["intensity_kgco2_kwh"]
        assert "last_known_good" in r["quality"].split(";") and r["estimated"]
        assert r["hour_rel_upper"] > 2 * before["hour_rel_upper"]
    emitted = rows(project, "emissions", outage + 3 * HOUR, outage + 12 * HOUR, "quality", "kg_location", "energy_kwh")
    assert emitted and all("last_known_good" in e["quality"] for e in emitted)
    assert not any(e["kg_location"] is None and e["energy_kwh"] is not None for e in emitted)
    assert all(c.passed for c in check(project, "emissions", (outage, outage + 12 * HOUR)).values())
    said = at(project, outage + 12 * HOUR)["model"]
    assert said.mode == "degraded"
    assert f"{len(later)} last_known_good" in said.reason
    monkeypatch.undo()
    fill(project, (outage, outage + 12 * HOUR))
    assert at(project, outage + 12 * HOUR)["model"].mode == "normal", "the source's own hours replaced them"
    assert not [
        g for g in rows(project, "grid_intensity", outage, outage + 12 * HOUR, "quality") if "known" in g["quality"]
    ]


def test_a_grid_that_was_never_known_is_an_error_and_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: nothing stands in for a source that never gave anything."""
    new = simulated(tmp_path / "new", days=1)
    silent_from(monkeypatch, START, answers=False)
    run(new, "factors")
    done = run(new, window=(START, START + 2 * HOUR), ok=False)
    assert not done.success
    assert lake_of(new).version("grid_intensity") is None
    assert at(new, START + 2 * HOUR)["decide"].mode == "not started"


def test_a_grid_silent_for_a_day_and_more_is_forecast_from_what_was_known(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forecast says so in every row, the plan trusts it half, and is still made."""
    outage, day = START + 2 * DAY, START + 3 * DAY
    plan(project, outage)
    fresh = rows(project, "recommendations", outage, outage + DAY, "confidence")
    silent_from(monkeypatch, outage, answers=False)
    fill(project, (outage, day + 3 * HOUR))
    plan(project, day)
    forecast = rows(project, "grid_forecast", day, day + DAY, "method", "quality")
    assert {f["method"] for f in forecast} == {"last known good"}
    assert all("stale" in f["quality"] for f in forecast)
    made = rows(project, "recommendations", day, day + DAY, "confidence", "forecast_method")
    assert made and {m["forecast_method"] for m in made} == {"last known good"}
    assert max(m["confidence"] for m in made) <= 0.5 < max(f["confidence"] for f in fresh)
    said = at(project, day + 4 * HOUR)["decide"]
    assert said.mode == "degraded"
    assert f"{len(made)} of {len(made)} recommendations rest on last known good" in said.reason


def test_without_a_new_forecast_yesterdays_serves_widened_and_is_trusted_less(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    third, fourth = START + 2 * DAY, START + 3 * DAY
    plan(project, third)
    fill(project, (third, fourth + 3 * HOUR))

    def broken(*_: Any, **__: Any) -> Any:
        raise ForecastError("the model does not answer")

    monkeypatch.setattr(planning_desk, "forecasts", broken)
    plan(project, fourth)
    assert not rows(project, "grid_forecast", fourth, fourth + DAY, "region")
    made = rows(project, "recommendations", fourth, fourth + DAY, "confidence", "forecast_method",
                "est_carbon_delta_kg_lower", "est_carbon_delta_kg_upper")  # fmt: skip
    assert made and all(m["forecast_method"].startswith("last known good, ") for m in made)
    assert max(m["confidence"] for m in made) <= 0.5
    said = at(project, fourth + 4 * HOUR)["decide"]
    assert said.mode == "degraded" and "the forecasts of 5 of 5 regions were a day old" in said.reason
    plan(project, fourth + DAY)
    assert not rows(project, "recommendations", fourth + DAY, fourth + 2 * DAY, "confidence"), "two days old: none"


@pytest.fixture
def looped(tmp_path: Path) -> Iterator[tuple[Project, Loop, dg.DagsterInstance]]:
    """Two days of the loop, planned and signed on the second and not carried out yet."""
    project = simulated(tmp_path / "loop", days=3)
    with open_instance(project) as instance:
        loop = Loop(project, build_defs(project, with_marts=False), instance)
        loop._job("factors")
        loop.sense(START, START + DAY + 3 * HOUR)
        loop.forecast([START + DAY])
        loop.plan(START + DAY)
        loop.sign(START + DAY + 3 * HOUR + timedelta(minutes=10))
        yield project, loop, instance


def placements(project: Project) -> bytes | None:
    path = project.root / "cloud" / "placements.parquet"
    return path.read_bytes() if path.exists() else None


def test_a_target_that_is_down_begins_nothing_and_the_approvals_wait(
    looped: tuple[Project, Loop, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, loop, instance = looped

    def down(*_: Any) -> Any:
        raise TargetUnavailable("connection refused")

    day, now = START + DAY, START + DAY + ACT_AT
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", lambda _: None)
        patch.setattr(SimulatedScheduler, "preview", down)
        loop.act(day, now)
    with ProjectResource(root=str(project.root)) as resource:
        states = resource.handle("executor").read_books("decision_log", columns=["status"]).column(0).to_pylist()
    assert placements(project) is None and states.count("approved") > 5 and "executing" not in states
    said = loop_health(project, now, instance)["act"]
    assert said.mode == "degraded"
    assert f"{states.count('approved')} approved changes were not begun" in said.reason
    assert "connection refused" in said.reason
    loop.act(day, now + timedelta(minutes=10))
    assert placements(project), "the target is back: what waited is carried out"
    assert "not begun" not in loop_health(project, now + timedelta(minutes=10), instance)["act"].reason


def test_a_planner_that_is_down_places_nothing_new_and_leaves_what_is_placed(
    looped: tuple[Project, Loop, dg.DagsterInstance], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, loop, instance = looped
    loop.act(START + DAY, START + DAY + ACT_AT)
    there, third = placements(project), START + 2 * DAY
    assert there
    on_time = loop_health(project, third, instance)
    assert {s: h.mode for s, h in on_time.items() if s in ("decide", "act")}["decide"] == "normal"
    loop.sense(START + DAY + 3 * HOUR, third + 3 * HOUR)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no solver")

    with monkeypatch.context() as patch:
        patch.setattr(planning_desk, "plan_day", broken)
        with pytest.raises(RunError, match="no solver"):
            loop.plan(third)
    now = third + 12 * HOUR
    loop.act(third, third + ACT_AT)
    assert placements(project) == there
    said = loop_health(project, now, instance)
    assert said["decide"].mode == "degraded" and said["decide"].last_success == START + DAY + 3 * HOUR
    assert (
        "what was placed stays" in said["decide"].reason
        and "the last run of daily_plan failed" in said["decide"].reason
    )
    gone = loop_health(project, third + 2 * DAY, instance)
    assert gone["decide"].mode == "stopped"
    assert (gone["sense"].mode, gone["model"].mode) == ("stopped", "stopped")


def test_a_silent_step_raises_one_alert_for_each_time_it_fell_silent(project: Project) -> None:
    with ProjectResource(root=str(project.root)) as resource:

        def alerts() -> list[dict[str, Any]]:
            return resource.handle("ingestor").read_books("alerts", {"kind": LATE}).to_pylist()

        assert alert_late(resource, START + 2 * DAY + HOUR, None) == [] == alerts()
        for hours in (3, 4, 30):
            assert len(alert_late(resource, START + 2 * DAY + hours * HOUR, None)) == 2
        assert {(a["agent"], a["subject"]) for a in alerts()} == {
            ("ingestor", "sense since 2026-01-03 00:00"), ("accountant", "model since 2026-01-03 00:00"),
        }  # fmt: skip
    fill(project, (START + 2 * DAY, START + 2 * DAY + 12 * HOUR))
    with ProjectResource(root=str(project.root)) as resource:
        assert alert_late(resource, START + 2 * DAY + 12 * HOUR, None) == []
        alert_late(resource, START + 2 * DAY + 16 * HOUR, None)
        assert resource.handle("ingestor").read_books("alerts", {"kind": LATE}).num_rows == 4

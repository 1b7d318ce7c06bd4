"""Data restated under verified outcomes: the sensor asks once for the months concerned, and is quiet again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from dagster_worlds import lake_of, run

sys.path.insert(0, str(Path(__file__).parents[1] / "verifier" / "evidence"))
sys.path.insert(0, str(Path(__file__).parents[1] / "faces"))

from evidence_worlds import DAY, HOUR, START, document, make_project
from sust_cli import sust

from sust_dagster.agents.verifier.evidence.recompute import check
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.heartbeats import loop_health
from sust_dagster.orchestration.partitions import day_key, key_range_tags
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.restated import OWNER, Change, Restated, restated
from sust_dagster.orchestration.verification_desk import UNSETTLED, days_to_verify
from sust_dagster.settings import Project, load_project
from sust_dagster.world.health import StepHealth

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
WRITERS: dict[str, Any] = {"activity_ledger": "ingestor", "emissions": "accountant", "grid_intensity": "accountant"}
Transform = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten changes executed on the first day, of every kind, and verified as the job does it."""
    made = make_project(tmp_path_factory.mktemp("restated") / "project")
    assert verify(made, key_range_tags(day_key(START), day_key(START))).success
    return made.root


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Project:
    return load_project(shutil.copytree(whole, tmp_path / "project"))


@lru_cache(maxsize=2)
def definitions(root: Path, end: datetime) -> dg.Definitions:
    """Of the project as it is when it ends at ``end``."""
    return build_defs(load_project(root), with_marts=False)


def verify(project: Project, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    return run(project, "daily_verify", tags=tags, defs=definitions(project.root, project.last_hour_end()))


def tick(project: Project, cursor: str | None = None) -> Any:
    """One tick of the sensor, as the daemon makes it."""
    defs = definitions(project.root, project.last_hour_end())
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            resources={"project": ProjectResource(root=str(project.root))},
            definitions=defs,
        ) as context,
    ):
        return defs.resolve_sensor_def("verify_restated").evaluate_tick(context)


def quiet(project: Project, cursor: str | None = None) -> str:
    """A tick that asks for nothing; its cursor."""
    made = tick(project, cursor)
    assert not made.run_requests
    assert "no outcome rests on data restated since" in made.skip_message
    assert made.cursor
    return made.cursor


def asked(project: Project, cursor: str | None = None) -> tuple[Any, str]:
    """A tick that asks for one run; the request and the tick's cursor."""
    made = tick(project, cursor)
    (request,) = made.run_requests
    assert request.job_name in (None, "daily_verify")
    return request, made.cursor


def restate(project: Project, table: str, at: datetime, change: Transform) -> None:
    """Write an hour anew, as the step that owns the table does, with the rows that ``change`` makes of its own."""
    with ProjectResource(root=str(project.root)) as resource:
        handle = resource.handle(WRITERS[table])
        rows = change(handle.read_lake(table, at, at + HOUR))
        assert handle.write_lake(table, rows, at, at + HOUR, reason="the supplier corrected it").committed


def times(column: str, factor: float) -> Transform:
    def change(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index(column)
        return rows.set_column(at, rows.schema.field(at), pc.multiply(rows.column(at), factor))

    return change


def outcomes(project: Project) -> dict[str, dict[str, Any]]:
    return {r["outcome_id"]: r for r in lake_of(project).read("outcomes").to_pylist()}


def bundle(project: Project, row: dict[str, Any]) -> dict[str, Any]:
    return document(project.evidence_root / f"{row['evidence_chain']}.json")


def an_outcome(project: Project) -> dict[str, Any]:
    """One with a number, of a workload that went to another region."""
    known = [r for r in outcomes(project).values() if r["spatial_savings_kg"]]
    return min(known, key=lambda r: r["outcome_id"])


def an_hour(project: Project, row: dict[str, Any]) -> datetime:
    """An hour that its runs used energy in."""
    usage = bundle(project, row)["usage"]
    return hour_of(next(a for a, kwh in zip(usage["started_at"], usage["energy_kwh"], strict=True) if kwh))


def hour_of(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // 3_600_000_000 * 3600, UTC)


def leaves(project: Project, outcome: str) -> list[str]:
    with ProjectResource(root=str(project.root)) as resource:
        rows = resource.handle("verifier").read_books("log_commitments", {"kind": "bundle", "subject": outcome})
    return [json.loads(leaf)["sha256"] for leaf in rows.column("leaf").to_pylist()]


def at_verify(project: Project) -> StepHealth:
    return loop_health(project, project.present())["verify"]


def test_nothing_is_asked_for_while_nothing_was_restated(project: Project) -> None:
    first = quiet(project)
    assert quiet(project, first) == first
    assert at_verify(project).mode == "normal"


@pytest.mark.parametrize(
    ("table", "change", "column"),
    [
        ("emissions", times("kg_location", 1.5), "actual_carbon_kg"),
        ("activity_ledger", times("usage_hours", 2.0), "measured_cost_delta_usd"),
        ("grid_intensity", times("intensity_kgco2_kwh", 1.5), "measured_carbon_delta_kg"),
    ],
)
def test_a_restatement_is_verified_once(project: Project, table: str, change: Transform, column: str) -> None:
    cursor = quiet(project)
    before, of = outcomes(project), an_outcome(project)
    at, old = an_hour(project, of), project.evidence_root / f"{of['evidence_chain']}.json"
    restate(project, table, at, change)

    request, after = asked(project, cursor)
    assert (request.tags[RANGE[0]], request.tags[RANGE[1]]) == ("2026-01-01", "2026-01-01")
    new = lake_of(project).slots(table)[f"{at:%Y-%m-%dT%H}"]
    assert f"{table} {at:%Y-%m-%dT%H} {new[:12]}" in request.run_key
    assert request.run_key.removeprefix("verify_restated ") in request.tags["sust/reason"]
    quiet(project, after)

    assert verify(project, request.tags).success
    quiet(project, after)
    quiet(project)
    row = outcomes(project)[of["outcome_id"]]
    assert row[column] != before[of["outcome_id"]][column]
    assert leaves(project, of["outcome_id"]) == [of["evidence_chain"], row["evidence_chain"]]
    assert row["evidence_chain"] != of["evidence_chain"]
    assert check(old.read_bytes(), old.stem).differences == [], "what was said then can still be read and made again"
    assert f"{new}.parquet" in "".join(bundle(project, row)["inputs"][table])
    if table == "emissions":
        assert sust("--project", project.root, "evidence", "verify", "--json").json["differences"] == []


def a_row_of_another(rows: pa.Table) -> pa.Table:
    """The hour with a row more, of a run that nobody moved."""
    more = rows.slice(0, 1)
    for name in ("activity_id", "job_id"):
        at = more.column_names.index(name)
        more = more.set_column(at, more.schema.field(at), pa.array(["somebody-else"]))
    return pa.concat_tables([rows, more])


def another_region(rows: pa.Table) -> pa.Table:
    """The hour with a region more, in which no run was nor could have been."""
    row = rows.slice(0, 1).to_pylist()[0] | {"region": "ap-south-1"}
    return pa.concat_tables([rows, pa.Table.from_pylist([row], rows.schema)])


def market_figure(rows: pa.Table) -> pa.Table:
    at = rows.column_names.index("kg_market")
    return rows.set_column(at, rows.schema.field(at), pa.array([0.5] * rows.num_rows))


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("emissions", a_row_of_another),
        ("activity_ledger", a_row_of_another),
        ("emissions", market_figure),
        ("grid_intensity", another_region),
        pytest.param("grid_intensity", times("intensity_upper", 1.1), marks=pytest.mark.slow),
    ],
    ids=["another's emissions", "another's usage", "a figure of no saving", "another region", "a bound nobody reads"],
)
def test_rows_that_no_outcome_rests_on_are_none_of_its_business(
    project: Project, table: str, change: Transform
) -> None:
    """The file that the evidence names is another one now, and stays so; nothing is asked for, now or later."""
    cursor, of = quiet(project), an_outcome(project)
    at = an_hour(project, of)
    restate(project, table, at, change)
    assert lake_of(project).slots(table)[f"{at:%Y-%m-%dT%H}"] not in str(bundle(project, of)["inputs"][table])
    later = quiet(project, cursor)
    assert later != cursor
    assert quiet(project, later) == later == quiet(project)
    assert at_verify(project).mode == "normal"


def moved_to(rows: pa.Table, at: datetime) -> pa.Table:
    """The rows as rows of the hour ``at``, each of an activity of its own."""
    values = rows.to_pylist()
    for i, row in enumerate(values):
        row.update(started_at=at, ended_at=at + HOUR / 2, activity_id=f"late-{at:%dT%H}-{i}")
    return pa.Table.from_pylist(values, rows.schema)


def add(project: Project, table: str, at: datetime, job: str, of: str) -> None:
    """A late row in the hour ``at``: one of ``of``'s, in the name of ``job``."""
    with ProjectResource(root=str(project.root)) as resource:
        handle = resource.handle(WRITERS[table])
        rows, held = handle.read_lake(table, START, START + 3 * DAY), handle.read_lake(table, at, at + HOUR)
        late = moved_to(rows.filter(pc.equal(rows.column("job_id"), of)).slice(0, 1), at)
        column = late.column_names.index("job_id")
        late = late.set_column(column, late.schema.field(column), pa.array([job]))
        handle.write_lake(table, pa.concat_tables([held, late]), at, at + HOUR, reason="late")


def test_a_late_row_of_a_moved_run_is_asked_for_though_no_evidence_names_its_hour(project: Project) -> None:
    cursor, of = quiet(project), an_outcome(project)
    job = bundle(project, of)["requests"]["job_id"][0]
    late = an_hour(project, of) + 50 * HOUR
    assert f"{late:%Y-%m-%dT%H}" not in str(bundle(project, of)["inputs"]["emissions"])
    for table in ("emissions", "activity_ledger"):
        add(project, table, late, "somebody-else", job)
    cursor = quiet(project, cursor)
    for table in ("emissions", "activity_ledger"):
        add(project, table, late, job, job)
    request, after = asked(project, cursor)
    assert f"emissions {late:%Y-%m-%dT%H}" in request.run_key
    assert verify(project, request.tags).success
    assert outcomes(project)[of["outcome_id"]]["evidence_chain"] != of["evidence_chain"]
    quiet(project, after)
    quiet(project)


def test_rows_that_are_gone_are_asked_for_once(project: Project) -> None:
    cursor, of = quiet(project), an_outcome(project)
    at = an_hour(project, of)
    for table in ("emissions", "activity_ledger"):
        restate(project, table, at, lambda rows: rows.slice(0, 0))
    request, after = asked(project, cursor)
    assert "gone" in request.run_key
    assert verify(project, request.tags).success
    assert outcomes(project)[of["outcome_id"]]["actual_carbon_kg"] != of["actual_carbon_kg"]
    quiet(project, after)
    quiet(project)


def test_an_hour_of_the_grid_that_comes_late_is_asked_for(project: Project) -> None:
    """Without the hour there was no number; when it comes there is one again."""
    of = an_outcome(project)
    at, grid = an_hour(project, of), lake_of(project).read("grid_intensity")
    here = pc.equal(pc.floor_temporal(grid.column("ts"), unit="hour"), pa.scalar(at, grid.schema.field("ts").type))
    hour = grid.filter(here)
    restate(project, "grid_intensity", at, lambda rows: rows.slice(0, 0))
    request, cursor = asked(project)
    assert verify(project, request.tags).success
    dark = outcomes(project)[of["outcome_id"]]
    assert dark["measured_carbon_delta_kg"] is None and dark["verification_status"] == "disqualified"
    quiet(project, cursor)
    restate(project, "grid_intensity", at, lambda _: hour)
    request, cursor = asked(project, cursor)
    assert verify(project, request.tags).success
    assert outcomes(project)[of["outcome_id"]] == of
    quiet(project, cursor)
    quiet(project)


@pytest.mark.slow
def test_rows_that_cannot_be_compared_any_more_are_verified_once(project: Project) -> None:
    """The old file is gone from the lake: whether a row of the outcome changed is not known."""
    cursor, of = quiet(project), an_outcome(project)
    at = an_hour(project, of)
    old = next(p for p in bundle(project, of)["inputs"]["emissions"] if f"/{at:%Y-%m-%dT%H}-" in p)
    restate(project, "emissions", at, market_figure)
    (Path(project.lake_root) / "emissions" / old).unlink()
    request, cursor = asked(project, cursor)
    assert verify(project, request.tags).success
    quiet(project, cursor)
    quiet(project)


@pytest.mark.slow
def test_what_came_back_is_asked_for_again(project: Project) -> None:
    """The same content after another has its old hash; Dagster starts no second run of one key."""
    cursor, at, keys = quiet(project), an_hour(project, an_outcome(project)), []
    for factor in (2.0, 0.5, 2.0):
        restate(project, "emissions", at, times("kg_location", factor))
        request, cursor = asked(project, cursor)
        keys.append(request.run_key)
        if len(keys) < 3:
            assert verify(project, request.tags).success
    assert len(set(keys)) == 3


def test_what_was_asked_for_is_not_asked_for_again_while_its_run_waits(project: Project) -> None:
    cursor, of = quiet(project), an_outcome(project)
    restate(project, "emissions", an_hour(project, of), times("kg_location", 1.5))
    _, cursor = asked(project, cursor)
    job = bundle(project, of)["requests"]["job_id"][0]
    add(project, "emissions", START + 4 * DAY, "somebody-else", job)  # the hours of the day go on coming in
    quiet(project, cursor)
    assert of["outcome_id"] in restated(project, project.present()).outcomes, "it still waits"


def test_months_behind_the_window_of_the_schedule_are_asked_for_too(project: Project) -> None:
    cursor = quiet(project)
    later = project.model_copy(update={"end": START + 150 * DAY})
    later.save()
    window = days_to_verify(later.present(), later.start)
    assert window is not None and window[0] > START + 31 * DAY
    cursor = quiet(later, cursor)
    of = an_outcome(later)
    restate(later, "grid_intensity", an_hour(later, of), times("intensity_kgco2_kwh", 1.5))
    request, cursor = asked(later, cursor)
    assert [request.tags[name] for name in RANGE] == ["2026-01-01", "2026-01-01"]
    assert verify(later, request.tags).success
    assert outcomes(later)[of["outcome_id"]]["evidence_chain"] != of["evidence_chain"]
    quiet(later, cursor)


def test_what_has_not_settled_is_left_to_the_schedule(tmp_path: Path) -> None:
    young = make_project(tmp_path / "young").model_copy(update={"end": START + 3 * DAY})
    young.save()
    assert verify(young, key_range_tags(day_key(START), day_key(START))).success
    rows = list(outcomes(young).values())
    assert rows and all(UNSETTLED in r["reason"] for r in rows)
    cursor = quiet(young)
    usage = next(u for u in (bundle(young, r)["usage"] for r in rows) if u["started_at"])
    restate(young, "emissions", hour_of(usage["started_at"][0]), times("kg_location", 1.5))
    quiet(young, cursor)
    # The control: as soon as the schedule looks at other months, a late change is the sensor's.
    old = young.model_copy(update={"end": START + 150 * DAY})
    old.save()
    asked(old)


def test_folding_the_hours_of_a_day_restates_nothing(project: Project) -> None:
    cursor = quiet(project)
    lake = lake_of(project)
    assert all(lake.compact(table, START + 5 * DAY) for table in OWNER)
    folded = quiet(project, cursor)
    assert folded != cursor
    of = an_outcome(project)
    restate(project, "emissions", an_hour(project, of), times("kg_location", 1.5))
    request, _ = asked(project, folded)
    assert f"{an_hour(project, of):%Y-%m-%dT%H}" in request.run_key
    assert "more" not in request.run_key, "the other hours of the day were unfolded and are the same"


def test_a_cursor_of_another_lake_is_no_memory(project: Project) -> None:
    of = an_outcome(project)
    restate(project, "emissions", an_hour(project, of), times("kg_location", 1.5))
    _, cursor = asked(project)
    other = {table: [version, "0" * 16] for table, (version, _) in json.loads(cursor).items()}
    for foreign in (json.dumps(other), json.dumps({**other, "emissions": [10**6, "0" * 16]}), "{}", "x", "[1]"):
        asked(project, foreign)
    quiet(project, cursor)


def found(days: dict[str, str], newest: str) -> Restated:
    at = {name: datetime.fromisoformat(day).replace(tzinfo=UTC) for name, day in days.items()}
    change = Change("emissions", "2026-03-12T05", "a" * 64)
    return Restated(at, [change], (), "", {"emissions": 3}, datetime.fromisoformat(newest).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("days", "newest", "wanted"),
    [
        (["2026-03-12"], "2026-05-20", ("2026-03-01", "2026-03-31")),
        (["2026-03-12", "2026-05-02"], "2026-05-20", ("2026-03-01", "2026-05-20")),
        (["2026-02-28"], "2026-02-28", ("2026-02-01", "2026-02-28")),
        (["2025-12-31"], "2026-02-28", ("2025-12-05", "2025-12-31")),
    ],
)
def test_whole_months_are_verified_as_far_as_there_are_outcomes(
    tmp_path: Path, days: Sequence[str], newest: str, wanted: tuple[str, str]
) -> None:
    """Credit is a share of a month's total; a project that begins within a month has no partition before."""
    start = datetime(2025, 12, 5, tzinfo=UTC)
    project = Project(root=tmp_path, source="files", billing=["bill.csv"], start=start, end=start + 365 * DAY)
    window = found({str(i): day for i, day in enumerate(days)}, newest).days(project)
    assert window is not None and tuple(map(day_key, window)) == wanted


def test_the_doctor_counts_them_and_says_what_verifies_them(project: Project) -> None:
    assert at_verify(project).mode == "normal"
    of = an_outcome(project)
    restate(project, "emissions", an_hour(project, of), times("kg_location", 1.5))
    waiting = restated(project, project.present()).outcomes
    assert of["outcome_id"] in waiting and len(waiting) < len(outcomes(project))
    said = sust("--project", project.root, "doctor", "--json").json
    (finding,) = [f for f in said["findings"] if f["subject"] == "heartbeat: verify"]
    assert said["steps"]["verify"]["mode"] == "degraded"
    assert f"{len(waiting)} outcomes rest on data that was restated since" in finding["detail"]
    command = "sust verify --from 2026-01-01 --to 2026-01-02"
    assert command in finding["fix"]
    ran = sust("--project", project.root, *command.split()[1:], "--json")
    assert ran.code == 0
    assert at_verify(project).mode == "normal"


def test_evidence_that_cannot_be_read_is_named_and_not_guessed(project: Project) -> None:
    cursor, of = quiet(project), an_outcome(project)
    restate(project, "emissions", an_hour(project, of), times("kg_location", 1.5))
    for path in project.evidence_root.glob("*.json"):
        path.write_bytes(path.read_bytes()[:100])
    made = tick(project, cursor)
    assert not made.run_requests
    assert f"the evidence of {len(outcomes(project))} is not there or not what its name says" in made.skip_message
    said = at_verify(project)
    assert said.mode == "degraded" and f"the evidence of {len(outcomes(project))} outcomes is not" in said.reason
    assert "rest on data that was restated" not in said.reason


def restated_by_hand(project: Project, out: Path) -> Any:
    """Account an hour of the project again; what the rows of the test were made by was another accountant."""
    usage = [bundle(project, row)["usage"] for row in outcomes(project).values()]
    rows = [(hour_of(at), kind) for u in usage for at, kind in zip(u["started_at"], u["resource_type"], strict=True)]
    # The test's egress rows reach into the next hour, which no ledger's do.
    at = min({hour for hour, _ in rows} - {hour for hour, kind in rows if kind == "network"})
    window = ("--from", f"{at:%Y-%m-%dT%H:%M:%S}", "--to", f"{at + HOUR:%Y-%m-%dT%H:%M:%S}")
    return sust("--project", project.root, "restate", "--reason", "power measured anew", *window, "--out", out)


def test_restating_by_hand_says_what_verifies_again(project: Project, tmp_path: Path) -> None:
    ran = restated_by_hand(project, tmp_path / "report.csv")
    assert ran.code == 0, ran.err
    count = len(restated(project, project.present()).outcomes)
    assert count > 0
    assert "`sust verify --from 2026-01-01 --to 2026-01-02`" in ran.err
    assert ["outcomes_restated", str(count)] in [line.split() for line in ran.out.splitlines()]


@pytest.mark.slow
def test_restating_by_hand_says_nothing_where_nothing_waits(project: Project, tmp_path: Path) -> None:
    assert "sust verify" in restated_by_hand(project, tmp_path / "report.csv").err
    assert sust("--project", project.root, "verify", "--json").code == 0
    again = restated_by_hand(project, tmp_path / "report.csv")
    assert again.code == 0 and "sust verify" not in again.err

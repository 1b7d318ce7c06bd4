"""What is expected of a day, from the ledger of the days before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sust_dagster.agents.ingestor import ingest_range
from sust_dagster.agents.planner.upcoming import (
    EMISSIONS_COLUMNS,
    LEDGER_COLUMNS,
    MOVE_COLUMNS,
    PAST_COLUMNS,
    WORKLOADS,
    upcoming_jobs,
)
from sust_dagster.connectors.sources import fake_cloud, ingest_options, open_billing
from sust_dagster.settings import simulated_project
from sust_dagster.world.schemas import PLACEMENTS, UPCOMING_JOBS

MONDAY = datetime(2026, 2, 2, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")


def slices(rows: list[dict]) -> tuple[pa.Table, pa.Table]:
    """Ledger and emissions of job slices; what a row does not say is that of a plain build."""
    plain = {
        "team_id": "search", "cloud_provider": "aws", "region": "eu-west-1", "workload_category": "balanced",
        "service_tier": "ci", "vcpus": 4.0, "gpus": 0.0, "resource_type": "compute", "instance_type": "c5.xlarge",
        "charge_class": "usage", "usage_hours": 0.5, "workload_id": "build", "cost_usd": 0.2, "energy_kwh": 0.01,
    }  # fmt: skip
    full = [{**plain, **r} for r in rows]
    for r in full:
        r.setdefault("ended_at", r["started_at"] + timedelta(hours=r["usage_hours"]))
    types = {"started_at": STAMP, "ended_at": STAMP}
    numbers = {"usage_hours", "vcpus", "gpus", "cost_usd", "energy_kwh"}

    def table(names: tuple[str, ...]) -> pa.Table:
        schema = pa.schema([(n, types.get(n, pa.float64() if n in numbers else pa.string())) for n in names])
        return pa.Table.from_pylist([{n: r[n] for n in names} for r in full], schema)

    return table(LEDGER_COLUMNS), table(EMISSIONS_COLUMNS)


def expected(rows: list[dict], known_at: datetime = MONDAY + timedelta(hours=3), workloads: pa.Table | None = None):
    ledger, emissions = slices(rows)
    register = WORKLOADS.empty_table() if workloads is None else workloads
    first = known_at + timedelta(hours=1)
    day = known_at.replace(hour=0)
    return upcoming_jobs(ledger, emissions, register, day, first, first + timedelta(days=1), known_at)


def daily(days: int, hour: int, each: int = 1, **fields) -> list[dict]:
    """``each`` runs at one hour of each of the days before MONDAY."""
    return [
        {"job_id": f"{hour}-{d}-{k}-{fields.get('workload_id', 'build')}",
         "started_at": MONDAY - timedelta(days=d) + timedelta(hours=hour), **fields}
        for d in range(1, days + 1) for k in range(each)
    ]  # fmt: skip


def test_the_same_number_each_day_of_a_kind_is_a_schedule() -> None:
    found = expected(daily(28, 9, each=3))
    assert found.num_rows == 1
    row = found.to_pylist()[0]
    assert (row["origin"], row["expected_count"]) == ("schedule", 3.0)
    assert row["requested_start"] == MONDAY + timedelta(hours=9)
    assert (
        row["duration_hours"] == 0.5 and row["cost_usd"] == pytest.approx(0.2) and row["it_kw"] == pytest.approx(0.02)
    )


def test_an_hour_after_midnight_belongs_to_the_next_day_of_the_window() -> None:
    found = expected(daily(28, 2))
    assert found.column("requested_start").to_pylist() == [MONDAY + timedelta(days=1, hours=2)]


def test_work_of_working_days_is_expected_on_working_days() -> None:
    """Rates are those of the day's kind, drawn towards the mean over all days by a prior worth two days, and a little
    towards the mean hour, as far as the hours' difference leaves room for chance.
    """
    weekdays = [r for r in daily(28, 10, each=7) if r["started_at"].isoweekday() < 6]
    irregular = [*weekdays, *daily(28, 10, each=0)][:-1]  # one run less on the eldest working day
    on_monday = expected(irregular).to_pylist()[0]
    runs, kind_days, days = 7 * 20 - 1, 20, 28
    hour = runs / days / 24
    differ = (runs / days) ** 2 / 24 - hour**2 - hour / days
    drawn = (runs + 2 * runs / days + hour**2 / differ) / (kind_days + 2 + hour / differ)
    assert on_monday["expected_count"] == pytest.approx(drawn, rel=1e-3)
    assert drawn == pytest.approx((runs + 2 * runs / days) / (kind_days + 2), rel=0.02)
    assert on_monday["origin"] == "history"
    saturday = MONDAY + timedelta(days=5, hours=3)
    shifted = [{**r, "started_at": r["started_at"] + timedelta(days=5)} for r in irregular]
    weekend = [r for r in shifted if r["started_at"].isoweekday() < 6]
    row = expected(weekend, saturday).to_pylist()[0]
    assert row["expected_count"] < 0.5 * on_monday["expected_count"]


def test_rare_work_is_expected_in_every_hour_and_not_only_where_it_was_seen() -> None:
    """Ten runs in five days, each in an hour of its own: nothing says that those hours are the ones to come."""
    hours = (0, 3, 5, 8, 9, 13, 14, 17, 20, 22)
    rows = [
        {"job_id": f"r{k}", "started_at": MONDAY - timedelta(days=1 + k % 5) + timedelta(hours=h)}
        for k, h in enumerate(hours)
    ]
    found = {r["requested_start"].hour: r["expected_count"] for r in expected(rows).to_pylist()}
    assert len(found) == 24
    assert sum(found.values()) == pytest.approx(2.0, rel=0.1)
    assert max(found.values()) < 1.5 * min(found.values())
    nightly = [{"job_id": f"n{d}", "started_at": MONDAY - timedelta(days=d) + timedelta(hours=5)} for d in range(1, 6)]
    only = {r["requested_start"].hour: r["expected_count"] for r in expected(nightly).to_pylist()}
    assert only.pop(5) == 1.0 and sum(only.values()) < 0.1, "the control: a schedule"


def test_a_run_that_the_history_cuts_is_not_taken_to_begin_there() -> None:
    """A day-long job at midnight: of the first day only the hours from 03:00 on are in the 28 days."""
    days = [
        {"job_id": f"d{d}", "started_at": MONDAY - timedelta(days=d) + timedelta(hours=h), "usage_hours": 1.0}
        for d in range(29)
        for h in range(24)
        if MONDAY - timedelta(days=d) + timedelta(hours=h) < MONDAY + timedelta(hours=3)
    ]
    found = {r["requested_start"].hour: r["expected_count"] for r in expected(days).to_pylist()}
    assert found == {0: 1.0}


def test_nothing_after_the_plan_is_made_is_looked_at() -> None:
    """Truncation: the same groups whatever the ledger holds from the moment of planning on."""
    past = daily(20, 9, each=2)
    later = [
        {"job_id": f"later-{k}", "started_at": MONDAY + timedelta(hours=3 + k % 20), "usage_hours": 9.0}
        for k in range(50)
    ]
    assert expected(past).equals(expected(past + later))
    moved = [{**r, "started_at": r["started_at"] - timedelta(days=3)} for r in later]
    assert not expected(past).equals(expected(past + moved)), "the control: the same rows earlier do change it"


def test_a_service_is_expected_all_day() -> None:
    hours = [
        {"job_id": "i-1", "workload_id": "svc", "started_at": MONDAY - timedelta(hours=h), "usage_hours": 1.0,
         "cost_usd": 0.1, "workload_category": "urgent"}
        for h in range(1, 100)
    ]  # fmt: skip
    row = expected(hours).to_pylist()[0]
    assert (row["duration_hours"], row["origin"], row["expected_count"]) == (24.0, "schedule", 1.0)
    assert row["cost_usd"] == pytest.approx(2.4)


def test_runs_that_have_not_ended_do_not_shorten_the_run_time() -> None:
    whole = [{**r, "usage_hours": 1.0, "ended_at": r["started_at"] + timedelta(hours=1)} for r in daily(14, 1)]
    running = {"job_id": "now", "started_at": MONDAY + timedelta(hours=2), "usage_hours": 0.1,
               "ended_at": MONDAY + timedelta(hours=3)}  # fmt: skip
    found = {r["requested_start"].hour: r for r in expected([*whole, running]).to_pylist()}
    assert found[1]["duration_hours"] == pytest.approx(1.0)
    assert found[1]["runs_seen"] == 15


def test_what_nobody_said_is_null_and_flagged() -> None:
    rows = daily(3, 9, cost_usd=None, energy_kwh=None)
    row = expected(rows).to_pylist()[0]
    assert row["quality"] == "unregistered;few_runs;no_cost;no_energy"
    assert row["data_gb"] is None and row["cost_usd"] is None and row["it_kw"] is None
    register = pa.Table.from_pylist(
        [{"workload_id": "build", "data_gb": 2.5, "allowed_regions": "eu-west-1"}], WORKLOADS
    )
    known = expected(daily(28, 9), workloads=register).to_pylist()[0]
    assert (known["quality"], known["data_gb"], known["allowed_regions"]) == ("ok", 2.5, "eu-west-1")


def test_a_group_waits_for_the_last_groups_of_what_it_needs() -> None:
    rows = [*daily(20, 8, workload_id="extract"), *daily(20, 6, workload_id="extract"), *daily(20, 9), *daily(20, 5)]
    register = pa.Table.from_pylist([{"workload_id": "build", "depends_on": "extract, nobody"}], WORKLOADS)
    found = {r["job_id"]: r for r in expected(rows, workloads=register).to_pylist()}
    waits = {r["requested_start"].hour: r["depends_on"] for r in found.values() if r["workload_id"] == "build"}
    assert waits[5] is None
    assert found[waits[9]]["workload_id"] == "extract"
    assert found[waits[9]]["requested_start"].hour == 8


def test_a_group_does_not_wait_for_what_still_runs_when_it_is_asked_for() -> None:
    """An extract of 08:00 that takes two hours is no input of what is asked for at 09:00: it never was."""
    rows = [
        *daily(20, 8, workload_id="extract", usage_hours=2.0), *daily(20, 3, workload_id="extract"), *daily(20, 9),
        *daily(20, 11),
    ]  # fmt: skip
    register = pa.Table.from_pylist([{"workload_id": "build", "depends_on": "extract"}], WORKLOADS)
    found = {r["job_id"]: r for r in expected(rows, workloads=register).to_pylist()}
    waits = {r["requested_start"].hour: r["depends_on"] for r in found.values() if r["workload_id"] == "build"}
    assert waits[9] is None
    assert found[waits[11]]["requested_start"].hour == 8


def test_an_empty_ledger_gives_no_groups() -> None:
    assert expected([]).schema.equals(UPCOMING_JOBS.arrow)
    assert expected([]).num_rows == 0


def test_corrections_and_storage_are_no_runs() -> None:
    assert expected(daily(9, 9, charge_class="correction")).num_rows == 0
    assert expected(daily(9, 9, resource_type="storage")).num_rows == 0


def test_times_must_be_whole_utc_hours() -> None:
    with pytest.raises(ValueError, match="whole UTC hour"):
        expected([], MONDAY + timedelta(minutes=5))


def test_a_simulated_month_is_foreseen_within_its_scatter(tmp_path) -> None:
    """Jobs and vCPU-hours of a day against the expectation from the 28 days before."""
    project = simulated_project(tmp_path, days=30, seed=7)
    known_at = project.start + timedelta(days=29, hours=3)
    ledger = ingest_range(
        open_billing(project).read(project.start, known_at), project.start, known_at, ingest_options(project)
    ).ledger
    emissions = ledger.select(["job_id", "workload_id", "started_at", "resource_type"]).append_column(
        "energy_kwh", pc.multiply(pc.fill_null(ledger.column("vcpu_hours"), 0.0), 0.005)
    )
    first = known_at + timedelta(hours=1)
    found = upcoming_jobs(
        ledger, emissions, WORKLOADS.empty_table(), known_at.replace(hour=0), first, first + timedelta(days=1), known_at
    )
    jobs = fake_cloud(project).jobs(first, first + timedelta(days=1))
    count = pc.sum(found.column("expected_count")).as_py()
    assert abs(count - jobs.num_rows) < 4 * jobs.num_rows**0.5
    hours = pc.sum(pc.multiply(found.column("expected_count"), found.column("duration_hours"))).as_py()
    assert hours == pytest.approx(pc.sum(jobs.column("duration_hours")).as_py(), rel=0.1)
    homes = {(w["workload_id"], w["home_region"]) for w in fake_cloud(project).workloads().to_pylist()}
    assert set(zip(found["workload_id"].to_pylist(), found["region"].to_pylist(), strict=True)) <= homes


def _executed(days: int, group: dict, move: dict | None) -> tuple[list[dict], list[dict]]:
    """A group of each of the days before MONDAY as it was expected, and where an executed plan put it."""
    past, moves = [], []
    for d in range(1, days + 1):
        day = MONDAY - timedelta(days=d)
        own = {
            "planned_for": day, "job_id": f"{group['hour']}-{d}", "workload_id": "build", "region": "eu-west-1",
            "requested_start": day + timedelta(hours=group["hour"]), "vcpus": 4.0, "gpus": 0.0,
            "instance_type": "c5.xlarge", "expected_count": group["count"],
        }  # fmt: skip
        past.append(own)
        if move is not None:
            moves.append(
                {
                    "planned_for": day,
                    "job_id": own["job_id"],
                    "region": move["region"],
                    "start": day + timedelta(hours=move["hour"]),
                    "vcpus_scale": move.get("scale", 1.0),
                    "cost_before_usd": 0.2,
                    "cost_after_usd": move.get("cost", 0.2) + 0.05,
                    "egress_usd": 0.05,
                }
            )
    return past, moves


def again(rows: list[dict], past: list[dict], moves: list[dict]) -> list[dict]:
    ledger, emissions = slices(rows)
    tables = [
        pa.Table.from_pylist(part, pa.schema([declared.field(n) for n in names]))
        for part, names, declared in (
            (past, PAST_COLUMNS, UPCOMING_JOBS.arrow),
            (moves, MOVE_COLUMNS, PLACEMENTS.arrow),
        )
    ]
    known = MONDAY + timedelta(hours=3)
    first, last = known + timedelta(hours=1), known + timedelta(hours=25)
    return upcoming_jobs(
        ledger, emissions, WORKLOADS.empty_table(), MONDAY, first, last, known, *tables
    ).to_pylist()  # fmt: skip


def test_what_executed_plans_moved_is_expected_where_and_when_it_was_asked_for() -> None:
    """28 days of a 09:00 group that ran at 12:00 elsewhere, half as large and at half the price."""
    moved = daily(28, 12, each=3, region="eu-north-1", vcpus=2.0, cost_usd=0.1, energy_kwh=0.005,
                  instance_type="c5.large")  # fmt: skip
    past, moves = _executed(
        28, {"hour": 9, "count": 3.0}, {"region": "eu-north-1", "hour": 12, "scale": 0.5, "cost": 0.1}
    )
    row, *others = again(moved, past, moves)
    assert not others
    plain = expected(daily(28, 9, each=3)).to_pylist()[0]
    assert row == {**plain, "cost_usd": pytest.approx(0.2), "it_kw": pytest.approx(0.02)}
    found = again(moved, past, [])
    assert (found[0]["region"], found[0]["requested_start"].hour) == ("eu-north-1", 12), "the control: not executed"


def test_runs_of_groups_that_met_in_one_hour_count_in_each_by_its_part() -> None:
    """The 09:00 group (3 a day) was moved onto the 12:00 group (1 a day): four runs, of which nobody says whose."""
    rows = daily(28, 12, each=4)
    nine, moves = _executed(28, {"hour": 9, "count": 3.0}, {"region": "eu-west-1", "hour": 12})
    noon, _ = _executed(28, {"hour": 12, "count": 1.0}, None)
    found = {r["requested_start"].hour: r["expected_count"] for r in again(rows, [*nine, *noon], moves)}
    assert found == {9: pytest.approx(3.0), 12: pytest.approx(1.0)}


def test_a_run_nobody_expected_stays_as_it_ran() -> None:
    past, moves = _executed(28, {"hour": 9, "count": 3.0}, {"region": "eu-north-1", "hour": 12})
    found = {(r["region"], r["requested_start"].hour) for r in again(daily(28, 15), past, moves)}
    assert found == {("eu-west-1", 15)}

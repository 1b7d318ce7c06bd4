"""From a table of jobs to what each may do: against the category rules written out as loops, and case by case."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.planner import tables
from sust_dagster.agents.planner.candidates import INPUT_REASONS, Power, World, candidates, needed_hours
from sust_dagster.agents.planner.jobs import InputError, read_jobs
from sust_dagster.agents.planner.outcome import Choice, plan_table
from sust_dagster.agents.planner.problem import Objective, evaluate
from sust_dagster.agents.planner.rules import plan_rules
from sust_dagster.agents.planner.windows import Pairs, Regions, Rules

T0 = datetime(2026, 10, 1, tzinfo=UTC)
HOUR0 = int(T0.timestamp()) // 3600
POWER = Power.simple(FactorSet.from_table(reference.shipped_factors()))
#: Three providers, three continents, one region nobody knows.
PLACES = ("us-east-1", "us-west-2", "eu-west-1", "westeurope", "europe-west1", "ap-south-1", "moon-1")
PROVIDER = dict(zip(PLACES, ("aws", "aws", "aws", "azure", "gcp", "aws", ""), strict=True))
CONTINENT = dict(
    zip(PLACES, ("north america", "north america", "europe", "europe", "europe", "asia", ""), strict=True)
)  # fmt: skip


def job(**other: Any) -> dict[str, Any]:
    return {
        "job_id": "j1", "workload_id": "w", "team_id": "t", "cloud_provider": "aws", "region": "us-east-1",
        "category": "sustainable", "requested_start": T0, "duration_hours": 1.0, "vcpus": 4.0, "gpus": 0.0,
        "data_gb": 0.0, "cost_usd": 1.0, "sla_latency_ms": None, "allowed_regions": None, "max_delay_hours": None,
        "depends_on": None, **other,
    }  # fmt: skip


def table(*jobs: dict[str, Any]) -> pa.Table:
    numbers = ("duration_hours", "vcpus", "gpus", "data_gb", "cost_usd", "sla_latency_ms", "max_delay_hours")
    schema = pa.schema(
        [
            (name, pa.timestamp("us", "UTC") if name == "requested_start" else
             pa.float64() if name in numbers else pa.string())
            for name in jobs[0]
        ]
    )  # fmt: skip
    return pa.Table.from_pylist(list(jobs), schema)


def world(intensity: np.ndarray, regions: tuple[str, ...] = PLACES, **other: Any) -> World:
    facts = Regions.of(regions, reference.regions())
    pairs = other.pop("pairs", None) or Pairs(tables.egress(None, regions), tables.latency(None, regions))
    return World(facts, HOUR0, intensity, pairs, **other)


def falling(hours: int = 48, regions: tuple[str, ...] = PLACES) -> np.ndarray:
    """Each region cleaner than the one before, and each hour cleaner than the one before."""
    return 0.7 - 0.09 * np.arange(len(regions))[:, None] - 0.001 * np.arange(hours)[None, :]


def planned(jobs: pa.Table, here: World, objective: Objective | None = None, **other: Any) -> list[dict[str, Any]]:
    found = candidates(read_jobs(jobs, priced=here.price is not None), here, POWER, **other)
    objective = objective or Objective.min_carbon()
    plan = plan_rules(found.problem, objective)
    choice = Choice(found.problem, objective, plan.region, plan.delay, np.zeros(len(found.problem), np.uint8))
    return plan_table(found, choice, 75.0).to_pylist()


def test_the_reference_knows_what_the_tests_say():
    facts = Regions.of(PLACES, reference.regions())
    assert facts.provider == tuple(PROVIDER.values())
    assert facts.continent == tuple(CONTINENT.values())
    assert facts.unknown == ("moon-1",)


def may_go(j: dict[str, Any], target: str, latency: dict[tuple[str, str], float]) -> bool:
    """The rules of the categories, in words."""
    home = j["region"]
    if target == home:
        return True
    listed = j["allowed_regions"]
    if (listed and target not in listed.split(",")) or j["data_gb"] is None:
        return False
    if j["category"] == "urgent":
        near = CONTINENT[home] == CONTINENT[target] != ""
        sla = j["sla_latency_ms"]
        return near and (sla is None or latency.get((home, target), math.inf) <= sla)
    if j["category"] == "balanced":
        return PROVIDER[target] == j["cloud_provider"] and PROVIDER[home] in ("", j["cloud_provider"])
    return j["category"] == "sustainable"


def by_trying(
    j: dict[str, Any], grid: dict[tuple[str, int], float], price: dict[str, float] | None, objective: Objective,
    latency: dict[tuple[str, str], float], rate: float,
) -> dict[tuple[str, int], float]:  # fmt: skip
    """Score of every place a job may have."""
    window = {"urgent": 0, "balanced": 4, "sustainable": 24}.get(j["category"], 0)
    if j["max_delay_hours"] is not None:
        window = min(window, math.floor(j["max_delay_hours"]))
    scores = {}
    for target in PLACES:
        for delay in range(window + 1):
            if not may_go(j, target, latency) or (price is not None and target not in price):
                continue
            begin = (j["requested_start"] - T0) / timedelta(hours=1) + delay
            end = begin + j["duration_hours"]
            kg, hour, whole = 0.0, math.floor(begin), True
            while hour < end:
                part = min(end, hour + 1) - max(begin, hour)
                if part > 1e-9:
                    if (target, hour) not in grid:
                        whole = False
                        break
                    kg += (j["vcpus"] * 0.005 + j["gpus"] * 0.3) * part * 1.1 * grid[target, hour]
                hour += 1
            if not whole:
                continue
            usd = j["cost_usd"] if price is None else j["vcpus"] * j["duration_hours"] * price[target]
            usd += (j["data_gb"] or 0.0) * 0.02 * (target != j["region"])
            over = 0.0
            if j["sla_latency_ms"] is not None and (j["region"], target) in latency:
                over = max(0.0, latency[j["region"], target] - j["sla_latency_ms"])
            scores[target, delay] = (
                objective.per_kg * kg + objective.per_usd * usd + objective.per_penalty_usd * (over * rate)
            )
    return scores


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from(("effective-cost", "min-carbon")))
def test_every_job_gets_the_best_place_its_category_allows(seed, priced, gaps, name):
    random = np.random.default_rng(seed)
    hours, n = int(random.integers(4, 40)), 4
    grid = {(r, h): float(random.uniform(0.01, 0.9)) for r in PLACES for h in range(hours)}
    if gaps:
        grid = {key: v for key, v in grid.items() if random.random() > 0.05}
    price = {r: float(random.uniform(0.01, 0.1)) for r in PLACES if random.random() > 0.2} if priced else None
    latency = {(a, b): float(random.uniform(1, 200)) for a in PLACES for b in PLACES if random.random() > 0.4}
    latency |= {(b, a): latency[a, b] for a, b in list(latency) if (b, a) not in latency}
    jobs = [
        job(
            job_id=f"j{i}", region=str(random.choice(PLACES)), cloud_provider=str(random.choice(["aws", "gcp"])),
            category=str(random.choice(["urgent", "balanced", "sustainable", "whatever"])),
            requested_start=T0 + timedelta(minutes=int(random.integers(0, 60 * hours))),
            duration_hours=float(random.integers(1, 300)) / 37, vcpus=float(random.integers(0, 9)),
            gpus=float(random.integers(0, 2)), cost_usd=float(random.uniform(0, 3)),
            data_gb=None if random.random() < 0.1 else float(random.uniform(0, 0.2)),
            sla_latency_ms=None if random.random() < 0.6 else float(random.uniform(1, 150)),
            allowed_regions=None if random.random() < 0.6 else
            ",".join(r for r in PLACES if random.random() < 0.5) or None,
            max_delay_hours=None if random.random() < 0.6 else float(random.uniform(0, 30)),
        )
        for i in range(n)
    ]  # fmt: skip
    intensity = np.array([[grid.get((r, h), np.nan) for h in range(hours)] for r in PLACES])
    ms = np.array([[latency.get((a, b), np.nan) for b in PLACES] for a in PLACES])
    here = world(
        intensity, pairs=Pairs(tables.egress(None, PLACES), ms),
        price=None if price is None else np.array([[price.get(r, np.nan)] for r in PLACES]),
    )  # fmt: skip
    objective = Objective.min_carbon() if name == "min-carbon" else Objective.effective_cost(5000.0)
    rows = planned(table(*jobs), here, objective)
    for j, row in zip(jobs, rows, strict=True):
        scores = by_trying(j, grid, price, objective, latency, 0.01)
        now = scores.get((j["region"], 0))
        assert row["job_id"] == j["job_id"]
        assert (row["action_type"] == "do_nothing") == (row["reason"] != "")
        if j["category"] == "whatever" or now is None:
            assert row["region"] == j["region"] and row["start"] == j["requested_start"]
            continue
        chosen = row["region"], round((row["start"] - j["requested_start"]) / timedelta(hours=1))
        assert chosen in scores
        best = min(scores.values())
        assert scores[chosen] == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert row["score_after"] == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert row["score_before"] == pytest.approx(now, rel=1e-9, abs=1e-12)
        assert row["action_type"] == "do_nothing" or row["score_after"] < row["score_before"]


@pytest.mark.parametrize(
    ("category", "reached", "latest"),
    [
        ("urgent", {"us-west-2"}, 0),
        ("balanced", {"us-west-2", "eu-west-1", "ap-south-1"}, 4),
        ("sustainable", set(PLACES) - {"us-east-1"}, 24),
        (" Balanced ", {"us-west-2", "eu-west-1", "ap-south-1"}, 4),
        ("Urgently", set(), 0),
        (None, set(), 0),
    ],
)
def test_a_category_says_where_and_how_late(category, reached, latest):
    problem = candidates(read_jobs(table(job(category=category))), world(falling()), POWER).problem
    allowed = {r for r, a in zip(problem.regions, problem.places.allowed[problem.place[0]], strict=True) if a}
    assert allowed == reached | {"us-east-1"}
    assert problem.max_delay.tolist() == [latest]


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 24), (100.0, 24), (24.0, 24), (2.9, 2), (0.5, 0), (0.0, 0)]
)  # fmt: skip
def test_max_delay_narrows_the_window_and_never_widens_it(asked, given):
    problem = candidates(read_jobs(table(job(max_delay_hours=asked))), world(falling()), POWER).problem
    assert problem.max_delay.tolist() == [given]


def test_allowed_regions_narrow_and_home_stays_allowed():
    rows = planned(table(job(allowed_regions="eu-west-1, us-west-2"), job(job_id="j2", allowed_regions="mars-9")),
                   world(falling()))  # fmt: skip
    assert rows[0]["region"] == "eu-west-1"
    assert (rows[1]["region"], rows[1]["action_type"]) == ("us-east-1", "time_shift")
    # A list does not let urgent work leave its continent.
    (row,) = planned(table(job(category="urgent", allowed_regions="eu-west-1")), world(falling()))
    assert (row["region"], row["reason"]) == ("us-east-1", "no_other_place")


def test_a_provider_that_contradicts_the_home_region_has_no_other_region():
    (row,) = planned(table(job(category="balanced", cloud_provider="gcp")), world(falling()))
    assert (row["region"], row["action_type"]) == ("us-east-1", "time_shift")
    (row,) = planned(table(job(category="balanced", cloud_provider="Amazon Web Services")), world(falling()))
    assert row["region"] == "ap-south-1"


def test_urgent_work_with_an_sla_moves_only_where_the_latency_is_known_and_short_enough():
    regions = ("us-east-1", "us-west-2")

    def place(ms: float, sla: float) -> str:
        matrix = np.array([[1.0, ms], [ms, 1.0]])
        here = world(falling(regions=regions), regions, pairs=Pairs(tables.egress(None, regions), matrix))
        return planned(table(job(category="urgent", sla_latency_ms=sla)), here)[0]["region"]

    assert place(65.0, 65.0) == "us-west-2"
    assert place(65.0, 64.9) == "us-east-1"
    assert place(np.nan, 1000.0) == "us-east-1"


def test_other_work_pays_for_latency_above_its_sla():
    regions = ("us-east-1", "us-west-2")
    pairs = Pairs(tables.egress(None, regions), np.array([[1.0, 65.0], [65.0, 1.0]]))
    here = world(falling(regions=regions), regions, pairs=pairs)
    jobs = table(job(category="sustainable", sla_latency_ms=15.0, max_delay_hours=0.0))
    objective = Objective.effective_cost(1e6)
    (row,) = planned(jobs, here, objective, rules=Rules(penalty_usd_per_ms=0.01))
    assert row["region"] == "us-west-2"
    assert row["latency_penalty_usd"] == pytest.approx(0.5)
    assert row["latency_delta_ms"] == pytest.approx(64.0)
    assert row["score_after"] == pytest.approx(row["kg_after"] * 1000 + row["cost_after_usd"] + 0.5)
    (row,) = planned(jobs, here, objective, rules=Rules(penalty_usd_per_ms=100.0))
    assert row["region"] == "us-east-1"
    # Where carbon alone counts nothing is paid, so a latency known to be too long bars the region; an unknown one not.
    (row,) = planned(jobs, here, Objective.min_carbon(), rules=Rules(strict_latency=True))
    assert row["region"] == "us-east-1"
    dark = world(falling(regions=regions), regions)
    (row,) = planned(jobs, dark, Objective.min_carbon(), rules=Rules(strict_latency=True))
    assert (row["region"], row["latency_delta_ms"]) == ("us-west-2", None)


def test_a_region_the_reference_does_not_know_takes_sustainable_work_only():
    assert planned(table(job()), world(falling()))[0]["region"] == "moon-1"
    assert planned(table(job(category="balanced")), world(falling()))[0]["region"] != "moon-1"
    at_moon = job(region="moon-1", category="urgent", cloud_provider="")
    assert planned(table(at_moon), world(falling()))[0]["reason"] == "no_other_place"


def test_each_job_that_cannot_be_planned_says_why():
    grid = falling(hours=24)
    grid[PLACES.index("ap-south-1")] = np.nan
    grid[PLACES.index("us-west-2"), 3] = np.nan
    jobs = table(
        job(job_id="unknown_category", category="batch"),
        job(job_id="no_duration", duration_hours=0.0),
        job(job_id="no_cost", cost_usd=None),
        job(job_id="outside_grid_hours", requested_start=T0 + timedelta(hours=30)),
        job(job_id="no_grid_hours", region="ap-south-1"),
        job(job_id="leaves_grid_hours", requested_start=T0 + timedelta(hours=23, minutes=30)),
        job(job_id="grid_gap", region="us-west-2", requested_start=T0 + timedelta(hours=2, minutes=30)),
        job(job_id="", category="urgent") | {"job_id": "no_other_place", "region": "moon-1"},
        job(job_id="best_as_it_is", region="moon-1", max_delay_hours=0.0),
    )
    rows = planned(jobs, world(grid))
    assert [r["reason"] for r in rows] == [r["job_id"] for r in rows]
    assert {r["action_type"] for r in rows} == {"do_nothing"}
    known = {r["job_id"]: r for r in rows}
    assert known["outside_grid_hours"]["kg_before"] is None
    assert known["outside_grid_hours"]["cost_before_usd"] == 1.0
    assert known["no_cost"]["kg_before"] > 0 and known["no_cost"]["score_before"] is None


def test_a_home_without_a_price_is_named_and_a_region_without_one_is_no_candidate():
    price = np.full((len(PLACES), 1), 0.05)
    price[PLACES.index("moon-1")] = np.nan
    rows = planned(table(job(), job(job_id="j2", region="moon-1")), world(falling(), price=price))
    assert rows[0]["region"] == "ap-south-1"
    assert (rows[1]["region"], rows[1]["reason"], rows[1]["cost_before_usd"]) == ("moon-1", "no_price", None)


def test_prices_by_the_hour_cost_each_hour_its_own():
    regions = ("us-east-1",)
    price = np.array([[0.10, 0.20, 0.40, 0.01, 0.01, 0.01, 0.01, 0.01]])
    here = world(np.full((1, 8), 0.5), regions, price=price)
    j = job(requested_start=T0 + timedelta(minutes=30), duration_hours=1.0, max_delay_hours=1.0, cost_usd=99.0)
    (row,) = planned(table(j), here, Objective.effective_cost(75.0))
    assert row["cost_before_usd"] == pytest.approx(4 * (0.5 * 0.10 + 0.5 * 0.20))
    here = world(np.full((1, 8), 0.5), regions, price=price[:, ::-1].copy())
    (row,) = planned(table(j | {"max_delay_hours": 4.0}), here, Objective.effective_cost(75.0))
    assert row["action_type"] == "do_nothing"  # 0.01 at once, dearer later


def test_a_job_without_a_data_size_may_wait_but_not_travel():
    (row,) = planned(table(job(data_gb=None)), world(falling()))
    assert (row["region"], row["action_type"]) == ("us-east-1", "time_shift")


def test_a_run_that_began_before_the_grid_stays_but_holds_its_capacity():
    capacity = np.full((2, 6), np.inf)
    regions = ("us-east-1", "us-west-2")
    early = job(requested_start=T0 - timedelta(hours=3), duration_hours=5.0)
    found = candidates(
        read_jobs(table(early, job(job_id="j2"))), world(falling(6, regions), regions, capacity=capacity), POWER
    )
    assert found.problem.first_hour == HOUR0 - 3
    assert found.problem.hours == 9
    assert np.isnan(found.problem.carbon[:, :3]).all() and np.isinf(found.problem.capacity[:, :3]).all()
    assert INPUT_REASONS[found.reason[0]] == "leaves_grid_hours"
    figures = evaluate(found.problem, found.problem.home, np.zeros(2, np.int64))
    assert np.isnan(figures.kg[0]) and figures.kg[1] == pytest.approx(4 * 0.005 * 1.1 * 0.7)


def test_regions_nobody_may_use_are_left_out():
    found = candidates(read_jobs(table(job(category="urgent"))), world(falling()), POWER)
    assert found.problem.regions == ("us-east-1", "us-west-2")


def test_a_home_that_the_world_lacks_is_refused():
    with pytest.raises(ValueError, match="sa-east-1"):
        candidates(read_jobs(table(job(region="sa-east-1"))), world(falling()), POWER)


def test_rows_that_stand_for_several_runs_count_as_many():
    jobs = table(job()).append_column("expected_count", pa.array([2.5]))
    (row,) = planned(jobs, world(falling()))
    (one,) = planned(table(job()), world(falling()))
    assert row["kg_before"] == pytest.approx(2.5 * one["kg_before"])
    assert row["cost_before_usd"] == pytest.approx(2.5)


# --- dependencies


def test_pairs_follow_depends_on():
    jobs = table(job(job_id="a"), job(job_id="b", depends_on="a"), job(job_id="c", depends_on="a, b"))
    found = candidates(read_jobs(jobs), world(falling()), POWER)
    assert found.problem.limits.precedence.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert found.notes == ()


def test_a_job_that_waits_for_one_nobody_knows_is_said():
    found = candidates(read_jobs(table(job(depends_on="nobody"))), world(falling()), POWER)
    assert "not in the file" in found.notes[0]


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "c", "b": "a", "c": "b"}])
def test_a_circle_of_dependencies_is_refused(links):
    jobs = [job(job_id=name, depends_on=links.get(name)) for name in "abcd"]
    with pytest.raises(InputError, match="waits for itself") as told:
        candidates(read_jobs(table(*jobs)), world(falling()), POWER)
    assert (told.value.column, jobs[told.value.row or 0]["job_id"]) in {("depends_on", n) for n in links}


def test_a_job_is_not_delayed_past_one_that_waits_for_it_outside_the_grid():
    late = job(job_id="late", requested_start=T0 + timedelta(hours=9), depends_on="j1")
    found = candidates(read_jobs(table(job(requested_start=T0 + timedelta(hours=2)), late)), world(falling(8)), POWER)
    assert found.rows.tolist() == [0]
    assert found.problem.max_delay.tolist() == [6]  # ends by 9:00
    assert found.problem.limits.precedence.shape == (0, 2)
    assert "outside the grid's hours" in found.notes[0]


# --- what no job can have


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("duration_hours", math.nan, "no finite number"),
        ("duration_hours", None, "is empty"),
        ("duration_hours", -1.0, "negative"),
        ("duration_hours", 1e6, "above"),
        ("vcpus", math.inf, "no finite number"),
        ("vcpus", None, "is empty"),
        ("gpus", -0.5, "negative"),
        ("data_gb", math.nan, "no finite number"),
        ("cost_usd", -math.inf, "no finite number"),
        ("cost_usd", -0.01, "negative"),
        ("sla_latency_ms", math.nan, "no finite number"),
        ("max_delay_hours", -1.0, "negative"),
        ("max_delay_hours", math.nan, "no finite number"),
        ("requested_start", None, "is empty"),
        ("region", " ", "is empty"),
        ("region", None, "is empty"),
        ("job_id", None, "is empty"),
        ("job_id", "j0", "stands already"),
    ],
)
def test_a_value_no_job_can_have_is_refused_by_row_and_column(column, value, said):
    jobs = table(job(job_id="j0"), job(job_id="j1"), job(job_id="j2") | {column: value})
    with pytest.raises(InputError, match=said) as told:
        read_jobs(jobs)
    assert (told.value.row, told.value.column) == (2, column)
    assert told.value.fix
    read_jobs(table(job(job_id="j0"), job(job_id="j1")))  # the same without that row


@pytest.mark.parametrize("column", ["job_id", "category", "requested_start", "gpus", "cost_usd"])
def test_a_missing_column_is_named(column):
    with pytest.raises(InputError, match=f"no column {column}"):
        read_jobs(table(job()).drop_columns([column]))


def test_prices_make_the_cost_column_optional():
    jobs = read_jobs(table(job()).drop_columns(["cost_usd"]), priced=True)
    assert np.isnan(jobs.cost_usd).all()


def test_the_hours_needed_hold_every_start():
    jobs = read_jobs(table(job(), job(job_id="j2", requested_start=T0 + timedelta(hours=5.5), duration_hours=2.0)))
    first, last = needed_hours(jobs)
    assert first == HOUR0
    assert last >= HOUR0 + 5.5 + 24 + 2


# --- small tables

AXES = tables.Axes(("a", "b"), HOUR0, 3)


def at(*hours: float) -> pa.Array:
    return pa.array([T0 + timedelta(hours=h) for h in hours], pa.timestamp("us", "UTC"))


def test_small_tables_become_arrays():
    flat = pa.table({"region": ["b"], "usd_per_vcpu_hour": [0.5]})
    np.testing.assert_array_equal(tables.prices(flat, AXES), [[np.nan], [0.5]])
    hourly = pa.table({"region": ["b", "b", "x"], "ts": at(1, 7, 0), "vcpus": [8.0, 9.0, 1.0]})
    np.testing.assert_array_equal(tables.capacity(hourly, AXES), [[np.inf] * 3, [np.inf, 8.0, np.inf]])
    pairs = pa.table({"from_region": ["a"], "to_region": ["b"], "usd_per_gb": [0.09], "rtt_ms": [70.0]})
    np.testing.assert_array_equal(tables.egress(pairs, ("a", "b")), [[0.0, 0.09], [0.02, 0.0]])
    np.testing.assert_array_equal(tables.latency(pairs, ("a", "b")), [[np.nan, 70.0], [70.0, np.nan]])


@pytest.mark.parametrize(
    ("rows", "row", "column"),
    [
        ({"region": ["a", "a"], "vcpus": [1.0, 2.0]}, 1, "region"),
        ({"region": ["a", "b"], "vcpus": [1.0, math.nan]}, 1, "vcpus"),
        ({"region": ["a", "b"], "vcpus": [None, 1.0]}, 0, "vcpus"),
        ({"region": ["a", None], "vcpus": [1.0, 1.0]}, 1, "region"),
        ({"region": ["a"], "vcpus": [-1.0]}, 0, "vcpus"),
        ({"region": ["a"], "vcpus": [math.inf]}, 0, "vcpus"),
        ({"region": ["a", "a"], "ts": at(1, 1), "vcpus": [1.0, 1.0]}, 1, "ts"),
        ({"region": ["a", "b"], "ts": at(1, 1.5), "vcpus": [1.0, 1.0]}, 1, "ts"),
        ({"region": ["a"]}, None, "vcpus"),
    ],
)
def test_a_small_table_is_refused_by_row_and_column(rows, row, column):
    with pytest.raises(InputError) as told:
        tables.capacity(pa.table(rows), AXES)
    assert (told.value.row, told.value.column) == (row, column)
    assert told.value.fix

"""The checker finds every kind of broken limit, says what the loop over hours says, and keeps quiet otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import Shape, is_open, overlaps, price_at, problem_of
from test_candidates import PLACES, POWER, T0, falling, job, planned, table, world

from sust_dagster.agents.planner.candidates import candidates
from sust_dagster.agents.planner.checker import SCHEMA, violations
from sust_dagster.agents.planner.jobs import read_jobs
from sust_dagster.agents.planner.outcome import PLAN_FILE
from sust_dagster.agents.planner.problem import Limits, Objective, Problem
from sust_dagster.agents.planner.replay import replay
from sust_dagster.agents.planner.rules import plan_rules

PLAIN = Shape(regions=3, hours=30, jobs=6, kinds=2, gaps=False)


def ready(seed: int = 3, **limits: object) -> Problem:
    """A problem where everything may go anywhere within four hours and ends in time."""
    problem = problem_of(seed, PLAIN, Limits(**limits))  # ty: ignore[invalid-argument-type]
    n = len(problem)
    return replace(
        problem, max_delay=np.full(n, 4), start_hours=np.arange(n) * 0.75, duration_hours=np.full(n, 2.5),
        vcpus=np.full(n, 4.0), places=replace(problem.places, allowed=np.ones_like(problem.places.allowed)),
        money=np.ones(n), price=np.ones((3, 1)), data_gb=np.ones(n),
    )  # fmt: skip


def stay(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    return problem.home.copy(), np.zeros(len(problem), np.int64)


def away(problem: Problem) -> np.ndarray:
    """Another region for every job."""
    return (problem.home + 1) % len(problem.regions)


def found(problem: Problem, region: np.ndarray, delay: np.ndarray) -> set[str]:
    rows = violations(problem, region, delay)
    assert rows.schema == SCHEMA
    return set(rows.filter(rows.column("by_plan")).column("kind").to_pylist())


def test_staying_and_moving_freely_break_nothing():
    problem = ready()
    assert found(problem, *stay(problem)) == set()
    assert found(problem, away(problem), np.full(len(problem), 4)) == set()


def test_a_start_outside_its_window_is_found():
    problem = ready()
    region, delay = stay(problem)
    for bad in (5, -1):
        delay[2] = bad
        (row,) = [r for r in violations(problem, region, delay).to_pylist() if r["kind"] == "window"]
        assert (row["job"], row["value"], row["limit"]) == (2, bad, 4)


def test_a_region_that_is_not_allowed_is_found():
    problem = ready()
    problem.places.allowed[problem.place[1], :] = False
    region, delay = away(problem), np.zeros(len(problem), np.int64)
    rows = violations(problem, region, delay)
    assert 1 in rows.filter(pc.equal(rows.column("kind"), "region")).column("job").to_pylist()
    region[0] = 99
    assert "region" in found(problem, region, delay)


def test_a_run_past_the_last_hour_is_found():
    problem = ready()
    late = replace(problem, start_hours=np.full(len(problem), 26.0))
    assert found(late, away(late), np.full(len(late), 1)) == set()
    assert found(late, away(late), np.full(len(late), 2)) == {"horizon"}
    assert found(late, *stay(replace(late, start_hours=np.full(len(late), 29.0)))) == set()  # as it always was


def test_an_hour_that_is_shut_or_not_known_is_found():
    problem = ready()
    region, delay = away(problem), np.zeros(len(problem), np.int64)
    shut = problem.available.copy()
    shut[region[0], 2] = False  # job 0 runs from 0 to 2.5
    assert found(replace(problem, available=shut), region, delay) == {"available"}
    carbon = problem.carbon.copy()
    carbon[region[0], 2] = np.nan
    assert found(replace(problem, carbon=carbon), region, delay) == {"unknown"}
    price = np.ones((3, 30))
    price[region[0], 0] = np.nan
    assert found(replace(problem, price=price), region, delay) == {"unknown"}
    carbon = problem.carbon.copy()
    carbon[region[0], 29] = np.nan  # nobody runs then
    assert found(replace(problem, carbon=carbon), region, delay) == set()


def test_an_overloaded_hour_is_found_and_who_is_to_blame():
    problem = ready()
    target = int(away(problem)[0])
    region, delay = stay(problem)
    region[:] = target
    full = np.full((3, 30), np.inf)
    full[target, 4] = 7.9  # jobs 3 to 5 run then, 4 vCPUs each
    problem = replace(problem, capacity=full)
    (row,) = violations(problem, region, delay).to_pylist()
    assert (row["kind"], row["region"], row["hour"], row["limit"]) == ("capacity", f"r{target}", 4, 7.9)
    assert row["value"] == pytest.approx(4 * (0.75 + 1.0 + 1.0))
    assert row["by_plan"]
    full[:] = 0.5  # even the status quo breaks that
    rows = violations(problem, *stay(problem))
    assert rows.num_rows > 0 and not pc.any(rows.column("by_plan")).as_py()


def test_money_limits_are_found():
    problem = ready(max_cost_increase=0.1, egress_budget_usd=0.9)
    problem.places.egress_usd_per_gb[:] = 0.25
    problem.places.egress_usd_per_gb[problem.place, problem.home] = 0.0
    region, delay = stay(problem)
    for moved, broken in ((1, set()), (4, {"egress_budget"}), (6, {"egress_budget"})):
        region[:moved] = away(problem)[:moved]
        assert found(problem, region, delay) == broken  # 6 x 2.5 = 15 USD; 1.5 more is allowed, 0.9 of egress
    problem = ready(max_cost_increase=0.1)
    price = np.ones((3, 1))
    price[int(away(problem)[0])] = 3.0
    region, delay = stay(problem)
    region[0] = away(problem)[0]
    assert found(replace(problem, price=price), region, delay) == {"cost_limit"}


def test_too_large_a_share_in_one_region_is_found():
    problem = ready(share_cap=0.5)
    region, delay = stay(problem)
    target = int(away(problem)[0])
    movers = np.flatnonzero(problem.home != target)
    region[movers[:3]] = target
    assert found(problem, region, delay) == set()  # 3 of 6 alike
    tighter = replace(problem, limits=replace(problem.limits, share_cap=0.49))
    (row,) = violations(tighter, region, delay).to_pylist()
    assert (row["kind"], row["region"]) == ("share_cap", f"r{target}")
    assert (row["value"], row["limit"]) == (pytest.approx(30.0), pytest.approx(0.49 * 60.0))


def test_a_broken_order_is_found():
    problem = ready(precedence=np.array([[0, 4]]))  # 0 ends at 2.5, 4 starts at 3.0
    region, delay = stay(problem)
    assert found(problem, region, delay) == set()
    delay[0] = 1
    (row,) = violations(problem, region, delay).to_pylist()
    assert (row["kind"], row["job"], row["value"], row["by_plan"]) == ("precedence", 4, 0.5, True)
    delay[4] = 1
    assert found(problem, region, delay) == set()
    before = ready(precedence=np.array([[0, 1]]))  # 1 starts at 0.75 as it is
    rows = violations(before, *stay(before)).to_pylist()
    assert [r["by_plan"] for r in rows] == [False]


shapes = st.builds(
    Shape, regions=st.integers(1, 3), hours=st.integers(4, 20), jobs=st.integers(1, 5), kinds=st.integers(1, 3),
    gaps=st.booleans(), hourly_price=st.booleans(),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes, easy=st.booleans())
def test_the_checker_says_what_the_loop_says(seed, shape, easy):
    random = np.random.default_rng(seed)
    capacity = random.integers(0, 60 if easy else 9, (shape.regions, shape.hours)) * 1.0
    pairs = np.array([[0, shape.jobs - 1]]) if shape.jobs > 1 else np.empty((0, 2), np.int64)
    problem = problem_of(seed, shape, Limits(None, 1.0, 0.4, pairs), capacity)
    region = random.integers(0, shape.regions, shape.jobs)
    delay = random.integers(0, 9, shape.jobs)
    told = violations(problem, region, delay).to_pylist()
    by_loop = set(broken(problem, region, delay))
    assert {(r["kind"], r["job"] if r["job"] is not None else r["region"]) for r in told} == by_loop


def broken(problem: Problem, region: np.ndarray, delay: np.ndarray) -> Iterator[tuple[str, object]]:
    """What a choice breaks, looked at job by job and hour by hour."""
    for j in range(len(problem)):
        if (int(region[j]), int(delay[j])) != (int(problem.home[j]), 0):
            yield from ((kind, j) for kind in broken_by_job(problem, j, int(region[j]), int(delay[j])))
    yield from broken_together(problem, region, delay)
    for before, after in problem.limits.precedence.tolist():
        end = problem.start_hours[before] + delay[before] + problem.duration_hours[before]
        if end > problem.start_hours[after] + delay[after]:
            yield "precedence", after


def broken_by_job(problem: Problem, j: int, r: int, d: int) -> Iterator[str]:
    hours = problem.carbon.shape[1]
    if d > problem.max_delay[j]:
        yield "window"
    if not problem.places.allowed[problem.place[j], r]:
        yield "region"
    if float(problem.start_hours[j]) + d + float(problem.duration_hours[j]) > hours:
        yield "horizon"
    inside = [h for h, _ in overlaps(problem, j, d) if h < hours]
    if any(not problem.available[r, h] for h in inside):
        yield "available"
    if any(np.isnan(problem.carbon[r, h]) or np.isnan(price_at(problem, r, h)) for h in inside):
        yield "unknown"


def broken_together(problem: Problem, region: np.ndarray, delay: np.ndarray) -> Iterator[tuple[str, object]]:
    load: dict[tuple[int, int], float] = {}
    egress, movable, into = 0.0, 0.0, dict.fromkeys(range(len(problem.regions)), 0.0)
    for j in range(len(problem)):
        r, work = int(region[j]), float(problem.vcpus[j] * problem.duration_hours[j])
        kind = problem.place[j]
        movable += work * bool(sum(problem.places.allowed[kind]) > 1 or problem.max_delay[j] > 0)
        into[r] += work * bool(r != problem.home[j])
        egress += float(problem.data_gb[j] * problem.places.egress_usd_per_gb[kind, r])
        for hour, part in overlaps(problem, j, int(delay[j])):
            if hour < problem.carbon.shape[1]:
                load[r, hour] = load.get((r, hour), 0.0) + float(part) * float(problem.vcpus[j])
    yield from (
        ("capacity", problem.regions[r]) for (r, h), held in load.items() if held > problem.capacity[r, h] + 1e-5
    )
    if egress > 1.0 + 1e-9:
        yield "egress_budget", None
    yield from (("share_cap", problem.regions[r]) for r, moved in into.items() if moved > 0.4 * movable + 1e-5)


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=shapes)
def test_plans_of_the_rules_break_nothing(seed, shape):
    problem = problem_of(seed, shape)
    plan = plan_rules(problem, Objective.effective_cost(100.0))
    assert violations(problem, plan.region, plan.delay).num_rows == 0
    assert is_open(problem, 0, int(plan.region[0]), int(plan.delay[0])) or plan.reason[0] > 0


# --- replay: the plan's rows against the rules in words


def rows_of(*jobs: dict) -> tuple[pa.Table, pa.Table]:
    given = table(*jobs)
    rows = planned(given, world(falling()))
    schema = pa.schema([pa.field(c.name, c.type) for c in PLAN_FILE])
    return given, pa.Table.from_pylist(rows, schema)


def kinds_of(given: pa.Table, rows: pa.Table, latency: np.ndarray | None = None) -> dict[str, str]:
    here = world(falling())
    matrix = here.pairs.latency_ms if latency is None else latency
    told = replay(read_jobs(given), rows, here.regions, matrix).to_pylist()
    return {r["job_id"]: r["kind"] for r in told}


SOME = (
    job(job_id="u", category="urgent"),
    job(job_id="b", category="balanced", requested_start=T0 + timedelta(minutes=20)),
    job(job_id="s", allowed_regions="eu-west-1"),
    job(job_id="x", category="huh"),
)


def changed(rows: pa.Table, which: str, /, **values: object) -> pa.Table:
    changed = [r | values if r["job_id"] == which else r for r in rows.to_pylist()]
    return pa.Table.from_pylist(changed, rows.schema)


def test_a_plan_of_ours_replays_without_a_word():
    given, rows = rows_of(*SOME)
    assert kinds_of(given, rows) == {}
    assert set(rows.column("action_type").to_pylist()) >= {"region_shift", "do_nothing"}


@pytest.mark.parametrize(
    ("job_id", "values", "kind"),
    [
        ("u", {"start": T0 + timedelta(hours=1)}, "window"),
        ("b", {"start": T0 + timedelta(hours=5, minutes=20)}, "window"),
        ("b", {"start": T0 + timedelta(hours=1)}, "window"),
        ("s", {"start": T0 - timedelta(hours=1)}, "window"),
        ("u", {"region": "eu-west-1"}, "region"),
        ("b", {"region": "westeurope"}, "region"),
        ("s", {"region": "us-west-2"}, "region"),
        ("s", {"region": "mars-9"}, "region"),
        ("x", {"region": "us-west-2", "action_type": "region_shift", "score_after": 0.0}, "region"),
        ("x", {"region": "eu-west-1", "score_after": 0.0}, "action_type"),
        ("s", {"action_type": "time_shift"}, "action_type"),
        ("s", {"score_after": 1e9}, "no_gain"),
        ("s", {"score_after": None}, "no_gain"),
        ("s", {"job_id": "nobody"}, "missing"),
    ],
)
def test_a_row_that_breaks_a_rule_is_found(job_id, values, kind):
    given, rows = rows_of(*SOME)
    told = replay(read_jobs(given), changed(rows, job_id, **values), world(falling()).regions, np.full((7, 7), np.nan))
    assert (job_id, kind) in {(r["job_id"], r["kind"]) for r in told.to_pylist()}


def test_rows_too_many_are_found():
    given, rows = rows_of(*SOME)
    assert kinds_of(given, pa.concat_tables([rows, rows.slice(1, 1)])) == {"b": "twice"}
    assert kinds_of(given.slice(1), rows) == {"u": "unknown_job"}


def test_urgent_work_in_a_region_of_unknown_or_long_latency_is_found():
    here = job(job_id="u", category="urgent", sla_latency_ms=50.0)
    given = table(here)
    _, rows = rows_of(job(job_id="u", category="urgent"))
    assert rows.column("region").to_pylist() == ["us-west-2"]
    assert kinds_of(given, rows) == {"u": "latency"}
    assert kinds_of(given, rows, np.full((len(PLACES), len(PLACES)), 50.1)) == {"u": "latency"}
    assert kinds_of(given, rows, np.full((len(PLACES), len(PLACES)), 50.0)) == {}


def test_a_job_without_a_data_size_elsewhere_is_found():
    _, rows = rows_of(job(job_id="s"))
    assert kinds_of(table(job(job_id="s", data_gb=None)), rows) == {"s": "region"}


def test_problem_and_rows_are_of_the_same_jobs():
    found = candidates(read_jobs(table(*SOME)), world(falling()), POWER)
    assert found.rows.tolist() == [0, 1, 2, 3]

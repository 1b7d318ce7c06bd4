"""Starts at any moment and suspended runs: exact against search on a fine grid, and on a published job trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import problem

from sust_dagster.agents.planner.finer import any_start, suspended
from sust_dagster.agents.planner.kernels import NOWHERE, best_places
from sust_dagster.agents.planner.problem import Objective, Problem, evaluate

TRACES = Path(__file__).parents[2] / ".." / "shared" / "data" / "traces"
KG = Objective.min_carbon()


@st.composite
def one_job(draw: st.DrawFn) -> Problem:
    """A job in quarters of hours, so that a grid of quarters meets every border."""
    hours = draw(st.integers(8, 16))
    values = st.lists(st.integers(1, 50), min_size=hours, max_size=hours)
    carbon = np.array([draw(values), draw(values)], float) / 100
    available = np.array(draw(st.lists(st.booleans(), min_size=2 * hours, max_size=2 * hours))).reshape(2, hours)
    return problem(
        1,
        regions=("us-east-1", "eu-north-1"),
        carbon=carbon,
        available=available | (draw(st.integers(0, 2)) > 0),
        start_hours=np.array([draw(st.integers(0, 12)) / 4]),
        duration_hours=np.array([draw(st.integers(1, 16)) / 4]),
        kw=np.array([draw(st.integers(1, 4)) / 2]),
        data_gb=np.array([draw(st.integers(0, 8)) / 4]),
        max_delay=np.array([draw(st.integers(0, 4))]),
    )


def quarters(p: Problem, objective: Objective, region: int) -> tuple[np.ndarray, np.ndarray]:
    """Cost of each quarter of an hour of the window, and whether it is open; plain loops, own arithmetic."""
    first = int(p.start_hours[0] * 4)
    last = min(first + int((p.duration_hours[0] + p.max_delay[0]) * 4), p.hours * 4)
    cost, is_open = [], []
    for q in range(first, last):
        hour = q // 4
        rate = objective.per_kg * p.kw[0] * p.carbon[region, hour] + objective.per_usd * p.money[0] * p.price[region, 0]
        cost.append(rate / 4)
        is_open.append(bool(p.available[region, hour]))
    return np.array(cost), np.array(is_open)


def least(p: Problem, objective: Objective, *, suspend: bool) -> float:
    best = np.inf
    need = int(p.duration_hours[0] * 4)
    for region in range(2):
        cost, is_open = quarters(p, objective, region)
        moving = objective.per_usd * p.data_gb[0] * p.places.egress_usd_per_gb[0, region]
        if suspend:
            usable = np.sort(cost[is_open])
            if len(usable) >= need:
                best = min(best, moving + usable[:need].sum())
            continue
        for at in range(len(cost) - need + 1):
            if is_open[at : at + need].all():
                best = min(best, moving + cost[at : at + need].sum())
    return best


@settings(max_examples=200, deadline=None)
@given(p=one_job(), price=st.sampled_from([0.0, 75.0]))
def test_any_start_is_the_least_over_a_grid_that_meets_every_border(p: Problem, price: float) -> None:
    objective = Objective.effective_cost(price) if price else KG
    found = any_start(p, objective)
    wanted = least(p, objective, suspend=False)
    assert found.score[0] == pytest.approx(wanted, rel=1e-9) if np.isfinite(wanted) else found.region[0] == NOWHERE


@settings(max_examples=200, deadline=None)
@given(p=one_job(), price=st.sampled_from([0.0, 75.0]))
def test_a_suspended_run_is_the_cheapest_quarters(p: Problem, price: float) -> None:
    objective = Objective.effective_cost(price) if price else KG
    found = suspended(p, objective)
    wanted = least(p, objective, suspend=True)
    if not np.isfinite(wanted):
        assert found.region[0] == NOWHERE
        assert len(found.job) == 0
        return
    assert found.score[0] == pytest.approx(wanted, rel=1e-9)
    assert found.hours_run.sum() == pytest.approx(p.duration_hours[0])
    assert p.available[found.region[0], found.hour].all()


@settings(max_examples=50, deadline=None)
@given(p=one_job())
def test_more_freedom_never_costs_more(p: Problem) -> None:
    whole, anywhere, pieces = best_places(p, KG).score[0], any_start(p, KG).score[0], suspended(p, KG).score[0]
    assert anywhere <= whole * (1 + 1e-9)
    assert pieces <= anywhere * (1 + 1e-9)


def test_ties_go_to_the_request_and_home() -> None:
    p = problem(1, carbon=np.full((3, 48), 0.2), start_hours=np.array([1.5]))
    found = any_start(p, KG)
    assert (found.start_hours[0], found.region[0]) == (1.5, 0)
    assert suspended(p, KG).hour.tolist() == [1, 2]


def pai_1k(zone: str) -> Problem:
    """The published trace: 6 h of slack for jobs up to 2 h, 24 h for longer ones, from hour 7000 of the year, as the
    peer's simulator has them.
    """
    files = (TRACES / "jobs" / "gaia_pai_1k.csv.gz", TRACES / "electricity_maps_2022_lifecycle_hourly_wide.parquet")
    for file in files:
        if not file.exists():
            pytest.skip(f"{file} is not here")
    jobs = pd.read_csv(files[0])
    grid = np.roll(pd.read_parquet(files[1], columns=[zone])[zone].to_numpy(float), -7000) / 1000
    n, hours = len(jobs), jobs["length"].to_numpy() / 3600
    return problem(
        n,
        regions=("us-east-1",),
        carbon=grid[None, :],
        start_hours=jobs["arrival_time"].to_numpy() / 3600,
        duration_hours=hours,
        kw=jobs["cpus"].to_numpy(float),
        max_delay=np.where(hours <= 2, 6, 24),
    )


@pytest.mark.parametrize(
    ("zone", "whole_hours", "any_moment", "pieces"),
    [
        ("AU-SA", 38.6, 38.8, 45.4),
        ("US-MIDA-PJM", 3.5, 3.6, 4.0),
        ("US-CAL-CISO", 23.2, 23.3, 27.4),
        ("IE", 19.8, 19.9, 21.6),
    ],
)
def test_the_published_savings_are_reached(zone: str, whole_hours: float, any_moment: float, pieces: float) -> None:
    """Savings in % against running at once, as the peers' own simulators gave them (one decimal)."""
    p = pai_1k(zone)
    now = evaluate(p, p.home, np.zeros(len(p), np.int64)).kg.sum()
    for kg, percent in (
        (best_places(p, KG).score, whole_hours),
        (any_start(p, KG).score, any_moment),
        (suspended(p, KG).score, pieces),
    ):
        assert round(100 * (1 - kg.sum() / now), 1) == percent

"""Small planning problems whose numbers are exact in binary, and what is best in them by trying everything.

Nothing here shares code with the planner but the classes that hold its arrays: sums are loops over hours in fractions,
so that equal scores are equal and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sust_dagster.agents.planner.problem import Limits, Objective, Places, Problem


@dataclass(frozen=True)
class Shape:
    """What a small problem has."""

    regions: int = 3
    hours: int = 12
    jobs: int = 4
    kinds: int = 2
    gaps: bool = True
    hourly_price: bool = True
    penalty: bool = True
    coarse: bool = True
    """Few different values, so that many places cost the same."""


def problem_of(seed: int, shape: Shape, limits: Limits | None = None, capacity: np.ndarray | None = None) -> Problem:
    """A problem from a seed; every number is a multiple of 1/16."""
    random = np.random.default_rng(seed)
    r, h, n, k = shape.regions, shape.hours, shape.jobs, shape.kinds

    def some(size: tuple[int, ...] | int, low: int, high: int, part: float) -> np.ndarray:
        return random.integers(low, high + 1, size) * part

    top = 3 if shape.coarse else 64
    carbon = some((r, h), 0 if shape.coarse else 1, top, 1 / 16)
    price = some((r, h if shape.hourly_price else 1), 0, top, 1 / 8)
    available = np.ones((r, h), bool)
    if shape.gaps:
        carbon[random.random((r, h)) < 0.08] = np.nan
        available = random.random((r, h)) > 0.08
        price[random.random(price.shape) < 0.05] = np.nan
    kind_home = random.integers(0, r, k)
    allowed = random.random((k, r)) < 0.7
    allowed[np.arange(k), kind_home] = True
    egress = some((k, r), 0, 2, 1 / 4)
    egress[np.arange(k), kind_home] = 0.0
    penalty = some((k, r), 0, 3, 1 / 2) if shape.penalty else np.zeros((k, r))
    penalty[np.arange(k), kind_home] = 0.0
    place = random.integers(0, k, n)
    return Problem(
        regions=tuple(f"r{i}" for i in range(r)),
        first_hour=0,
        carbon=carbon,
        price=price,
        capacity=np.full((r, h), np.inf) if capacity is None else capacity,
        available=available,
        places=Places(allowed, egress, penalty, np.zeros((k, r))),
        place=place,
        home=kind_home[place],
        start_hours=some(n, 0, 4 * h, 1 / 4),
        duration_hours=some(n, 1, 24, 1 / 4),
        kw=some(n, 0, 8, 1 / 4),
        vcpus=some(n, 1, 8, 1.0),
        money=some(n, 0, 4, 1 / 2),
        data_gb=some(n, 0, 4, 1 / 2),
        max_delay=random.integers(0, 9, n),
        limits=limits or Limits(),
    )


def overlaps(problem: Problem, job: int, delay: int) -> Iterator[tuple[int, Fraction]]:
    """Hours a run touches, and its part of each."""
    start = Fraction(float(problem.start_hours[job])) + delay
    end = start + Fraction(float(problem.duration_hours[job]))
    for hour in range(int(start), int(end) + 1):
        part = min(end, Fraction(hour + 1)) - max(start, Fraction(hour))
        if part > 0:
            yield hour, part


def price_at(problem: Problem, region: int, hour: int) -> float:
    return float(problem.price[region, hour if problem.price.shape[1] > 1 else 0])


def figures(problem: Problem, job: int, region: int, delay: int) -> tuple[Fraction, Fraction, Fraction] | None:
    """kg, USD (egress included) and penalty of a run; None where an hour has no carbon or price."""
    kg = usd = Fraction(0)
    for hour, part in overlaps(problem, job, delay):
        if hour >= problem.carbon.shape[1]:
            return None
        carbon, price = float(problem.carbon[region, hour]), price_at(problem, region, hour)
        if np.isnan(carbon) or np.isnan(price):
            return None
        kg += part * Fraction(float(problem.kw[job])) * Fraction(carbon)
        usd += part * Fraction(float(problem.money[job])) * Fraction(price)
    kind = problem.place[job]
    usd += Fraction(float(problem.data_gb[job])) * Fraction(float(problem.places.egress_usd_per_gb[kind, region]))
    return kg, usd, Fraction(float(problem.places.penalty_usd[kind, region]))


def score(objective: Objective, kg: Fraction, usd: Fraction, penalty: Fraction) -> Fraction:
    return (
        Fraction(objective.per_kg) * kg
        + Fraction(objective.per_usd) * usd
        + Fraction(objective.per_penalty_usd) * penalty
    )


def is_open(problem: Problem, job: int, region: int, delay: int) -> bool:
    return all(h < problem.carbon.shape[1] and problem.available[region, h] for h, _ in overlaps(problem, job, delay))


def best_by_trying(problem: Problem, objective: Objective, job: int) -> tuple[int, int, Fraction] | None:
    """Region, delay and score of the best place; None where the job cannot be planned at all.

    Ties: earliest start, then home, then the region listed first.
    """
    home = int(problem.home[job])
    if figures(problem, job, home, 0) is None:
        return None
    found = []
    for region in range(len(problem.regions)):
        if not problem.places.allowed[problem.place[job], region]:
            continue
        for delay in range(int(problem.max_delay[job]) + 1):
            there = figures(problem, job, region, delay)
            if there is not None and is_open(problem, job, region, delay):
                found.append((score(objective, *there), delay, region != home, region))
    if not found:
        return None
    value, delay, _, region = min(found)
    return region, delay, value

"""Robust plans: a move is proposed only when its saving survives the worst case of the forecast.

Belongs here: the worst case of a move's carbon saving, winner's-curse shrinkage, the plan that is best in the worst
case. Does not belong here: where quantiles come from (forecast, grid file), shared limits (``withdraw`` keeps them).

Worst case of a move to another region: the origin's hours at their p05, the target's at their p95. The errors of two
regions are not each other's, so that both may happen.

Worst case of a later start in the same region: the two windows share their grid, and hours that both touch cancel
exactly, so that only the hours of one window alone count: those it leaves, and as many that it enters. A part
``rho`` of their error is common (all hours high, or all low, or as forecast, whichever saves least), the rest is each
hour's own (those it leaves at p05, those it enters at p95)::

    S = rho x min over q in (p05, forecast, p95) of [sum q(left) - sum q(entered)]
      + (1 - rho) x [sum p05(left) - sum p95(entered)]

rho is the share that the plan interval uses (``recommend.COMMON_ERROR``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.planner.kernels import NOWHERE, best_places
from sust_dagster.agents.planner.outcome import Choice, word, words_of
from sust_dagster.agents.planner.problem import (
    TIE,
    Figures,
    Flags,
    Floats,
    Ints,
    Objective,
    Places,
    Plan,
    Problem,
    evaluate,
    feasible,
    integral,
)
from sust_dagster.agents.planner.recommend import COMMON_ERROR
from sust_dagster.agents.planner.rules import status_quo
from sust_dagster.agents.planner.withdraw import withdraw

#: Times a coupled plan is made anew without the places that did not survive.
ROUNDS = 6
#: Stands for a p95 that is not known: no saving survives it.
_NO_BOUND = 1e6


@dataclass(frozen=True)
class Quantiles:
    """R x H, kg per IT kWh, PUE included, like ``Problem.carbon``; NaN where not known."""

    low: Floats
    """p05."""
    high: Floats
    """p95."""

    def around(self, carbon: Floats) -> Quantiles:
        """The same, holding the forecast itself, without gaps: what is not known is as wide as can be."""
        low = np.minimum(np.nan_to_num(self.low, nan=0.0), np.nan_to_num(carbon))
        high = np.maximum(np.nan_to_num(self.high, nan=_NO_BOUND), np.nan_to_num(carbon))
        return Quantiles(low, high)


@dataclass(frozen=True)
class Robust:
    """What a saving must survive."""

    quantiles: Quantiles | None = None
    """None: the forecast itself."""
    shrink: Mapping[str, float] = field(default_factory=dict)
    """Factor in [0, 1] on carbon savings by action type (winner's curse, from what was verified); 1 where not given."""
    common: float = COMMON_ERROR
    """Part of a region's forecast error that its hours share."""

    def __post_init__(self) -> None:
        for name, factor in {**self.shrink, "common": self.common}.items():
            if not 0.0 <= factor <= 1.0:
                raise ValueError(f"{name} is {factor}, wanted 0 to 1")

    def factor(self, action: str) -> float:
        return self.shrink.get(action, 1.0)


def savings_kg(problem: Problem, robust: Robust, region: Ints, delay: Ints) -> Floats:
    """Per job: carbon saved in the worst case, before shrinkage; 0 where it does not move. Moves must be feasible."""
    zero = np.zeros(len(problem), np.int64)
    if robust.quantiles is None:
        saved = evaluate(problem, problem.home, zero).kg - evaluate(problem, region, delay).kg
    else:
        quantiles = robust.quantiles.around(problem.carbon)
        left = integral(quantiles.low, problem.home, problem.start_hours, problem.duration_hours)
        entered = integral(quantiles.high, region, problem.start_hours + delay, problem.duration_hours)
        elsewhere = problem.kw * (left - entered)
        saved = np.where(region != problem.home, elsewhere, _later_kg(problem, robust, quantiles, delay))
    return np.where((region != problem.home) | (delay > 0), saved, 0.0)


def _later_kg(problem: Problem, robust: Robust, quantiles: Quantiles, delay: Ints) -> Floats:
    """Worst-case saving of a later start at home."""
    apart = np.minimum(delay, problem.duration_hours)
    entered_at = problem.start_hours + np.maximum(delay, problem.duration_hours)

    def sums(hourly: Floats) -> tuple[Floats, Floats]:
        return (
            integral(hourly, problem.home, problem.start_hours, apart),
            integral(hourly, problem.home, entered_at, apart),
        )

    low, mean, high = (sums(q) for q in (quantiles.low, problem.carbon, quantiles.high))
    together = np.minimum.reduce([left - entered for left, entered in (low, mean, high)])
    return problem.kw * (robust.common * together + (1.0 - robust.common) * (low[0] - high[1]))


def gains(
    problem: Problem, objective: Objective, robust: Robust, region: Ints, delay: Ints, saved_kg: Floats
) -> Floats:
    """Per job: score that a move saves in the worst case, after shrinkage; 0 where it does not move."""
    before = evaluate(problem, problem.home, np.zeros(len(problem), np.int64))
    after = evaluate(problem, region, delay)
    shift, later = robust.factor("region_shift"), robust.factor("time_shift")
    factor = np.where(region != problem.home, shift, later)
    kept = np.where(saved_kg > 0, saved_kg * factor, saved_kg)
    money = objective.per_usd * (after.cost_usd - before.cost_usd)
    penalty = objective.per_penalty_usd * (after.penalty_usd - before.penalty_usd)
    moved = (region != problem.home) | (delay > 0)
    return np.where(moved, objective.per_kg * kept - money - penalty, 0.0)


def survives(problem: Problem, objective: Objective, robust: Robust, region: Ints, delay: Ints) -> tuple[Flags, Floats]:
    """Per job: whether a move saves anything in the worst case (False where it does not move), and its kg then."""
    kg = savings_kg(problem, robust, region, delay)
    gain = gains(problem, objective, robust, region, delay, kg)
    return gain > _least(objective, evaluate(problem, problem.home, np.zeros(len(problem), np.int64))), kg


def _least(objective: Objective, before: Figures) -> Floats:
    """What a gain must be above: rounding."""
    return TIE * np.abs(np.nan_to_num(before.score(objective)))


def plan_robust(problem: Problem, objective: Objective, robust: Robust) -> Choice:
    """The choice that is best in the worst case, where nothing couples the jobs; jobs whose saving does not survive
    stay, ``not_robust``.

    For another region the search runs on the p95 intensities, which is exact; for a later start at home every delay is
    looked at. ``Choice.worst_savings_kg`` holds what is left of the saving in the worst case.
    """
    now = status_quo(problem, objective)
    far, found = _elsewhere(problem, objective, robust)
    far_kg = savings_kg(problem, robust, *far)
    far_gain = np.where(found & now.planned, gains(problem, objective, robust, *far, far_kg), -np.inf)
    near_delay, near_gain, near_kg = _later(problem, objective, robust, now.planned)
    take_near = near_gain >= far_gain
    gain = np.where(take_near, near_gain, far_gain)
    moves = gain > _least(objective, now.figures)
    region = np.where(moves & ~take_near, far[0], problem.home)
    delay = np.where(moves, np.where(take_near, near_delay, far[1]), 0)
    kg = np.where(moves, np.where(take_near, near_kg, far_kg), 0.0)
    mean = best_places(problem, objective)
    wanted = now.planned & (mean.region != NOWHERE) & ((mean.region != problem.home) | (mean.delay > 0))
    why = np.where(wanted & ~moves, word("not_robust"), 0).astype(np.uint8)
    return Choice(problem, objective, region, delay, why, kg)


def surviving_regions(problem: Problem, objective: Objective, robust: Robust) -> Problem:
    """The problem without regions in which no start of a job saves anything in the worst case.

    For solvers of coupled jobs, which know no quantiles: what they choose from then mostly survives, so that little
    has to be taken back afterwards. Home stays allowed, and so do all starts there.
    """
    places = problem.places
    at_home = _at_home(problem)
    keeps = np.zeros((len(problem), len(problem.regions)), bool)
    for region in range(len(problem.regions)):
        only = np.zeros_like(places.allowed)
        only[:, region] = places.allowed[:, region] & ~at_home[:, region]
        if only.any():
            place, found = _best_among(problem, only, objective, robust)
            keeps[:, region] = found & survives(problem, objective, robust, *place)[0]
    return _narrowed(problem, keeps, problem.max_delay)


def without(problem: Problem, jobs: Flags, region: Ints) -> Problem:
    """The problem in which ``jobs`` may not go to ``region`` (n); those whose ``region`` is home may not wait."""
    keeps = problem.places.allowed[problem.place].copy()
    away = np.flatnonzero(jobs & (region != problem.home))
    keeps[away, region[away]] = False
    return _narrowed(problem, keeps, np.where(jobs & (region == problem.home), 0, problem.max_delay))


def _narrowed(problem: Problem, keeps: Flags, max_delay: Ints) -> Problem:
    """The problem with the regions of ``keeps`` (n x R) alone, and home; jobs that may do the same share a kind."""
    places, n = problem.places, len(problem)
    told = [problem.place.astype(np.int64).view(np.uint8).reshape(n, -1), np.packbits(keeps, axis=1)]
    rows, place = np.unique(np.concatenate(told, axis=1), axis=0, return_inverse=True)
    first = np.zeros(len(rows), np.int64)
    first[place[::-1]] = np.arange(n)[::-1]
    old = problem.place[first]
    narrowed = Places(
        allowed=places.allowed[old] & (keeps[first] | _at_home(problem)[old]),
        egress_usd_per_gb=places.egress_usd_per_gb[old],
        penalty_usd=places.penalty_usd[old],
        latency_delta_ms=places.latency_delta_ms[old],
    )
    return replace(problem, places=narrowed, place=place.astype(np.int64), max_delay=max_delay)


def _at_home(problem: Problem) -> Flags:
    """K x R: the home of each kind."""
    at_home = np.zeros(problem.places.allowed.shape, bool)
    at_home[problem.place, problem.home] = True
    return at_home


def robust_choice(
    problem: Problem,
    objective: Objective,
    robust: Robust,
    solve: Callable[[Problem, Objective], Plan],
    quickly: Callable[[Problem, Objective], Plan],
) -> Choice:
    """Moves that each save something in the worst case, also where limits couple the jobs.

    There, places that do not survive are barred and the rest is planned anew by ``quickly``, a few times, then once
    more by ``solve``; what still does not survive is taken back. Without quantiles this is a plan in which every move
    gains by itself, and none merely makes room for others.
    """
    if not problem.coupled:
        return plan_robust(problem, objective, robust)
    narrower = surviving_regions(problem, objective, robust)
    for _ in range(ROUNDS):
        plan = quickly(narrower, objective)
        falls = _falls(problem, objective, robust, plan)
        if not falls.any():
            break
        narrower = without(narrower, falls, plan.region)
    plan = solve(narrower, objective)
    kg = savings_kg(problem, robust, plan.region, plan.delay)
    gain = gains(problem, objective, robust, plan.region, plan.delay, kg)
    back = _falls(problem, objective, robust, plan)
    known = robust.quantiles is not None
    name = word("not_robust" if known else "no_own_gain")
    region, delay, why = withdraw(problem, plan.region, plan.delay, back, gain, name)
    why = np.where(why > 0, why, words_of(plan.reason)).astype(np.uint8)
    return Choice(problem, objective, region, delay, why, kg if known else None)


def _falls(problem: Problem, objective: Objective, robust: Robust, plan: Plan) -> Flags:
    """Moves of a plan that do not survive."""
    moved = (plan.region != problem.home) | (plan.delay > 0)
    return moved & ~survives(problem, objective, robust, plan.region, plan.delay)[0]


def _elsewhere(problem: Problem, objective: Objective, robust: Robust) -> tuple[tuple[Ints, Ints], Flags]:
    """Best place away from home on the p95 intensities; home where there is none."""
    return _best_among(problem, problem.places.allowed & ~_at_home(problem), objective, robust)


def _best_among(
    problem: Problem, allowed: Flags, objective: Objective, robust: Robust
) -> tuple[tuple[Ints, Ints], Flags]:
    """Best place in the ``allowed`` regions (K x R) on the p95 intensities; home, False, where there is none."""
    carbon = problem.carbon
    if robust.quantiles is not None:
        carbon = np.where(np.isnan(carbon), np.nan, robust.quantiles.around(carbon).high)
    shrunk = replace(objective, per_kg=objective.per_kg * robust.factor("region_shift"))
    places = replace(problem.places, allowed=allowed)
    best = best_places(replace(problem, carbon=carbon, places=places), shrunk)
    found = best.region != NOWHERE
    return (np.where(found, best.region, problem.home), np.where(found, best.delay, 0)), found


def _later(
    problem: Problem, objective: Objective, robust: Robust, planned: Flags
) -> tuple[Ints, NDArray[np.float64], Floats]:
    """Best later start at home: delay, gain (-inf where none) and worst-case kg; ties to the earliest."""
    n = len(problem)
    best_delay, best_gain, best_kg = np.zeros(n, np.int64), np.full(n, -np.inf), np.zeros(n)
    for delay in range(1, int(problem.max_delay.max(initial=0)) + 1):
        delays = np.where(problem.max_delay >= delay, delay, 0)
        kg = savings_kg(problem, robust, problem.home, delays)
        gain = gains(problem, objective, robust, problem.home, delays, kg)
        possible = (delays > 0) & planned & feasible(problem, problem.home, delays)
        better = possible & (gain > best_gain + TIE * np.abs(np.nan_to_num(best_gain, neginf=0.0)))
        best_delay, best_gain, best_kg = (
            np.where(better, new, old) for new, old in ((delay, best_delay), (gain, best_gain), (kg, best_kg))
        )
    return best_delay, best_gain, best_kg

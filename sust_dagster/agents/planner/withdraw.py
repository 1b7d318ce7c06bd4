"""Taking moves back: jobs return to their status quo, and every limit is kept all the same.

Belongs here: which other moves must be taken back when some are, because a place is no longer free; which moves that
gain nothing themselves are in nobody's way at home. Does not belong here: why a move is taken back (``robust``, the
faces), better plans (``scale``, ``coupled``).

A job that returns may find its old hour taken by one that moved in: then that one returns as well, least gain first.
In the end everything may be as it was, and the status quo breaks no limit that it did not break before: the loop ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.planner.outcome import word
from sust_dagster.agents.planner.problem import Flags, Floats, Ints, Problem, evaluate, load

_TOLERANCE = 1e-9


@dataclass
class _State:
    problem: Problem
    region: Ints
    delay: Ints
    gain: Floats
    why: NDArray[np.uint8]
    load: Floats
    most: Floats
    """R x H: what may be held; the status quo's own load where that is more."""

    @property
    def moved(self) -> Flags:
        return (self.region != self.problem.home) | (self.delay > 0)

    def back(self, jobs: NDArray[np.bool_], reason: int) -> None:
        """Return ``jobs`` to their status quo."""
        jobs = jobs & self.moved
        zero = np.zeros_like(self.delay)
        self.load += load(self.problem, self.problem.home, zero, jobs)
        self.load -= load(self.problem, self.region, self.delay, jobs)
        self.why = np.where(jobs, reason, self.why).astype(np.uint8)
        self.region = np.where(jobs, self.problem.home, self.region)
        self.delay = np.where(jobs, 0, self.delay)


def withdraw(
    problem: Problem, region: Ints, delay: Ints, back: Flags, gain: Floats, why: int
) -> tuple[Ints, Ints, NDArray[np.uint8]]:
    """The choice with the moves of ``back`` taken back, and those that no longer fit.

    ``gain`` (n) is what each move is worth: of those that must go, the least goes first. Returns region, delay and a
    word of ``outcome.WORDS`` by job: ``why`` for ``back``, the limit for the others, 0 where nothing was taken back.
    """
    zero = np.zeros(len(problem), np.int64)
    quo = load(problem, problem.home, zero)
    state = _State(
        problem, region.copy(), delay.copy(), gain, np.zeros(len(problem), np.uint8), load(problem, region, delay),
        np.maximum(problem.capacity, quo) * (1 + _TOLERANCE) + _TOLERANCE,
    )  # fmt: skip
    state.back(back, why)
    while _fit(state) or _keep_order(state) or _keep_cost(state):
        pass
    return state.region, state.delay, state.why


def settle(problem: Problem, region: Ints, delay: Ints, idle: Flags) -> tuple[Ints, Ints, Flags]:
    """The choice with those moves of ``idle`` taken back, one by one, that nothing rests on: where home still has room,
    and no cost limit is passed. Jobs that wait for others, or are waited for, are left where they are.

    Returns region, delay and the idle moves that stay.
    """
    region, delay = region.copy(), delay.copy()
    zero = np.zeros(len(problem), np.int64)
    held = load(problem, region, delay)
    most = np.maximum(problem.capacity, load(problem, problem.home, zero)) * (1 + _TOLERANCE) + _TOLERANCE
    usd = np.nan_to_num(evaluate(problem, region, delay).cost_usd - evaluate(problem, problem.home, zero).cost_usd)
    budget = _slack(problem, usd)
    tied = np.unique(problem.limits.precedence)
    waiting, before = np.flatnonzero(idle & ~np.isin(np.arange(len(problem)), tied)).tolist(), -1
    while len(waiting) != before:
        before, left = len(waiting), []
        for job in waiting:
            home = _hours_of(problem, job, int(problem.home[job]), 0)
            there = _hours_of(problem, job, int(region[job]), int(delay[job]))
            held[there.region, there.hours] -= there.vcpus
            fits = bool((held[home.region, home.hours] + home.vcpus <= most[home.region, home.hours]).all())
            if fits and usd[job] >= -budget:
                held[home.region, home.hours] += home.vcpus
                region[job], delay[job] = problem.home[job], 0
                budget += usd[job]
            else:
                held[there.region, there.hours] += there.vcpus
                left.append(job)
        waiting = left
    return region, delay, idle & ((region != problem.home) | (delay > 0))


@dataclass(frozen=True)
class _Run:
    """Where one run holds its vCPUs: a region, its hours, and vCPU-hours in each."""

    region: int
    hours: slice
    vcpus: Floats


def _hours_of(problem: Problem, job: int, region: int, delay: int) -> _Run:
    start = float(problem.start_hours[job]) + delay
    end = start + float(problem.duration_hours[job])
    first, last = int(np.floor(start)), min(int(np.ceil(end)), problem.hours)
    hour = np.arange(first, max(last, first))
    share = np.clip(np.minimum(end, hour + 1) - np.maximum(start, hour), 0.0, 1.0)
    return _Run(region, slice(first, max(last, first)), float(problem.vcpus[job]) * share)


def _slack(problem: Problem, usd: Floats) -> float:
    """USD that the plan may still cost more."""
    if problem.limits.max_cost_increase is None:
        return np.inf
    before = evaluate(problem, problem.home, np.zeros(len(problem), np.int64)).cost_usd
    return float(np.nansum(before)) * problem.limits.max_cost_increase - float(usd.sum())


def _fit(state: _State) -> bool:
    """Take back what overloads each hour, least gain first; whether anything was taken back."""
    any_back = False
    for region, hour in np.argwhere(state.load > state.most).tolist():
        excess = state.load[region, hour] - state.most[region, hour]
        if excess <= 0:
            continue  # freed by what went before
        start = state.problem.start_hours + state.delay
        share = np.minimum(start + state.problem.duration_hours, hour + 1) - np.maximum(start, hour)
        here = np.flatnonzero(state.moved & (state.region == region) & (share > 0))
        here = here[np.argsort(state.gain[here], kind="stable")]
        freed = np.cumsum(state.problem.vcpus[here] * share[here])
        go = np.zeros(len(state.region), bool)
        go[here[: int(np.searchsorted(freed, excess)) + 1]] = True
        state.back(go, word("capacity"))
        any_back |= bool(go.any())
    return any_back


def _keep_order(state: _State) -> bool:
    """Take back both jobs of a pair whose order the plan breaks and the status quo keeps."""
    pairs = state.problem.limits.precedence
    if not len(pairs):
        return False
    first, then = pairs[:, 0], pairs[:, 1]
    start = state.problem.start_hours
    early_now = np.maximum(start[first] + state.problem.duration_hours[first] - start[then], 0.0)
    early = start[first] + state.problem.duration_hours[first] - start[then] + state.delay[first] - state.delay[then]
    bad = early > early_now + _TOLERANCE
    if not bad.any():
        return False
    go = np.zeros(len(state.region), bool)
    go[pairs[bad].ravel()] = True
    go &= state.moved
    state.back(go, word("precedence"))
    return bool(go.any())


def _keep_cost(state: _State) -> bool:
    """Take back the moves that cost most for what they gain, until the cost limit is kept."""
    limits, problem = state.problem.limits, state.problem
    if limits.max_cost_increase is None:
        return False
    before = evaluate(problem, problem.home, np.zeros_like(state.delay))
    known = ~np.isnan(before.cost_usd)
    quo = float(before.cost_usd.sum(where=known))
    dearer = np.where(known, evaluate(problem, state.region, state.delay).cost_usd - before.cost_usd, 0.0)
    excess = float(dearer.sum()) - quo * limits.max_cost_increase
    if excess <= _TOLERANCE * max(quo, 1.0):
        return False
    costly = np.flatnonzero(state.moved & (dearer > 0))
    costly = costly[np.argsort(state.gain[costly] / dearer[costly], kind="stable")]
    freed = np.cumsum(dearer[costly])
    go = np.zeros(len(state.region), bool)
    go[costly[: int(np.searchsorted(freed, excess)) + 1]] = True
    state.back(go, word("cost_limit"))
    return bool(go.any())

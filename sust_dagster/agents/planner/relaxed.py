"""Limits that a plan does not keep, by name.

Belongs here: the words for each limit that even the status quo breaks, or that no plan found keeps. Does not belong
here: which jobs stay because of them (``core``, ``scale``).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sust_dagster.agents.planner.core import Reasons, overloads, share_room
from sust_dagster.agents.planner.problem import (
    HOUR_TOLERANCE,
    REASONS,
    Flags,
    Ints,
    Problem,
    evaluate,
    feasible,
    load,
)
from sust_dagster.agents.planner.rules import StatusQuo

#: Names of one kind that are written out; the rest are counted.
_MOST = 24
#: Relative rounding of sums of money and work.
_TOLERANCE = 1e-9


def relaxed(
    problem: Problem, now: StatusQuo, region: Ints, delay: Ints, pinned: Flags, reason: Reasons
) -> tuple[str, ...]:
    """A name for every limit that the choice breaks, in the order capacity, money, share, precedence, closed hours.

    ``pinned`` and ``reason`` (n) are those of the core: who keeps the status quo, and why.
    """
    names: list[str] = []
    for kind in (
        _capacity(problem, region, delay, pinned),
        _money(problem, now, region, delay),
        _share(problem, region),
        _precedence(problem, delay),
        _closed(problem, region, delay, reason),
    ):
        found = list(kind)
        names += found[:_MOST]
        if len(found) > _MOST:
            names.append(f"{found[0].split()[0]}: {len(found) - _MOST} more")
    return tuple(names)


def keeps_limits(problem: Problem, now: StatusQuo, region: Ints, delay: Ints) -> bool:
    """Whether a choice keeps every limit that couples jobs."""
    pinned, reason = np.ones(len(problem), np.bool_), np.zeros(len(problem), np.uint8)
    return not relaxed(problem, now, region, delay, pinned, reason)


def _capacity(problem: Problem, region: Ints, delay: Ints, pinned: Flags) -> Iterator[str]:
    if np.isinf(problem.capacity).all():
        return
    over = overloads(problem, load(problem, region, delay))
    if not over.any():
        return
    fixed = load(problem, region, delay, pinned)
    for r, h in np.argwhere(over).tolist():
        hour = np.datetime64(problem.first_hour + h, "h").astype("datetime64[m]")
        limit = problem.capacity[r, h]
        yield f"capacity {problem.regions[r]} {hour}Z: fixed load {fixed[r, h]:.6g} > {limit:.6g} vCPU"


def _money(problem: Problem, now: StatusQuo, region: Ints, delay: Ints) -> Iterator[str]:
    limits = problem.limits
    if limits.max_cost_increase is None and limits.egress_budget_usd is None:
        return
    figures = evaluate(problem, region, delay)
    if limits.max_cost_increase is not None:
        before = float(np.sum(now.figures.cost_usd, where=now.planned))
        after, limit = float(np.sum(figures.cost_usd, where=now.planned)), before * (1 + limits.max_cost_increase)
        if after > limit * (1 + _TOLERANCE) + _TOLERANCE:
            yield f"cost_limit {limits.max_cost_increase:+.6g} of {before:.6g} USD: {after:.6g} > {limit:.6g} USD"
    if limits.egress_budget_usd is not None:
        egress = float(figures.egress_usd.sum())
        if egress > limits.egress_budget_usd * (1 + _TOLERANCE) + _TOLERANCE:
            yield f"egress_budget: {egress:.6g} > {limits.egress_budget_usd:.6g} USD"


def _share(problem: Problem, region: Ints) -> Iterator[str]:
    if problem.limits.share_cap is None:
        return
    limit = share_room(problem)
    moved = region != problem.home
    work = (problem.vcpus * problem.duration_hours)[moved]
    into = np.bincount(region[moved], work, minlength=len(problem.regions))
    for r in np.flatnonzero(into > limit * (1 + _TOLERANCE) + _TOLERANCE).tolist():
        yield f"share_cap {problem.regions[r]}: {into[r]:.6g} > {limit:.6g} vCPU-hours"


def _precedence(problem: Problem, delay: Ints) -> Iterator[str]:
    before, after = problem.limits.precedence.T
    end = problem.start_hours[before] + delay[before] + problem.duration_hours[before]
    early = end - problem.start_hours[after] - delay[after]
    for k in np.flatnonzero(early > HOUR_TOLERANCE).tolist():
        yield f"precedence: job {after[k]} starts {early[k]:.6g} h before job {before[k]} ends"


def _closed(problem: Problem, region: Ints, delay: Ints, reason: Reasons) -> Iterator[str]:
    """Jobs that a limit keeps in hours they should have left."""
    limits = [REASONS.index(word) for word in ("capacity", "cost_limit", "egress_budget", "share_cap", "precedence")]
    stays = np.isin(reason, limits) & ~feasible(problem, region, delay)
    for job in np.flatnonzero(stays).tolist():
        yield f"{REASONS[reason[job]]}: job {job} finds no other place and stays in hours that are not open"

"""The compiled search: for each job the best region and start, all jobs at once.

Belongs here: loops over jobs x regions x starts, compiled and run on every core. Does not belong here: what the
fields mean (``problem``), which of them apply (``rules``, ``scale``).

For one job the hours at the two ends of a run keep their shares whatever the whole-hour delay, so its cost at delay s
is a fixed combination of four entries of a region's prefix sums shifted by s: no loop over the run's hours. Chunks of
jobs run in threads without the interpreter lock; each job's answer depends on that job alone, so the chunking never
shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba as nb
import numpy as np

from sust_dagster.agents.planner.problem import (
    HOUR_TOLERANCE,
    MOST_DELAYS,
    TIE,
    Flags,
    Floats,
    Ints,
    Objective,
    Problem,
    prefix,
)

#: Jobs per chunk: enough to hide the call, few enough to share the cores evenly.
CHUNK = 16_384
#: Region code of a job that has no feasible start anywhere.
NOWHERE = -1
#: Carbon of an hour no run may touch, in the search bounds: finite, so that a job without power stays a number.
_NEVER = 1e300


@dataclass(frozen=True)
class Prices:
    """What a plan pays for what jobs share, in units of the objective; all from 0 up (dual prices of the limits)."""

    capacity: Floats | None = None
    """R x H, per vCPU-hour."""
    cost_usd: float = 0.0
    """Per USD of cost (compute and egress), on top of the objective's own weight."""
    egress_usd: float = 0.0
    """Per USD of egress."""
    share: Floats | None = None
    """R, per vCPU-hour that moves in."""


@dataclass(frozen=True)
class Best:
    """Per job: region (``NOWHERE`` if none), delay, and its score with prices; +inf where there is none."""

    region: Ints
    delay: Ints
    score: Floats


def best_places(problem: Problem, objective: Objective, prices: Prices | None = None) -> Best:
    """The lowest score of every job over its feasible (region, start).

    Ties (to 1e-12 of the scores) go to the earliest start, then the home region, then the region listed first.
    """
    n = len(problem)
    best = Best(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n))
    tables = _Tables.of(problem, objective, prices or Prices())

    def chunk(low: int, high: int) -> None:
        _search(
            low, high, problem.hours, problem.place, problem.home, problem.start_hours, problem.duration_hours,
            problem.kw, problem.money, problem.vcpus, problem.data_gb, problem.max_delay,
            tables.allowed, tables.per_gb, tables.fixed, tables.share, tables.carbon, tables.price, tables.flat_price,
            tables.capacity, tables.closed, tables.has_closed, tables.order, tables.floor,
            best.region, best.delay, best.score,
        )  # fmt: skip

    in_chunks(n, chunk)
    return best


def in_chunks(n: int, work: Callable[[int, int], None]) -> None:
    """Run ``work(low, high)`` over ``range(n)`` in chunks, on every core (``work`` must release the lock)."""
    borders = [(low, min(low + CHUNK, n)) for low in range(0, n, CHUNK)]
    if len(borders) < 2:
        for low, high in borders:
            work(low, high)
        return
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        list(pool.map(lambda border: work(*border), borders))


@dataclass(frozen=True)
class _Tables:
    """The problem's fields with the weights multiplied in, laid out for the compiled loop."""

    allowed: Flags
    per_gb: Floats
    fixed: Floats
    share: Floats
    carbon: Floats
    price: Floats
    flat_price: Floats
    capacity: Floats
    closed: Ints
    has_closed: Flags
    order: Ints
    floor: Floats

    @classmethod
    def of(cls, problem: Problem, objective: Objective, prices: Prices) -> _Tables:
        regions, hours = len(problem.regions), problem.hours
        per_usd = objective.per_usd + prices.cost_usd
        places = problem.places
        none = np.zeros((regions, 0))
        closed = np.zeros((regions, hours + 1), np.int64)
        np.cumsum(~problem.open_hours, axis=1, out=closed[:, 1:])
        varies = problem.price.shape[1] > 1 and per_usd > 0
        # Least carbon term per kWh of each region: the regions are searched in its order, and passed over by it.
        floor = objective.per_kg * np.where(problem.open_hours, problem.carbon, _NEVER).min(axis=1, initial=_NEVER)
        return cls(
            allowed=np.ascontiguousarray(places.allowed),
            per_gb=(per_usd + prices.egress_usd) * places.egress_usd_per_gb,
            fixed=objective.per_penalty_usd * places.penalty_usd,
            share=np.zeros(regions) if prices.share is None else np.asarray(prices.share, np.float64),
            carbon=_pairs(objective.per_kg * problem.carbon),
            price=_pairs(per_usd * problem.price) if varies else none,
            flat_price=np.zeros(regions) if varies else per_usd * np.nan_to_num(problem.price[:, 0]),
            capacity=none if prices.capacity is None else _pairs(prices.capacity),
            closed=closed,
            has_closed=closed[:, -1] > 0,
            order=np.argsort(floor, kind="stable"),
            floor=floor,
        )


def _pairs(hourly: Floats) -> Floats:
    """R x (H + 2) prefix sums, the last repeated, so that the entry after the last hour can be read."""
    sums = prefix(hourly)
    return np.concatenate([sums, sums[:, -1:]], axis=1)


@nb.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "nnan"})
def _search(  # noqa: C901 - one compiled loop: calls inside it cost more than the work
    low: int, high: int, hours: int, place: Ints, home: Ints, start_hours: Floats, duration_hours: Floats, kw: Floats,
    money: Floats, vcpus: Floats, data_gb: Floats, max_delay: Ints, allowed: Flags, per_gb: Floats, fixed: Floats,
    share: Floats, carbon: Floats, price: Floats, flat_price: Floats, capacity: Floats, closed: Ints,
    has_closed: Flags, order: Ints, floor: Floats, out_region: Ints, out_delay: Ints, out_score: Floats,
) -> None:  # fmt: skip  # pragma: no cover
    values = np.empty(MOST_DELAYS + 1)
    only_carbon = price.shape[1] == 0 and capacity.shape[1] == 0
    for j in range(low, high):
        duration, start = duration_hours[j], start_hours[j]
        end = start + duration
        h0, h1 = int(np.floor(start)), int(np.floor(end))
        a, b = start - h0, end - h1
        # Delays whose run still ends inside the hours.
        count = 1 + min(max_delay[j], int(np.floor(hours - end + HOUR_TOLERANCE)))
        best, best_region, best_delay = np.inf, NOWHERE, 0
        k, own, energy = place[j], home[j], kw[j] * duration
        for at in range(order.shape[0] if count > 0 else 0):
            r = order[at]
            if not allowed[k, r]:
                continue
            constant = data_gb[j] * per_gb[k, r] + fixed[k, r] + money[j] * duration * flat_price[r]
            if r != own:
                constant += vcpus[j] * duration * share[r]
            if constant + energy * floor[r] > best + TIE * abs(best):
                continue  # not even in its cleanest hour
            end0, end1, begin0, begin1 = kw[j] * (1.0 - b), kw[j] * b, kw[j] * (1.0 - a), kw[j] * a
            if only_carbon:
                # A look at the least value first, without keeping the others: most regions end here. Unsigned places
                # and no slices, so that the loop is vector code.
                at_end, at_begin, one = nb.uintp(h1), nb.uintp(h0), nb.uintp(1)
                row = nb.uintp(r)
                least = np.inf
                for shift in range(nb.uintp(count)):
                    value = end0 * carbon[row, at_end + shift] + end1 * carbon[row, at_end + shift + one]
                    value -= begin0 * carbon[row, at_begin + shift] + begin1 * carbon[row, at_begin + shift + one]
                    least = min(least, value)
                if constant + least > best + 2.0 * TIE * abs(best):
                    continue
            ends, begins = carbon[r, h1 : h1 + count + 1], carbon[r, h0 : h0 + count + 1]
            for s in range(count):
                values[s] = constant + end0 * ends[s] + end1 * ends[s + 1] - begin0 * begins[s] - begin1 * begins[s + 1]
            if price.shape[1]:
                end0, end1, begin0, begin1 = money[j] * (1.0 - b), money[j] * b, money[j] * (1.0 - a), money[j] * a
                ends, begins = price[r, h1 : h1 + count + 1], price[r, h0 : h0 + count + 1]
                for s in range(count):
                    values[s] += end0 * ends[s] + end1 * ends[s + 1] - begin0 * begins[s] - begin1 * begins[s + 1]
            if capacity.shape[1]:
                end0, end1, begin0, begin1 = vcpus[j] * (1.0 - b), vcpus[j] * b, vcpus[j] * (1.0 - a), vcpus[j] * a
                ends, begins = capacity[r, h1 : h1 + count + 1], capacity[r, h0 : h0 + count + 1]
                for s in range(count):
                    values[s] += end0 * ends[s] + end1 * ends[s + 1] - begin0 * begins[s] - begin1 * begins[s + 1]
            if has_closed[r]:
                last = int(np.ceil(end - HOUR_TOLERANCE))
                for s in range(count):
                    if closed[r, last + s] != closed[r, h0 + s]:
                        values[s] = np.inf
            lowest = values[0]
            for s in range(1, count):
                lowest = min(lowest, values[s])
            margin = TIE * max(abs(lowest), abs(best)) if best < np.inf else 0.0
            if lowest > best + margin or lowest == np.inf:
                continue
            s = 0
            while values[s] > lowest + TIE * abs(lowest):
                s += 1
            first = s < best_delay or (s == best_delay and (r == own or (best_region != own and r < best_region)))
            if lowest < best - margin or first:
                best, best_region, best_delay = lowest, r, s
        out_region[j], out_delay[j], out_score[j] = best_region, best_delay, best

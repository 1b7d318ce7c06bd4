"""Finer than whole hours: the best start at any moment, and runs that may be suspended.

Belongs here: the exact optimum of one job at a time in continuous time, for jobs nothing couples. Does not belong here:
starts on whole hours after the request (``rules``), which is what schedulers take and plans are made of.

Within an hour nothing changes, so the cost of a run is piecewise linear in its start, and its least value lies where
the start or the end meets an hour's border, or at either end of the window: those are all the starts there are to look
at. A suspendable run needs ``duration`` hours of running anywhere between its request and the latest end of a run that
was never suspended; the cheapest hours first are best (fractional knapsack), the last of them in part. Stopping and
starting again is taken to cost nothing: where it does, the contiguous figure is the one to use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np

from sust_dagster.agents.planner.kernels import NOWHERE, in_chunks
from sust_dagster.agents.planner.problem import HOUR_TOLERANCE, TIE, Flags, Floats, Ints, Objective, Problem, prefix


@dataclass(frozen=True)
class AnyStart:
    """Per job: region (``NOWHERE`` if none), start in hours since the problem's first, score (+inf if none)."""

    region: Ints
    start_hours: Floats
    score: Floats


@dataclass(frozen=True)
class Suspended:
    """Per job: region and score; and the pieces, one row per job and hour it runs in, in that order."""

    region: Ints
    score: Floats
    job: Ints
    hour: Ints
    hours_run: Floats


def any_start(problem: Problem, objective: Objective) -> AnyStart:
    """The best region and moment to start for each job; ties to the earlier start, then home, then the first region."""
    n = len(problem)
    out = AnyStart(np.empty(n, np.int64), np.empty(n), np.empty(n))
    rates, fixed, open_hours = _tables(problem, objective)
    sums = np.stack([np.concatenate([prefix(r), np.zeros((len(r), 1))], axis=1) for r in rates])
    closed = np.zeros((len(problem.regions), problem.hours + 1), np.int64)
    np.cumsum(~open_hours, axis=1, out=closed[:, 1:])

    def chunk(low: int, high: int) -> None:
        _any_start(
            low, high, problem.hours, problem.place, problem.home, problem.start_hours, problem.duration_hours,
            problem.kw, problem.money, problem.data_gb, problem.max_delay.astype(np.float64), problem.places.allowed,
            problem.places.egress_usd_per_gb * objective.per_usd, fixed, sums, closed,
            out.region, out.start_hours, out.score,
        )  # fmt: skip

    in_chunks(n, chunk)
    return out


def suspended(problem: Problem, objective: Objective) -> Suspended:
    """The best region and hours of running for each job that may stop and go on.

    A job runs between its request and ``request + duration + max_delay``. Of hours that cost the same the earlier ones
    are taken. A job with too few open hours anywhere gets ``NOWHERE``.
    """
    n = len(problem)
    region, score = np.empty(n, np.int64), np.empty(n)
    most = int(np.ceil(problem.duration_hours + problem.max_delay).max(initial=0)) + 2
    share = np.zeros((n, min(most, problem.hours)))
    rates, fixed, open_hours = _tables(problem, objective)

    def chunk(low: int, high: int) -> None:
        _suspended(
            low, high, problem.hours, problem.place, problem.home, problem.start_hours, problem.duration_hours,
            problem.kw, problem.money, problem.data_gb, problem.max_delay.astype(np.float64), problem.places.allowed,
            problem.places.egress_usd_per_gb * objective.per_usd, fixed, rates, open_hours, region, score, share,
        )  # fmt: skip

    in_chunks(n, chunk)
    job, at = np.nonzero(share)
    hour = np.floor(problem.start_hours).astype(np.int64)[job] + at
    return Suspended(region, score, job, hour, share[job, at])


def _tables(problem: Problem, objective: Objective) -> tuple[Floats, Floats, Flags]:
    """Weighted hourly rates (2 x R x H: per kW, per unit of money), fixed USD by place, open hours."""
    price = np.broadcast_to(problem.price, problem.carbon.shape)
    rates = np.stack([objective.per_kg * problem.carbon, objective.per_usd * price])
    return np.nan_to_num(rates), objective.per_penalty_usd * problem.places.penalty_usd, problem.open_hours


@nb.njit(nogil=True, cache=True)
def _until(sums: Floats, field: int, r: int, x: float) -> float:  # pragma: no cover - compiled
    whole = int(np.floor(x))
    part = x - whole
    return (1.0 - part) * sums[field, r, whole] + part * sums[field, r, min(whole + 1, sums.shape[2] - 2)]


@nb.njit(nogil=True, cache=True)
def _any_start(
    low: int, high: int, hours: int, place: Ints, home: Ints, start_hours: Floats, duration_hours: Floats, kw: Floats,
    money: Floats, data_gb: Floats, slack: Floats, allowed: Flags, per_gb: Floats, fixed: Floats, sums: Floats,
    closed: Ints, out_region: Ints, out_start: Floats, out_score: Floats,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    for j in range(low, high):
        duration, first = duration_hours[j], start_hours[j]
        last = min(first + slack[j], hours - duration)
        best, best_region, best_start = np.inf, NOWHERE, first
        steps = int(np.floor(last)) - int(np.floor(first)) + 1 if last >= first - HOUR_TOLERANCE else -1
        for r in range(allowed.shape[1] if steps >= 0 else 0):
            if not allowed[place[j], r]:
                continue
            constant = data_gb[j] * per_gb[place[j], r] + fixed[place[j], r]
            # The request, the end of the window, each hour's border met by the start, and each met by the end.
            for kind in range(3):
                for k in range(2 if kind == 0 else steps + 1):
                    if kind == 0:
                        x = first if k == 0 else last
                    elif kind == 1:
                        x = np.floor(first) + k + 1.0
                    else:
                        x = np.floor(first + duration) + k + 1.0 - duration
                    if x < first or x > last:
                        continue
                    end = x + duration
                    if closed[r, min(int(np.ceil(end - HOUR_TOLERANCE)), hours)] != closed[r, int(np.floor(x))]:
                        continue
                    end = min(end, float(hours))
                    value = constant + kw[j] * (_until(sums, 0, r, end) - _until(sums, 0, r, x))
                    value += money[j] * (_until(sums, 1, r, end) - _until(sums, 1, r, x))
                    margin = TIE * max(abs(value), abs(best)) if best < np.inf else 0.0
                    same = value <= best + margin
                    own = x == best_start and r == home[j] and best_region != r
                    if value < best - margin or (same and (x < best_start or own)):
                        best, best_region, best_start = value, r, x
        out_region[j], out_start[j], out_score[j] = best_region, best_start, best


@nb.njit(nogil=True, cache=True)
def _suspended(
    low: int, high: int, hours: int, place: Ints, home: Ints, start_hours: Floats, duration_hours: Floats, kw: Floats,
    money: Floats, data_gb: Floats, slack: Floats, allowed: Flags, per_gb: Floats, fixed: Floats, rates: Floats,
    open_hours: Flags, out_region: Ints, out_score: Floats, out_share: Floats,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    for j in range(low, high):
        duration, first = duration_hours[j], start_hours[j]
        until = min(first + duration + slack[j], float(hours))
        h0 = int(np.floor(first))
        width = int(np.ceil(until - HOUR_TOLERANCE)) - h0
        best, best_region = np.inf, NOWHERE
        for r in range(allowed.shape[1] if width > 0 else 0):
            if not allowed[place[j], r]:
                continue
            cost = np.empty(width)
            for k in range(width):
                cost[k] = kw[j] * rates[0, r, h0 + k] + money[j] * rates[1, r, h0 + k]
            left = duration
            value = data_gb[j] * per_gb[place[j], r] + fixed[place[j], r]
            share = np.zeros(width)
            order = np.argsort(cost, kind="mergesort")
            for at in range(width):
                k = order[at]
                room = min(until, h0 + k + 1.0) - max(first, float(h0 + k))
                if left <= 0.0 or room <= 0.0 or not open_hours[r, h0 + k]:
                    continue
                share[k] = min(room, left)
                left -= share[k]
                value += share[k] * cost[k]
            if left > HOUR_TOLERANCE * max(1.0, duration):
                continue
            margin = TIE * max(abs(value), abs(best)) if best < np.inf else 0.0
            if value < best - margin or (value <= best + margin and r == home[j]):
                best, best_region = value, r
                out_share[j, :] = 0.0
                out_share[j, :width] = share
        out_region[j], out_score[j] = best_region, best

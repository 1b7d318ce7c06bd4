"""A few thousand jobs placed by annealing: the compiled search for the days that are hard to round.

Belongs here: moves and swaps of jobs between written-out places under penalties for overload (Kirkpatrick, Gelatt and
Vecchi, 1983). Does not belong here: places (``columns``), the check that what it found fits (``moves``), bounds.

With few jobs the best plan of each hour is a packing: big runs exclude each other, and no price can say which. The
search lets hours be overloaded at a price, the dual price at first and a multiple later, so that runs change places
through each other; the last phase forbids it. Its budget is a number of steps; chains differ by their seed alone.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.planner.columns import Columns
from sust_dagster.agents.planner.core import Core
from sust_dagster.agents.planner.duals import Dual, Resources
from sust_dagster.agents.planner.moves import Jobs, window
from sust_dagster.agents.planner.problem import Floats, Ints

#: Phases of a chain: share of the steps, temperature from and to in units of the mean saving of a job, multiple of the
#: dual price from and to, share of the highest price added to each from and to.
_PHASES = np.array(
    [
        [0.55, 1.2e-1, 8e-4, 1.0, 4.0, 0.05, 0.3],
        [0.35, 8e-4, 8e-5, 4.0, 100.0, 0.3, 30.0],
        [0.10, 8e-5, 3e-5, 1e3, 1e6, 1e3, 1e6],
    ]
)
#: Temperature a chain begins with that goes on from a plan.
_AGAIN = 1e-2
#: Steps between two settings of temperature and penalties.
_TURN = 20_000
#: Places are tried by rank: rank = places x u ^ _RANKS with u uniform, so the cheap ones are tried most.
_RANKS = 4.0
#: Share of moves that only shift a run's start, and hours they reach.
_SHIFTS, _REACH = 0.3, 2
#: Share of moves refused for overload alone that are tried again as a swap, and jobs looked at for a partner.
_SWAPS, _PARTNERS = 0.3, 12
#: Jobs are tried in proportion to work ^ _WEIGHT.
_WEIGHT = 0.5
_TABLE = 1 << 14
#: Overload that is none: rounding, in units of the resource.
_FIT = 1e-9


@dataclass(frozen=True)
class Found:
    """The best choice that overloads nothing: a column by job, and its score (+inf: there was none)."""

    column: Ints
    score: float


def anneal(
    core: Core, jobs: Jobs, columns: Columns, dual: Dual, *, steps: int, chains: int, rounds: int, start: Ints
) -> Found:
    """The best of several chains from ``start`` (a column by job, which may overload), then of ``rounds`` of chains
    that begin less hot from the best so far. Every job must have a column.
    """
    resources = Resources.of(core.problem.capacity, core.rooms)
    top = np.maximum(dual.sizes.price, dual.x)
    top[: resources.cells] = top[: resources.cells].max()
    work = (core.problem.vcpus * core.problem.duration_hours + 1e-9) ** _WEIGHT
    turns = np.searchsorted(np.cumsum(work) / work.sum(), (np.arange(_TABLE) + 0.5) / _TABLE)
    unit = dual.sizes.saving / len(core)

    at = np.full((len(core), len(core.problem.regions), int(columns.delay.max()) + 1), -1)
    at[columns.job, columns.region, columns.delay] = np.arange(len(columns))

    def chain(k: int, start: Ints, phases: Floats) -> Found:
        column, best = start.copy(), start.copy()
        score = _anneal(
            jobs, columns.first, columns.region, columns.delay, columns.score, columns.uses.first,
            columns.uses.resource, columns.uses.amount, resources.room, dual.x, top, turns, phases, steps, unit, at,
            k + 1, column, best,
        )  # fmt: skip
        return Found(best, score)

    again = _PHASES.copy()
    again[0, 1] = _AGAIN
    best = Found(start, np.inf)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for turn in range(rounds + 1):
            begin, phases = (start, _PHASES) if np.isinf(best.score) else (best.column, again)
            numbers = range(turn * chains, (turn + 1) * chains)
            found = pool.map(chain, numbers, [begin] * chains, [phases] * chains)
            best = min(best, *found, key=lambda one: one.score)
    return best


@nb.njit(nogil=True, cache=True)
def _random(state: NDArray[np.uint64]) -> float:  # pragma: no cover
    """Uniform in [0, 1): xorshift64 (Marsaglia, 2003)."""
    word = state[0]
    word ^= word << np.uint64(13)
    word ^= word >> np.uint64(7)
    word ^= word << np.uint64(17)
    state[0] = word
    return (word >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@nb.njit(nogil=True, cache=True)
def _use(
    c: int, sign: float, use_first: Ints, resource: Ints, amount: Floats, room: Floats, weight: Floats, use: Floats,
    over: Ints,
) -> float:  # fmt: skip  # pragma: no cover
    """Add (or take, sign -1) a place's uses; the change of the penalty. ``over[0]`` counts overloaded resources."""
    change = 0.0
    for i in range(use_first[c], use_first[c + 1]):
        r = resource[i]
        before = use[r] - room[r]
        after = before + sign * amount[i]
        change += weight[r] * (max(after, 0.0) - max(before, 0.0))
        over[0] += (after > _FIT) - (before > _FIT)
        use[r] += sign * amount[i]
    return change


@nb.njit(nogil=True, cache=True)
def _anneal(  # noqa: C901 - one compiled loop
    jobs: Jobs, first: Ints, region: Ints, delays: Ints, score: Floats, use_first: Ints, resource: Ints,
    amount: Floats, room: Floats, x: Floats, top: Floats, turns: Ints, phases: Floats, steps: int, unit: float,
    at: Ints, seed: int, column: Ints, best: Ints,
) -> float:  # fmt: skip  # pragma: no cover
    m = column.shape[0]
    state = np.array([np.uint64(seed) * np.uint64(0x2545F4914F6CDD1D)])
    for _ in range(20):
        _random(state)
    use, weight, over = np.zeros(room.shape[0]), np.zeros(room.shape[0]), np.zeros(1, np.int64)
    delay = np.empty(m, np.int64)
    total, least, hottest = 0.0, np.inf, 1.0
    for p in range(phases.shape[0]):
        phase = phases[p]
        count = int(steps * phase[0])
        # Sums anew in each phase: thousands of additions and subtractions leave a trace.
        use[:] = 0.0
        over[0] = 0
        total = 0.0
        for j in range(m):
            c = column[j]
            delay[j] = delays[c]
            total += score[c]
            _use(c, 1.0, use_first, resource, amount, room, weight, use, over)
        for step in range(count):
            if step % _TURN == 0:
                part = step / count
                hottest = unit * phase[1] * (phase[2] / phase[1]) ** part
                by_price = phase[3] * (phase[4] / phase[3]) ** part
                by_top = phase[5] * (phase[6] / phase[5]) ** part
                for r in range(room.shape[0]):
                    weight[r] = by_price * x[r] + by_top * top[r]
            j = turns[int(_random(state) * turns.shape[0])]
            old = column[j]
            if _random(state) < _SHIFTS:
                shift = delays[old] + int(_random(state) * (2 * _REACH + 1)) - _REACH
                new = at[j, region[old], shift] if 0 <= shift < at.shape[2] else old
                if new < 0:
                    continue
            else:
                new = first[j] + int((first[j + 1] - first[j]) * _random(state) ** _RANKS)
            if new == old:
                continue
            linked = jobs.link_first[j + 1] > jobs.link_first[j]
            if linked:
                low, high = window(jobs, j, delay)
                if delays[new] < low or delays[new] > high:
                    continue
            change = score[new] - score[old]
            penalty = _use(old, -1.0, use_first, resource, amount, room, weight, use, over)
            entry = _use(new, 1.0, use_first, resource, amount, room, weight, use, over)
            rise = change + penalty + entry
            if rise <= 0 or _random(state) < np.exp(-rise / hottest):
                column[j], delay[j] = new, delays[new]
                total += change
            else:
                k = -1
                if entry > 0 and not linked and _random(state) < _SWAPS:
                    k = _partner(state, new, column, first, region, use_first, resource, jobs)
                taken = False
                if k >= 0:
                    theirs = column[k]
                    other = _destination(state, k, j, old, first, region, delays, jobs.start, at)
                    back = _use(theirs, -1.0, use_first, resource, amount, room, weight, use, over)
                    back += _use(other, 1.0, use_first, resource, amount, room, weight, use, over)
                    both = change + score[other] - score[theirs]
                    rise += score[other] - score[theirs] + back
                    taken = rise <= 0 or _random(state) < np.exp(-rise / hottest)
                    if taken:
                        column[j], delay[j], column[k], delay[k] = new, delays[new], other, delays[other]
                        total += both
                    else:
                        _use(other, -1.0, use_first, resource, amount, room, weight, use, over)
                        _use(theirs, 1.0, use_first, resource, amount, room, weight, use, over)
                if not taken:
                    _use(new, -1.0, use_first, resource, amount, room, weight, use, over)
                    _use(old, 1.0, use_first, resource, amount, room, weight, use, over)
                    continue
            if over[0] == 0 and total < least:
                least = total
                best[:] = column
    return least


@nb.njit(nogil=True, cache=True)
def _partner(
    state: NDArray[np.uint64], new: int, column: Ints, first: Ints, region: Ints, use_first: Ints, resource: Ints,
    jobs: Jobs,
) -> int:  # fmt: skip  # pragma: no cover
    """A job that runs in the hours and region of place ``new``, or -1: a few are drawn and looked at."""
    for _ in range(_PARTNERS):
        k = int(_random(state) * column.shape[0])
        held = column[k]
        if region[held] != region[new] or first[k + 1] - first[k] < 2 or jobs.link_first[k + 1] > jobs.link_first[k]:
            continue
        if use_first[held] == use_first[held + 1] or use_first[new] == use_first[new + 1]:
            continue
        a, b = resource[use_first[held]], resource[use_first[held + 1] - 1]
        if a <= resource[use_first[new + 1] - 1] and b >= resource[use_first[new]]:
            return k
    return -1


@nb.njit(nogil=True, cache=True)
def _destination(
    state: NDArray[np.uint64], k: int, j: int, old: int, first: Ints, region: Ints, delays: Ints, start: Floats,
    at: Ints,
) -> int:  # fmt: skip  # pragma: no cover
    """Where job ``k`` goes: by rank as any move, or, half the time, into the hours that job ``j`` leaves."""
    if _random(state) < 0.5:
        delay = int(np.floor(start[j] + delays[old] - start[k] + _random(state)))
        if 0 <= delay < at.shape[2] and at[k, region[old], delay] >= 0:
            return at[k, region[old], delay]
    return first[k] + int((first[k + 1] - first[k]) * _random(state) ** _RANKS)

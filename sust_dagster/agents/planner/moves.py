"""Placing many jobs one after the other within every limit: the compiled sweep.

Belongs here: what is held at the moment (``State``), and the sweep that takes each job in turn to the best place that
has room. Does not belong here: in which order and at which prices (``scale``), few jobs by annealing (``anneal``).

Prices of capacity come from ``duals`` and are damped by the room an hour has left: an hour that stands empty is worth
nothing, whatever the prices say. That fills the hours which the answers to fixed prices leave half full.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numba as nb
import numpy as np

from sust_dagster.agents.planner.core import LOAD_TOLERANCE, Core
from sust_dagster.agents.planner.duals import Resources, used
from sust_dagster.agents.planner.kernels import NOWHERE
from sust_dagster.agents.planner.openings import fits
from sust_dagster.agents.planner.problem import (
    HOUR_TOLERANCE,
    MOST_DELAYS,
    Flags,
    Floats,
    Ints,
    Objective,
    evaluate,
    feasible,
    prefix,
)

#: Times the damped prices are made anew in one sweep.
_BLOCKS = 500
#: Relative room that rounding may take from a sum of money.
MONEY_TOLERANCE = 1e-11
#: Relative difference below which two starts cost the same: sums over hours are not exact.
SAME = 1e-11
_NEVER = 1e300


@dataclass
class State:
    """A choice in the making; every array is changed in place."""

    region: Ints
    """m; ``NOWHERE`` where a job has no place yet: for money it then counts as at its status quo, for hours not."""
    delay: Ints
    score: Floats
    """m: the objective of its place, 0 without one."""
    usd: Floats
    room: Floats
    """R x H: vCPU-hours left."""
    rest: Floats
    """What is left of cost, egress and the share of each region."""

    @classmethod
    def empty(cls, core: Core) -> State:
        """No job has a place; delays of 0 keep every order."""
        m, rooms = len(core), core.rooms
        rest = np.full(2 + len(core.problem.regions), rooms.share)
        rest[:2] = rooms.cost_usd - core.usd.sum(), rooms.egress_usd
        capacity = core.problem.capacity.copy()
        return cls(np.full(m, NOWHERE), np.zeros(m, np.int64), np.zeros(m), core.usd.copy(), capacity, rest)

    @classmethod
    def of(cls, core: Core, objective: Objective, region: Ints, delay: Ints) -> State:
        """Every job in a given place, whether the places fit or not."""
        problem = core.problem
        resources = Resources.of(problem.capacity, core.rooms)
        figures = evaluate(problem, region, delay)
        left = resources.room - used(problem, region, delay, resources)
        cells = resources.cells
        return cls(
            region,
            delay,
            figures.score(objective),
            figures.cost_usd,
            left[:cells].reshape(resources.shape),
            left[cells:],
        )

    def fits(self, core: Core) -> bool:
        """Whether every job has a place it may have, and no limit is broken by more than rounding."""
        if not self.placed.all() or not feasible(core.problem, self.region, self.delay).all():
            return False
        rooms = core.rooms
        most = np.full(len(self.rest), rooms.share)
        most[:2] = max(rooms.cost_usd, float(core.usd.sum())), rooms.egress_usd
        lag = self.delay[core.pairs[:, 1]] - self.delay[core.pairs[:, 0]] - core.least
        kept = (self.rest >= -MONEY_TOLERANCE * np.abs(most)) | np.isinf(most)
        return bool((self.room >= -LOAD_TOLERANCE).all() and kept.all() and (lag >= 0).all())

    def copy(self) -> State:
        return State(*(getattr(self, name).copy() for name in self.__dataclass_fields__))

    @property
    def placed(self) -> Flags:
        return self.region != NOWHERE


class Jobs(NamedTuple):
    """The jobs of a core as the compiled code reads them."""

    place: Ints
    home: Ints
    start: Floats
    duration: Floats
    kw: Floats
    vcpus: Floats
    money: Floats
    data_gb: Floats
    max_delay: Ints
    link_first: Ints
    """m + 1: where each job's links begin."""
    link_other: Ints
    link_least: Ints
    link_after: Flags
    """Whether this job is the one that waits."""


class Tables(NamedTuple):
    """Weights and hourly sums as the compiled code reads them."""

    allowed: Flags
    per_gb: Floats
    penalty: Floats
    carbon: Floats
    """R x (H + 2) sums of per_kg x carbon."""
    price: Floats
    """R x (H + 2) sums of the price, or R x 0 where it is the same at all hours."""
    flat_price: Floats
    per_usd: float
    usd_price: float
    """What a USD of cost is priced at, beside the objective."""
    egress_price: float
    share_price: Floats
    hour_price: Floats
    """R x H: price of capacity before damping."""
    closed: Ints
    order: Ints
    floor: Floats


def jobs_of(core: Core) -> Jobs:
    """Jobs with the links that precedence makes between them."""
    problem, m = core.problem, len(core)
    before, after = core.pairs.T if len(core.pairs) else np.zeros((2, 0), np.int64)
    own = np.concatenate([before, after])
    order = np.argsort(own, kind="stable")
    return Jobs(
        problem.place, problem.home, problem.start_hours, problem.duration_hours, problem.kw, problem.vcpus,
        problem.money, problem.data_gb, problem.max_delay,
        np.searchsorted(own[order], np.arange(m + 1)),
        np.concatenate([after, before])[order],
        np.concatenate([core.least, core.least])[order],
        (np.arange(2 * len(before)) >= len(before))[order],
    )  # fmt: skip


def tables_of(core: Core, objective: Objective, x: Floats) -> Tables:
    """The hours of a core at prices ``x``, one vector as ``Resources`` orders it."""
    problem = core.problem
    prices = Resources.of(problem.capacity, core.rooms).prices(x)
    regions, hours = problem.capacity.shape
    closed = np.zeros((regions, hours + 1), np.int64)
    np.cumsum(~problem.open_hours, axis=1, out=closed[:, 1:])
    varies = problem.price.shape[1] > 1
    floor = objective.per_kg * np.where(problem.open_hours, problem.carbon, _NEVER).min(axis=1, initial=_NEVER)
    return Tables(
        allowed=np.ascontiguousarray(problem.places.allowed),
        per_gb=np.ascontiguousarray(problem.places.egress_usd_per_gb),
        penalty=objective.per_penalty_usd * problem.places.penalty_usd,
        carbon=_sums(objective.per_kg * problem.carbon),
        price=_sums(problem.price) if varies else np.zeros((regions, 0)),
        flat_price=np.zeros(regions) if varies else np.nan_to_num(problem.price[:, 0]),
        per_usd=float(objective.per_usd),
        usd_price=prices.cost_usd,
        egress_price=prices.egress_usd,
        share_price=np.zeros(regions) if prices.share is None else prices.share,
        hour_price=np.zeros((regions, hours)) if prices.capacity is None else prices.capacity,
        closed=closed,
        order=np.argsort(floor, kind="stable"),
        floor=floor,
    )


def _sums(hourly: Floats) -> Floats:
    sums = prefix(hourly)
    return np.concatenate([sums, sums[:, -1:]], axis=1)


def sweep(
    core: Core,
    jobs: Jobs,
    tables: Tables,
    state: State,
    order: Ints,
    damping: float = 0.0,
    wanted: tuple[Ints, Ints] | None = None,
) -> None:
    """Take each job of ``order`` to its best place that has room, at prices damped over ``damping`` of each capacity.

    ``damping`` 0 takes the prices as they are. A job that finds no place keeps the one it has, or has none. Where
    places are ``wanted`` (region and delay by job), a job goes there or nowhere else.
    """
    block = max(len(order) // _BLOCKS, 50) if damping > 0 else max(len(order), 1)
    capacity = np.where(np.isfinite(core.problem.capacity), core.problem.capacity, 1.0)
    none = np.empty(0, np.int64)
    region, delay = wanted or (none, none)
    _sweep(
        order, jobs, tables, capacity * damping, block, region, delay, state.region, state.delay, state.score,
        state.usd, state.room, state.rest,
    )  # fmt: skip


def earlier(core: Core, objective: Objective, jobs: Jobs, state: State) -> None:
    """Each job that waits to the earliest start of its region that costs the same and has room: none waits in vain."""
    tables = tables_of(core, objective, np.zeros(core.problem.capacity.size + 2 + len(core.problem.regions)))
    waits = np.flatnonzero(state.placed & (state.delay > 0))
    _earlier(waits, jobs, tables, state.region, state.delay, state.score, state.usd, state.room, state.rest)


@nb.njit(nogil=True, cache=True)
def _earlier(
    order: Ints, jobs: Jobs, tables: Tables, region: Ints, delay: Ints, score: Floats, usd: Floats, room: Floats,
    rest: Floats,
) -> None:  # fmt: skip  # pragma: no cover
    for q in range(order.shape[0]):
        j = order[q]
        r, start, end = region[j], jobs.start[j], jobs.start[j] + jobs.duration[j]
        hold(room, r, start + delay[j], end + delay[j], -jobs.vcpus[j])
        h0, h1 = int(np.floor(start)), int(np.floor(end))
        a, b = start - h0, end - h1
        fixed = jobs.data_gb[j] * tables.per_gb[jobs.place[j], r]
        low, _ = window(jobs, j, delay)
        for s in range(low, delay[j]):
            cost = fixed + jobs.money[j] * jobs.duration[j] * tables.flat_price[r]
            if tables.price.shape[1]:
                cost += jobs.money[j] * _between(tables.price[r], h0 + s, a, h1 + s, b)
            value = jobs.kw[j] * _between(tables.carbon[r], h0 + s, a, h1 + s, b)
            value += tables.penalty[jobs.place[j], r] + tables.per_usd * cost
            if abs(value - score[j]) > SAME * abs(score[j]) or abs(cost - usd[j]) > SAME * abs(usd[j]):
                continue
            if tables.closed[r, int(np.ceil(end - HOUR_TOLERANCE)) + s] != tables.closed[r, h0 + s]:
                continue
            if fits(room, r, start + s, end + s, jobs.vcpus[j]):
                rest[0] -= cost - usd[j]
                delay[j], score[j], usd[j] = s, value, cost
                break
        hold(room, r, start + delay[j], end + delay[j], jobs.vcpus[j])


@nb.njit(nogil=True, cache=True)
def _between(sums: Floats, i0: int, a: float, i1: int, b: float) -> float:  # pragma: no cover
    """Integral from hour ``i0 + a`` to ``i1 + b``."""
    return sums[i1] + b * (sums[i1 + 1] - sums[i1]) - sums[i0] - a * (sums[i0 + 1] - sums[i0])


@nb.njit(nogil=True, cache=True)
def window(jobs: Jobs, j: int, delay: Ints) -> tuple[int, int]:  # pragma: no cover
    """First and last delay of job ``j`` that keeps its order with the delays others have now."""
    low, high = 0, jobs.max_delay[j]
    for k in range(jobs.link_first[j], jobs.link_first[j + 1]):
        other = delay[jobs.link_other[k]]
        if jobs.link_after[k]:
            low = max(low, other + jobs.link_least[k])
        else:
            high = min(high, other - jobs.link_least[k])
    return low, high


@nb.njit(nogil=True, cache=True)
def hold(room: Floats, region: int, start: float, end: float, vcpus: float) -> None:  # pragma: no cover
    """Take ``vcpus`` from every hour of a run, each by its share of the hour."""
    hour = int(np.floor(start))
    while hour < end - HOUR_TOLERANCE:
        room[region, hour] -= vcpus * (min(end, hour + 1.0) - max(start, float(hour)))
        hour += 1


@nb.njit(nogil=True, cache=True)
def _damped(hour_price: Floats, room: Floats, damping: Floats, out: Floats) -> None:  # pragma: no cover
    for r in range(room.shape[0]):
        for h in range(room.shape[1]):
            left = min(max(room[r, h] / damping[r, h], 0.0), 1.0) if damping[r, h] > 0 else 0.0
            out[r, h + 1] = out[r, h] + hour_price[r, h] * (1.0 - left)
        out[r, room.shape[1] + 1] = out[r, room.shape[1]]


@nb.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "nnan"})
def _sweep(  # noqa: C901 - one compiled loop: calls inside it cost more than the work
    order: Ints, jobs: Jobs, tables: Tables, damping: Floats, block: int, wanted_region: Ints, wanted_delay: Ints,
    region: Ints, delay: Ints, score: Floats, usd: Floats, room: Floats, rest: Floats,
) -> None:  # fmt: skip  # pragma: no cover
    regions, hours = room.shape
    held = np.zeros((regions, hours + 2))
    values = np.empty(MOST_DELAYS + 1)
    wanted = wanted_region.shape[0] > 0
    for q in range(order.shape[0]):
        if q % block == 0:
            _damped(tables.hour_price, room, damping, held)
        j = order[q]
        start, duration, vcpus, kw, money = jobs.start[j], jobs.duration[j], jobs.vcpus[j], jobs.kw[j], jobs.money[j]
        end = start + duration
        own, k = region[j], jobs.place[j]
        work = vcpus * duration
        egress_now = 0.0
        if own != NOWHERE:
            hold(room, own, start + delay[j], end + delay[j], -vcpus)
            egress_now = jobs.data_gb[j] * tables.per_gb[k, own]
            rest[1] += egress_now
            if own != jobs.home[j]:
                rest[2 + own] += work
        low, high = window(jobs, j, delay)
        high = min(high, int(np.floor(hours - end + HOUR_TOLERANCE)))
        if wanted:
            low, high = max(low, wanted_delay[j]), min(high, wanted_delay[j])
        h0, h1 = int(np.floor(start)), int(np.floor(end))
        a, b = start - h0, end - h1
        best, best_region, best_delay, best_score, best_usd = np.inf, NOWHERE, 0, 0.0, 0.0
        for at in range(regions if high >= low else 0):
            r = tables.order[at]
            if not tables.allowed[k, r] or (wanted and r != wanted_region[j]):
                continue
            egress = jobs.data_gb[j] * tables.per_gb[k, r]
            if egress > 0 and egress > rest[1] * (1 + MONEY_TOLERANCE):
                continue
            moves = r != jobs.home[j]
            if moves and work > rest[2 + r] * (1 + MONEY_TOLERANCE):
                continue
            flat = egress + money * duration * tables.flat_price[r]
            plain = tables.penalty[k, r] + tables.per_usd * flat
            extra = tables.usd_price * flat + tables.egress_price * egress
            if moves:
                extra += work * tables.share_price[r]
            if plain + extra + kw * duration * tables.floor[r] >= best:
                continue  # not even in its cleanest hour
            count = high - low + 1
            e0, e1, b0, b1 = 1.0 - b, b, 1.0 - a, a
            i0, i1 = h0 + low, h1 + low
            for s in range(count):
                carbon = (
                    e0 * tables.carbon[r, i1 + s] + e1 * tables.carbon[r, i1 + s + 1]
                    - b0 * tables.carbon[r, i0 + s] - b1 * tables.carbon[r, i0 + s + 1]
                )  # fmt: skip
                capacity = (
                    e0 * held[r, i1 + s] + e1 * held[r, i1 + s + 1] - b0 * held[r, i0 + s] - b1 * held[r, i0 + s + 1]
                )
                values[s] = plain + extra + kw * carbon + vcpus * capacity
            if tables.price.shape[1]:
                per_usd = (tables.per_usd + tables.usd_price) * money
                for s in range(count):
                    values[s] += per_usd * (
                        e0 * tables.price[r, i1 + s] + e1 * tables.price[r, i1 + s + 1]
                        - b0 * tables.price[r, i0 + s] - b1 * tables.price[r, i0 + s + 1]
                    )  # fmt: skip
            last = int(np.ceil(end - HOUR_TOLERANCE)) + low
            while True:
                s = int(np.argmin(values[:count]))
                if values[s] >= best:
                    break
                begin = start + low + s
                good = tables.closed[r, last + s] == tables.closed[r, i0 + s]
                cost = flat
                if good and tables.price.shape[1]:
                    cost += money * (
                        e0 * tables.price[r, i1 + s] + e1 * tables.price[r, i1 + s + 1]
                        - b0 * tables.price[r, i0 + s] - b1 * tables.price[r, i0 + s + 1]
                    )  # fmt: skip
                if good:
                    good = cost <= usd[j] + max(rest[0], 0.0) * (1 + MONEY_TOLERANCE)
                if good and fits(room, r, begin, begin + duration, vcpus):
                    best, best_region, best_delay, best_usd = values[s], r, low + s, cost
                    best_score = kw * (
                        e0 * tables.carbon[r, i1 + s] + e1 * tables.carbon[r, i1 + s + 1]
                        - b0 * tables.carbon[r, i0 + s] - b1 * tables.carbon[r, i0 + s + 1]
                    ) + tables.penalty[k, r] + tables.per_usd * cost  # fmt: skip
                    break
                values[s] = np.inf
        if best_region != NOWHERE:
            rest[0] -= best_usd - usd[j]
            region[j], delay[j], score[j], usd[j] = best_region, best_delay, best_score, best_usd
        if region[j] != NOWHERE:
            r = region[j]
            hold(room, r, start + delay[j], end + delay[j], vcpus)
            rest[1] -= jobs.data_gb[j] * tables.per_gb[k, r]
            if r != jobs.home[j]:
                rest[2 + r] -= work

"""From jobs, grid hours, prices and limits to the arrays a plan is made from.

Belongs here: what is a candidate (region, start) and what it costs, the hours the jobs need, which jobs cannot be
planned and why. Does not belong here: which regions a job may use (``windows``), small tables as arrays (``tables``),
the search (``rules``, ``coupled``, ``scale``).

Energy is ``simple/v1``. Starts are whole hours after the requested start, and a run touches known hours only. A region
without grid hours or without a price is no candidate. Where prices are given, compute costs ``vcpus x hours x price``,
hour by hour; otherwise ``cost_usd``, in every region. A run that lies wholly outside the grid's hours is excluded; all
others are in the problem, for those that stay hold capacity too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.methods import simple_kwh
from sust_dagster.agents.planner.jobs import UNKNOWN_CATEGORY, InputError, Jobs
from sust_dagster.agents.planner.problem import HOUR_TOLERANCE, Flags, Floats, Ints, Limits, Places, Problem
from sust_dagster.agents.planner.windows import Kinds, Pairs, Regions, Rules, kinds

Codes = NDArray[np.uint8]

#: Why a job cannot be planned, known from the inputs alone; '' where it can.
INPUT_REASONS = (
    "",
    "unknown_category",  # the category is none of urgent, balanced, sustainable
    "no_duration",  # a run of no length has nothing to move
    "no_cost",  # no cost and no price: nothing is proposed without both cost and carbon
    "outside_grid_hours",  # no hour of its run is in the grid's hours
    "no_grid_hours",  # its home region has no grid hour at all
    "no_price",  # its home region has no price
    "leaves_grid_hours",  # its run as requested begins before or ends after the grid's hours
    "grid_gap",  # an hour of its run as requested has no intensity or no price
)


@dataclass(frozen=True)
class Power:
    """``simple/v1``: kW per vCPU and GPU, and the PUE that makes facility energy of it."""

    kw_per_vcpu: float
    kw_per_gpu: float
    pue: float

    @classmethod
    def simple(cls, factors: FactorSet) -> Power:
        """The figures of ``simple/v1`` in a factor set."""
        return cls(
            factors.get("power", "simple/v1 vcpu").value,
            factors.get("power", "simple/v1 gpu").value,
            factors.get("pue", "simple/v1").value,
        )


@dataclass(frozen=True)
class World:
    """What jobs meet: R regions, H hours from ``first_hour`` (hours since 1970-01-01T00:00Z)."""

    regions: Regions
    first_hour: int
    intensity: Floats
    """R x H, kg per kWh. NaN = not known."""
    pairs: Pairs
    price: Floats | None = None
    """R x H or R x 1, USD per vCPU-hour; NaN = no price. None: ``cost_usd`` everywhere."""
    capacity: Floats | None = None
    """R x H vCPUs; inf = no limit. None: no limit anywhere."""
    available: Flags | None = None
    """R x H. None: always."""

    @property
    def hours(self) -> int:
        return self.intensity.shape[1]


@dataclass(frozen=True)
class Candidates:
    """The problem, and which rows of the table it speaks of."""

    jobs: Jobs
    problem: Problem
    rows: Ints
    """Row in ``jobs`` of each of the problem's jobs, ascending."""
    reason: Codes
    """Per row in ``jobs``: position in INPUT_REASONS."""
    unsure_latency: Flags
    """Per row in ``jobs``: an SLA, and a region it might use whose latency is not known."""
    priced: bool
    """Whether compute costs by price, not by ``cost_usd``."""
    notes: tuple[str, ...] = ()

    @property
    def excluded(self) -> Ints:
        """Rows in ``jobs`` that are not in the problem."""
        outside = np.ones(len(self.jobs), bool)
        outside[self.rows] = False
        return np.flatnonzero(outside)


def candidates(
    jobs: Jobs, world: World, power: Power, *, rules: Rules | None = None, limits: Limits | None = None
) -> Candidates:
    """The problem of placing ``jobs`` in ``world``.

    ``limits`` without precedence, which comes from ``depends_on``. Regions no job may use are left out, and hours are
    added in front where a run began before the grid's hours, so that its capacity counts. Raises
    :class:`InputError` for dependencies that go round in a circle.
    """
    rules, limits = rules or Rules(), limits or Limits()
    homeless = set(jobs.homes) - set(world.regions.names)
    if homeless:
        raise ValueError(f"world.regions lacks the home regions {', '.join(sorted(homeless))}")
    priced = world.price is not None
    reason = _pinned(jobs, priced)
    kind = kinds(jobs, world.regions, world.pairs, rules, reason > 0)
    world, kind = _trimmed(world, kind)
    position = {name: i for i, name in enumerate(world.regions.names)}
    home = np.array([position.get(v, 0) for v in jobs.region.values], np.int64)[jobs.region.codes]
    start = jobs.start_hours - world.first_hour
    end = start + jobs.duration_hours
    inside = (start < world.hours) & (end > HOUR_TOLERANCE) & (end > start)
    inside |= (end == start) & (start >= 0) & (start < world.hours)
    reason = np.where(reason > 0, reason, _status_quo_reason(world, home, start, end, inside)).astype(np.uint8)
    rows = np.flatnonzero(inside)
    before, after = _dependencies(jobs)
    max_delay = _not_past_excluded(kind.max_delay, before, after, inside, start, end)
    early = int(max(0.0, np.ceil(-start[rows].min(initial=0.0))))
    world = _lengthened(world, early)
    kw = simple_kwh(jobs.vcpus, jobs.gpus, power.kw_per_vcpu, power.kw_per_gpu) * jobs.count
    problem = Problem(
        regions=world.regions.names,
        first_hour=world.first_hour,
        carbon=world.intensity * power.pue,
        price=np.ones((len(world.regions.names), 1)) if world.price is None else world.price,
        capacity=_or(world.capacity, world.intensity.shape, np.inf),
        available=_or(world.available, world.intensity.shape, fill=True),
        places=kind.places,
        place=kind.place[rows],
        home=home[rows],
        start_hours=start[rows] + early,
        duration_hours=jobs.duration_hours[rows],
        kw=kw[rows],
        vcpus=(jobs.vcpus * jobs.count)[rows],
        money=_money(jobs, priced)[rows],
        data_gb=np.nan_to_num(jobs.data_gb * jobs.count)[rows],
        max_delay=max_delay[rows],
        limits=replace(limits, precedence=_precedence(rows, before, after, len(jobs))),
    )
    return Candidates(jobs, problem, rows, reason, kind.unsure_latency, priced, _notes(before, after, inside))


def needed_hours(jobs: Jobs, rules: Rules | None = None) -> tuple[int, int]:
    """Hours since 1970 ``[first, last)`` that any start of any job may touch; raises ``ValueError`` without jobs."""
    if not len(jobs):
        raise ValueError("there are no jobs")
    widest = max(w.hours for w in (rules or Rules()).windows.values())
    start = jobs.start_hours
    return int(np.floor(start.min())), int(np.ceil((start + jobs.duration_hours).max())) + widest + 1


def _pinned(jobs: Jobs, priced: bool) -> Codes:
    """Input reasons that need no world."""
    reason = np.where(jobs.category == UNKNOWN_CATEGORY, INPUT_REASONS.index("unknown_category"), 0)
    reason = np.where((reason == 0) & (jobs.duration_hours == 0), INPUT_REASONS.index("no_duration"), reason)
    unpaid = np.isnan(jobs.cost_usd) if not priced else np.zeros(len(jobs), bool)
    return np.where((reason == 0) & unpaid, INPUT_REASONS.index("no_cost"), reason).astype(np.uint8)


def _money(jobs: Jobs, priced: bool) -> Floats:
    """What the price multiplies per hour: vCPUs, or USD where the price is the same everywhere."""
    if priced:
        return jobs.vcpus * jobs.count
    hours = np.where(jobs.duration_hours > 0, jobs.duration_hours, np.inf)
    return np.nan_to_num(jobs.cost_usd * jobs.count) / hours


def _trimmed(world: World, kind: Kinds) -> tuple[World, Kinds]:
    """The world and the places without regions that no job may use."""
    used = np.flatnonzero(kind.places.allowed.any(0)) if len(kind.place) else np.arange(len(world.regions.names))
    if len(used) == len(world.regions.names):
        return world, kind
    facts = world.regions
    names, provider, continent = (
        tuple(values[i] for i in used.tolist()) for values in (facts.names, facts.provider, facts.continent)
    )
    corner = np.ix_(used, used)
    places = Places(
        **{
            name: np.ascontiguousarray(getattr(kind.places, name)[:, used])
            for name in ("allowed", "egress_usd_per_gb", "penalty_usd", "latency_delta_ms")
        }
    )
    smaller = World(
        Regions(names, provider, continent),
        world.first_hour,
        world.intensity[used],
        Pairs(world.pairs.egress_usd_per_gb[corner], world.pairs.latency_ms[corner]),
        price=None if world.price is None else world.price[used],
        capacity=None if world.capacity is None else world.capacity[used],
        available=None if world.available is None else world.available[used],
    )
    return smaller, replace(kind, places=places)


def _status_quo_reason(world: World, home: Ints, start: Floats, end: Floats, inside: Flags) -> Ints:
    """Why a job's status quo has no figures; 0 where it has."""
    carbon = np.isfinite(world.intensity)
    price = np.ones((len(carbon), 1), bool) if world.price is None else np.isfinite(world.price)
    barred = np.zeros((len(carbon), world.hours + 1), np.int64)
    np.cumsum(~(carbon & price), axis=1, out=barred[:, 1:])
    first = np.clip(np.floor(start), 0, world.hours).astype(np.int64)
    last = np.clip(np.ceil(end - HOUR_TOLERANCE), first, world.hours).astype(np.int64)
    # Hours after a region's last known one are not known to it: its own file may end before the others'.
    seen, priced = np.any(carbon, axis=1), np.any(price, axis=1)
    known_first = np.where(seen, carbon.argmax(1), 0)
    known_last = np.where(seen, world.hours - carbon[:, ::-1].argmax(1), 0)
    leaves = (start < known_first[home]) | (end > known_last[home] + HOUR_TOLERANCE)
    verdicts = [
        (~seen[home], "no_grid_hours"),
        (~inside, "outside_grid_hours"),
        (~priced[home], "no_price"),
        (leaves, "leaves_grid_hours"),
        (barred[home, last] > barred[home, first], "grid_gap"),
    ]
    return np.select([flags for flags, _ in verdicts], [INPUT_REASONS.index(name) for _, name in verdicts], 0)


def _lengthened(world: World, early: int) -> World:
    """The world with ``early`` unknown hours in front."""
    if not early:
        return world

    def longer(values: NDArray, fill: object) -> NDArray:
        front = np.full((len(values), early), fill, values.dtype)
        return np.concatenate([front, values], 1)

    hourly_price = world.price is not None and world.price.shape[1] > 1
    return replace(
        world,
        first_hour=world.first_hour - early,
        intensity=longer(world.intensity, np.nan),
        price=longer(world.price, np.nan) if world.price is not None and hourly_price else world.price,
        capacity=None if world.capacity is None else longer(world.capacity, np.inf),
        available=None if world.available is None else longer(world.available, True),
    )


def _or(values: NDArray | None, shape: tuple[int, ...], fill: object) -> NDArray:
    return np.full(shape, fill) if values is None else values


def _dependencies(jobs: Jobs) -> tuple[Ints, Ints]:
    """Rows (before, after) by ``depends_on``; ids that no row has are left out (they are counted by ``_notes``).

    Raises :class:`InputError` for a circle.
    """
    none = np.empty(0, np.int64)
    stated = pc.fill_null(pc.not_equal(jobs.depends_on, ""), False)
    rows = np.flatnonzero(stated.to_numpy(zero_copy_only=False))
    if not len(rows):
        return none, none
    parts = pc.split_pattern(jobs.depends_on.take(pa.array(rows)), ",")
    ids = pc.utf8_trim_whitespace(pc.list_flatten(parts))
    after = rows[pc.list_parent_indices(parts).to_numpy()]
    named = pc.not_equal(ids, "").to_numpy(zero_copy_only=False)
    at = pc.fill_null(pc.index_in(ids, jobs.ids), -1).to_numpy().astype(np.int64)
    before, after = at[named], after[named]
    n = len(jobs)
    linked = before >= 0
    ones = np.ones(int(linked.sum()), np.int8)
    graph = coo_array((ones, (before[linked], after[linked])), shape=(n, n))
    _, group = connected_components(graph, directed=True, connection="strong")
    size = np.bincount(group, minlength=1)
    circle = (size[group[after]] > 1) & linked & (group[np.maximum(before, 0)] == group[after])
    circle |= before == after
    if circle.any():
        at_row = int(after[np.flatnonzero(circle)[0]])
        raise InputError(
            f"{jobs.ids[at_row].as_py()!r} waits for itself, round a circle",
            row=at_row,
            column="depends_on",
            fix="a job may wait only for jobs that do not wait for it",
        )
    return before, after


def _not_past_excluded(max_delay: Ints, before: Ints, after: Ints, inside: Flags, start: Floats, end: Floats) -> Ints:
    """A job that one outside the problem waits for may not be delayed past that one's start."""
    if not len(before):
        return max_delay
    bound = (before >= 0) & ~inside[after]
    slack = np.floor(np.maximum(0.0, start[after[bound]] - end[before[bound]]) + HOUR_TOLERANCE)
    narrowed = max_delay.astype(np.float64)
    np.minimum.at(narrowed, before[bound], slack)
    return narrowed.astype(np.int64)


def _precedence(rows: Ints, before: Ints, after: Ints, n: int) -> Ints:
    """Pairs as positions in the problem; pairs with a job outside it are left out."""
    place = np.full(n + 1, -1, np.int64)
    place[rows] = np.arange(len(rows))
    pairs = np.stack([place[before], place[after]], 1) if len(before) else np.empty((0, 2), np.int64)
    return np.unique(pairs[(pairs >= 0).all(1)], axis=0)


def _notes(before: Ints, after: Ints, inside: Flags) -> tuple[str, ...]:
    notes = []
    foreign = len(np.unique(after[before < 0]))
    if foreign:
        notes.append(f"{foreign:,} jobs wait for a job that is not in the file: that order is not looked after")
    outside = (before >= 0) & (~inside[np.maximum(before, 0)] | ~inside[after]) if len(before) else np.empty(0, bool)
    if outside.any():
        notes.append(f"{int(outside.sum()):,} dependencies touch jobs outside the grid's hours, which stay as they are")
    return tuple(notes)

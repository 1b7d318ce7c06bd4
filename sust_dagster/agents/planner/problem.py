"""What is to be decided, as arrays: jobs, the hours they may run in, what each place costs, what couples them.

Belongs here: the arrays every formulation reads (``Problem``), the weights of the score (``Objective``), the limits
that couple jobs (``Limits``), what comes out (``Plan``), and the figures of any choice of places (``evaluate``). Does
not belong here: how a choice is searched for (``rules``, ``coupled``, ``scale``), reading tables (``candidates``).

A choice is a region and a start delay in whole hours for each job. A job that runs from ``x`` to ``x + d`` in region r
costs, summed over the hours it touches, ``kw x hours x carbon[r, h]`` kg and ``money x hours x price[r, h]`` USD;
moving it from home costs egress once. Status quo is its home region with no delay.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Hours by which a run may pass the last known hour without leaving it: rounding of sums of hours, no more.
HOUR_TOLERANCE = 1e-9
#: Longest start delay there may be, hours: two weeks.
MOST_DELAYS = 24 * 14
#: Relative difference below which two scores are the same, so that rounding never moves a job.
TIE = 1e-12


class ProblemError(ValueError):
    """The arrays of a problem do not fit together; the message names the array."""


@dataclass(frozen=True)
class Objective:
    """Weights of the score: ``per_kg x kg + per_usd x USD + per_penalty_usd x latency penalty``.

    ``effective_cost``: USD, carbon at its price. ``min_carbon``: kg alone, money under a limit.
    """

    name: str
    per_kg: float
    per_usd: float
    per_penalty_usd: float

    @classmethod
    def effective_cost(
        cls, carbon_price_usd_per_t: float, alpha: float = 1.0, beta: float = 1.0, gamma: float = 1.0
    ) -> Objective:
        """The founding design's score, USD: ``alpha x price x kg / 1000 + beta x USD + gamma x penalty``."""
        return cls("effective-cost", alpha * carbon_price_usd_per_t / 1000.0, beta, gamma)

    @classmethod
    def min_carbon(cls) -> Objective:
        """kg; money, egress and latency stand in the limits and the allowed places."""
        return cls("min-carbon", 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class Places:
    """What one kind of job may do and pays by region; jobs share few kinds. Arrays are K kinds x R regions."""

    allowed: Flags
    """Whether it may run there; home is always allowed."""
    egress_usd_per_gb: Floats
    """Price of moving one GB there from home; 0 at home."""
    penalty_usd: Floats
    """Price of the latency above the SLA there, per run; 0 where it is kept."""
    latency_delta_ms: Floats
    """Latency there less that at home; NaN where unknown."""


@dataclass(frozen=True)
class Limits:
    """What couples jobs. None = no such limit."""

    max_cost_increase: float | None = None
    """Share by which the plan's USD (egress included) may exceed the status quo's; 0.02 = 2 %."""
    egress_budget_usd: float | None = None
    share_cap: float | None = None
    """Largest share of the movable vCPU-hours that may move INTO any one region (status quo always fits)."""
    precedence: Ints = field(default_factory=lambda: np.empty((0, 2), np.int64))
    """Pairs (before, after) of job positions: ``after`` never starts before ``before`` ends."""

    @property
    def any(self) -> bool:
        """Whether anything but capacity couples jobs."""
        money = (self.max_cost_increase, self.egress_budget_usd, self.share_cap)
        return any(limit is not None for limit in money) or len(self.precedence) > 0


@dataclass(frozen=True)
class Problem:
    """n jobs, R regions, H hours from ``first_hour``; all arrays are aligned and finite unless said."""

    regions: tuple[str, ...]
    first_hour: int
    """Hours since 1970-01-01T00:00Z of column 0."""
    carbon: Floats
    """R x H, kg per IT kWh, PUE included. NaN = unknown: no run may touch that hour."""
    price: Floats
    """R x H USD per unit of ``money`` and hour, or R x 1 where it is the same at all hours. NaN = no price."""
    capacity: Floats
    """R x H vCPUs that the planned jobs may hold on average over the hour; inf = no limit."""
    available: Flags
    """R x H; False = no run may touch that hour there."""
    places: Places
    place: Ints
    """n: row of ``places``."""
    home: Ints
    """n: position of the home region."""
    start_hours: Floats
    """n: requested start, hours since ``first_hour``; may be fractional."""
    duration_hours: Floats
    kw: Floats
    """n: IT power while running."""
    vcpus: Floats
    """n: vCPUs while running."""
    money: Floats
    """n: what ``price`` multiplies: vCPUs, or USD per hour at home where price is an index."""
    data_gb: Floats
    max_delay: Ints
    """n: longest start delay, whole hours."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        r, h, n = len(self.regions), self.carbon.shape[1], len(self.home)
        for name, wanted in (("carbon", [(r, h)]), ("price", [(r, h), (r, 1)]), ("capacity", [(r, h)])):
            if getattr(self, name).shape not in wanted:
                raise ProblemError(f"{name} has shape {getattr(self, name).shape}, wanted {wanted[0]}")
        if self.available.shape != (r, h):
            raise ProblemError(f"available has shape {self.available.shape}, wanted {(r, h)}")
        for name in ("place", "start_hours", "duration_hours", "kw", "vcpus", "money", "data_gb", "max_delay"):
            values = getattr(self, name)
            if values.shape != (n,):
                raise ProblemError(f"{name} has shape {values.shape}, wanted ({n},)")
            if not np.isfinite(values).all() or (values < 0).any():
                raise ProblemError(f"{name} holds a value that is no finite number from 0 up")
        if np.isnan(self.capacity).any() or (self.capacity < 0).any():
            region, hour = np.argwhere(~(self.capacity >= 0))[0]
            raise ProblemError(
                f"capacity of {self.regions[region]} in hour {hour} is {self.capacity[region, hour]}:"
                " give vCPUs from 0 up, or inf where there is no limit"
            )
        if len(self) and self.max_delay.max() > MOST_DELAYS:
            raise ProblemError(f"max_delay holds {self.max_delay.max()}, the most is {MOST_DELAYS} hours")

    def __len__(self) -> int:
        return len(self.home)

    @property
    def hours(self) -> int:
        return self.carbon.shape[1]

    @property
    def known_hours(self) -> Flags:
        """R x H: hours with a carbon intensity and a price."""
        priced = np.isfinite(self.price) if self.price.shape[1] > 1 else np.isfinite(self.price).repeat(self.hours, 1)
        return np.isfinite(self.carbon) & priced

    @property
    def open_hours(self) -> Flags:
        """R x H: hours a run may be put into: available and known."""
        return self.available & self.known_hours

    @property
    def coupled(self) -> bool:
        """Whether any limit ties jobs together."""
        return self.limits.any or bool(np.isfinite(self.capacity).any())

    @property
    def movable(self) -> Flags:
        """n: jobs that may run elsewhere or later at all."""
        return (self.max_delay > 0) | (self.places.allowed[self.place].sum(1) > 1)


@dataclass(frozen=True)
class Figures:
    """Per job: kg, USD of compute, USD of egress, latency penalty USD; NaN where the choice is not feasible."""

    kg: Floats
    compute_usd: Floats
    egress_usd: Floats
    penalty_usd: Floats

    @property
    def cost_usd(self) -> Floats:
        """Compute and egress."""
        return self.compute_usd + self.egress_usd

    def score(self, objective: Objective) -> Floats:
        """The objective, per job."""
        money = objective.per_usd * self.cost_usd + objective.per_penalty_usd * self.penalty_usd
        return objective.per_kg * self.kg + money


def prefix(hourly: Floats) -> Floats:
    """R x (H + 1) sums of the hours before; hours without a value count as 0 (feasibility is judged apart)."""
    rows, hours = hourly.shape
    sums = np.zeros((rows, hours + 1))
    np.cumsum(np.nan_to_num(hourly, nan=0.0, posinf=0.0, neginf=0.0), axis=1, out=sums[:, 1:])
    return sums


def integral(hourly: Floats, region: Ints, start: Floats, duration: Floats) -> Floats:
    """Sum over the hours a run touches of its share of the hour times the hour's value (start inside the hours)."""
    if hourly.shape[1] == 1:
        return hourly[region, 0] * duration
    sums = prefix(hourly)
    values = np.concatenate([np.nan_to_num(hourly, nan=0.0, posinf=0.0, neginf=0.0), np.zeros((len(hourly), 1))], 1)

    def until(x: Floats) -> Floats:
        x = np.clip(x, 0.0, float(hourly.shape[1]))
        whole = np.floor(x).astype(np.int64)
        return sums[region, whole] + (x - whole) * values[region, whole]

    return until(start + duration) - until(start)


def feasible(problem: Problem, region: Ints, delay: Ints) -> Flags:
    """Per job: the place is allowed, the delay within its window, and every hour it touches open."""
    allowed = problem.places.allowed[problem.place, region] & (delay >= 0) & (delay <= problem.max_delay)
    return allowed & _within(problem, problem.open_hours, region, delay)


def known(problem: Problem, region: Ints, delay: Ints) -> Flags:
    """Per job: every hour it touches has a carbon intensity and a price, so that it has figures at all."""
    return _within(problem, problem.known_hours, region, delay)


def _within(problem: Problem, hours: Flags, region: Ints, delay: Ints) -> Flags:
    start = problem.start_hours + delay
    end = start + problem.duration_hours
    barred = np.zeros((len(problem.regions), problem.hours + 1), np.int64)
    np.cumsum(~hours, axis=1, out=barred[:, 1:])
    first = np.clip(np.floor(start), 0, problem.hours).astype(np.int64)
    last = np.clip(np.ceil(end - HOUR_TOLERANCE), first, problem.hours).astype(np.int64)
    return (end <= problem.hours + HOUR_TOLERANCE) & (barred[region, last] == barred[region, first])


def evaluate(problem: Problem, region: Ints, delay: Ints) -> Figures:
    """Figures of a choice: ``region`` (n, positions) and ``delay`` (n, hours). NaN where an hour is not known."""
    start = problem.start_hours + delay
    there = known(problem, region, delay)
    kg = problem.kw * integral(problem.carbon, region, start, problem.duration_hours)
    compute = problem.money * integral(problem.price, region, start, problem.duration_hours)
    return Figures(
        kg=np.where(there, kg, np.nan),
        compute_usd=np.where(there, compute, np.nan),
        egress_usd=problem.data_gb * problem.places.egress_usd_per_gb[problem.place, region],
        penalty_usd=problem.places.penalty_usd[problem.place, region],
    )


def load(problem: Problem, region: Ints, delay: Ints, chosen: Flags | None = None) -> Floats:
    """R x H average vCPUs held by the (``chosen``) jobs: vCPU-hours of each hour. Runs outside the hours are cut."""
    return spread(problem, problem.vcpus, region, delay, chosen)[0]


def spread(
    problem: Problem,
    rate: Floats,
    region: Ints,
    delay: Ints,
    chosen: Flags | None = None,
    owner: Ints | None = None,
    owners: int = 1,
) -> Floats:
    """Sum of ``rate`` x hours run, by owner, region and hour (owners x R x H), of the (``chosen``) jobs."""
    regions, hours = len(problem.regions), problem.hours
    pick = np.arange(len(problem)) if chosen is None else np.flatnonzero(chosen)
    at = region[pick] * (hours + 2)
    if owner is not None:
        at = at + owner[pick] * regions * (hours + 2)
    start = problem.start_hours[pick] + delay[pick]
    # What a run holds in an hour is the first difference of its integral: four weights per run, summed by hour.
    edges = np.zeros(owners * regions * (hours + 2))
    for moment, sign in ((start, 1.0), (start + problem.duration_hours[pick], -1.0)):
        moment = np.clip(moment, 0.0, float(hours))
        whole = np.floor(moment).astype(np.int64)
        part = moment - whole
        edges += np.bincount(at + whole, sign * rate[pick] * (1 - part), minlength=len(edges))
        edges += np.bincount(at + whole + 1, sign * rate[pick] * part, minlength=len(edges))
    return np.cumsum(edges.reshape(owners, regions, hours + 2), axis=2)[:, :, :hours]


#: Why a job stays as it is though it was looked at; '' where it has a place of the plan's own choosing.
REASONS = (
    "",
    "unknown_hours",  # no carbon or no price for the status quo: nothing to compare with
    "no_open_hour",  # known as it is, but no start anywhere may be chosen
    "capacity",
    "cost_limit",
    "egress_budget",
    "share_cap",
    "precedence",
)


@dataclass(frozen=True)
class Plan:
    """A choice for every job, and what is proven about it.

    ``relaxed`` names limits that even the status quo, or every choice found, breaks; the jobs concerned stay at their
    status quo with the limit as their ``reason``. ``lower_bound`` holds for every plan that leaves those same jobs
    where they are and keeps all other limits; None = no bound is claimed.
    """

    region: Ints
    delay: Ints
    reason: NDArray[np.uint8]
    formulation: str
    objective: float
    lower_bound: float | None
    why: str
    """Why this formulation: size, coupling."""
    relaxed: tuple[str, ...] = ()
    capacity_price: Floats | None = None
    """R x H: score that one more vCPU-hour there would save (dual prices); None where nothing couples."""
    proven_optimal: bool = False
    notes: tuple[str, ...] = ()
    carbon: float | None = None
    """The carbon part of ``objective``: ``per_kg x kg``; None where it was not added up."""

    @property
    def carbon_gap(self) -> float | None:
        """(objective - lower bound) / carbon part: the most of the carbon that a better plan could still save.

        The plain gap of an objective that is mostly money says nothing about carbon: 0.01 % of a bill can be a tenth
        of its carbon. Equal to ``gap`` where the objective is kg.
        """
        if self.lower_bound is None or self.carbon is None:
            return None
        if self.proven_optimal or self.objective == self.lower_bound:
            return 0.0
        return (self.objective - self.lower_bound) / self.carbon if self.carbon else np.inf

    @property
    def gap(self) -> float | None:
        """(objective - lower bound) / objective; 0 where proven optimal; None without a bound."""
        if self.lower_bound is None:
            return None
        if self.proven_optimal or self.objective == self.lower_bound:
            return 0.0
        return (self.objective - self.lower_bound) / abs(self.objective) if self.objective else np.inf

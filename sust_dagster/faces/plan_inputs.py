"""What `sust plan` reads: jobs, grid, prices, limits and pairs of regions, as the planner's candidates.

Belongs here: the way from file names to :class:`Loaded`, and what a person should know about the inputs. Does not
belong here: the plan (``faces.plan``), reading single files (connectors), what the columns mean (``agents.planner``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.planner import tables
from sust_dagster.agents.planner.candidates import INPUT_REASONS, Candidates, Power, World, candidates, needed_hours
from sust_dagster.agents.planner.jobs import HOUR_US, Jobs, read_jobs
from sust_dagster.agents.planner.problem import Floats, Limits
from sust_dagster.agents.planner.robust import Quantiles
from sust_dagster.agents.planner.tables import Axes
from sust_dagster.agents.planner.windows import Pairs, Regions, Rules, kinds, listed_regions
from sust_dagster.connectors.grid import FileGrid, IntensityMethod, StaticGrid, hourly, open_grid
from sust_dagster.connectors.plans import (
    read_capacity,
    read_egress,
    read_jobs_file,
    read_latency,
    read_prices,
    told_of,
)
from sust_dagster.connectors.plans.inputs import FileTable
from sust_dagster.world.schemas import CATEGORIES

#: Longest span of hours that annual means are spread over: a job beyond it is a mistake of its date.
_STATIC_HOURS = 366 * 24
_SHOWN = 8


@dataclass(frozen=True)
class PlanFiles:
    """Names of the inputs; '' = not given."""

    jobs: str
    grid: Sequence[str]
    prices: str = ""
    capacity: str = ""
    egress: str = ""
    latency: str = ""
    intensity_method: IntensityMethod | None = None

    @property
    def given(self) -> list[str]:
        names = [self.jobs, *self.grid, self.prices, self.capacity, self.egress, self.latency]
        return [n for n in names if n and n != "static"]


@dataclass(frozen=True)
class Loaded:
    """The inputs as the planner takes them."""

    found: Candidates
    regions: Regions
    pairs: Pairs
    quantiles: Quantiles
    annual: Floats | None
    """R, kg per IT kWh: the reference's annual means; None where it does not know every region."""
    source: FileGrid | StaticGrid
    notices: tuple[str, ...]


@dataclass(frozen=True)
class _Read:
    """Files as they were read."""

    jobs: Jobs
    source: FileGrid | StaticGrid
    prices: FileTable | None
    capacity: FileTable | None
    egress: FileTable | None
    latency: FileTable | None


class PlanInputs:
    """The inputs, read once; :meth:`candidates` makes the problem. Raises :class:`PlanFileError`."""

    def __init__(self, files: PlanFiles, limits: Limits, penalty_usd_per_ms: float) -> None:
        source = read_jobs_file(files.jobs)
        with told_of(source):
            jobs = read_jobs(source.table, priced=bool(files.prices))
        self._jobs_file = source
        self._read = _Read(
            jobs,
            open_grid(files.grid, method=files.intensity_method),
            read_prices(files.prices) if files.prices else None,
            read_capacity(files.capacity) if files.capacity else None,
            read_egress(files.egress) if files.egress else None,
            read_latency(files.latency) if files.latency else None,
        )
        self._power = Power.simple(FactorSet.from_table(reference.shipped_factors()))
        self._regions, self._pairs = self._reachable()
        self._axes = self._hours()
        self._grid = self._intensities()
        self._limits, self._penalty = limits, penalty_usd_per_ms
        self._loaded: dict[bool, Loaded] = {}

    def candidates(self, *, strict_latency: bool) -> Loaded:
        """The problem, and what is to be said of it; made once unless the rule on latency makes a difference."""
        bound = np.isfinite(self._read.jobs.sla_latency_ms).any() and self._read.latency is not None
        strict = strict_latency and bool(bound)
        if strict not in self._loaded:
            self._loaded[strict] = self._made(Rules(penalty_usd_per_ms=self._penalty, strict_latency=strict))
        return self._loaded[strict]

    def _made(self, rules: Rules) -> Loaded:
        names, axes = self._regions.names, self._axes
        kg, low, high = (tables.hourly(self._grid, c, axes) for c in ("intensity_kgco2_kwh", *_BOUNDS))
        price, capacity = (
            self._array(self._read.prices, tables.prices),
            self._array(self._read.capacity, tables.capacity),
        )
        world = World(self._regions, axes.first_hour, kg, self._pairs, price=price, capacity=capacity)
        with told_of(self._jobs_file):
            found = candidates(self._read.jobs, world, self._power, rules=rules, limits=self._limits)
        place = [names.index(r) for r in found.problem.regions]
        early = axes.first_hour - found.problem.first_hour
        quantiles = Quantiles(
            *(np.pad(q[place] * self._power.pue, ((0, 0), (early, 0)), constant_values=np.nan) for q in (low, high))
        )
        return Loaded(
            found,
            self._regions,
            self._pairs,
            quantiles,
            self._annual(found.problem.regions),
            self._read.source,
            tuple(self._notices(found, kg, price, capacity)),
        )

    def _array(self, source: FileTable | None, read: object) -> Floats | None:
        if source is None:
            return None
        with told_of(source):
            return read(source.table, self._axes)  # ty: ignore[not-callable]

    def _reachable(self) -> tuple[Regions, Pairs]:
        """Regions that any job may use: of those the grid holds and a price is known for, and every home."""
        read = self._read
        homes = set(read.jobs.homes)
        held = _held(read.source)
        if read.prices is not None:
            priced = read.prices.table
            with_price = priced.filter(pc.is_valid(priced.column("usd_per_vcpu_hour")))
            held &= set(with_price.column("region").to_pylist())
        names = tuple(sorted(held | homes))
        pairs = self._between(names)
        facts = Regions.of(names, reference.regions())
        if not len(read.jobs):
            return facts, pairs
        everyone = kinds(read.jobs, facts, pairs, Rules(), np.zeros(len(read.jobs), bool))
        kept = tuple(names[i] for i in np.flatnonzero(np.any(everyone.places.allowed, axis=0)).tolist())
        return Regions.of(kept, reference.regions()), self._between(kept)

    def _between(self, names: tuple[str, ...]) -> Pairs:
        arrays = []
        for source, read in ((self._read.egress, tables.egress), (self._read.latency, tables.latency)):
            with told_of(source) if source is not None else nullcontext():
                arrays.append(read(None if source is None else source.table, names))
        return Pairs(*arrays)

    def _hours(self) -> Axes:
        """The hours of the grid that any run may touch; one hour of it where no run touches any."""
        if not len(self._read.jobs):
            return Axes(self._regions.names, 0, 1)
        first, last = needed_hours(self._read.jobs)
        if isinstance(self._read.source, StaticGrid):
            return Axes(self._regions.names, first, min(last - first, _STATIC_HOURS))
        extremes = pc.min_max(self._read.source.loaded["ts"].cast(pa.int64())).as_py()
        begin, end = extremes["min"] // HOUR_US, extremes["max"] // HOUR_US + 1
        low, high = max(first, begin), min(last, end)
        return Axes(self._regions.names, low, high - low) if high > low else Axes(self._regions.names, begin, 1)

    def _intensities(self) -> pa.Table:
        """Hourly rows; an hour nobody reported is left out: no run may touch it."""
        start, end = (_moment(h) for h in (self._axes.first_hour, self._axes.first_hour + self._axes.hours))
        return hourly(self._read.source, start, end, self._regions.names, gap_policy="flag_missing").table

    def _annual(self, names: tuple[str, ...]) -> Floats | None:
        table = reference.regions()
        means = dict(zip(table["region"].to_pylist(), table["annual_intensity_g_per_kwh"].to_pylist(), strict=True))
        if any(means.get(n) is None for n in names):
            return None
        return np.array([means[n] for n in names]) / 1000.0 * self._power.pue

    def _notices(self, found: Candidates, kg: Floats, price: Floats | None, capacity: Floats | None) -> list[str]:
        names = self._regions.names
        notes = [*self._read.source.notices, *found.notes, *_unmet(found, self._read.source)]
        if self._regions.unknown:
            notes.append(
                f"not in the reference table, so without provider and continent: {_some(self._regions.unknown)}; "
                "only sustainable work may move there"
            )
        if capacity is not None:
            free = [n for n, row in zip(names, np.isinf(capacity), strict=True) if row.any()]
            if free:
                notes.append(f"hours without a stated capacity have no limit: in {_some(free)}")
        if price is not None:
            dear = [n for n, row in zip(names, np.isnan(price), strict=True) if row.all()]
            if dear:
                notes.append(f"no price, so no candidate: {_some(dear)}")
        return [*notes, *self._latency_notes(found), *self._series_notes(kg), *self._list_notes()]

    def _latency_notes(self, found: Candidates) -> list[str]:
        jobs, unsure = found.jobs, found.unsure_latency
        urgent = jobs.category == CATEGORIES.index("urgent")
        notes = []
        if (unsure & urgent).any():
            notes.append(
                f"{int((unsure & urgent).sum()):,} urgent jobs with an SLA do not move where the latency is not known: "
                "give --latency"
            )
        if (unsure & ~urgent).any():
            notes.append(
                f"{int((unsure & ~urgent).sum()):,} jobs with an SLA may move where the latency is not known; "
                "nothing is charged for it there: give --latency"
            )
        return notes

    def _series_notes(self, kg: Floats) -> list[str]:
        """Series whose hours do not differ, or are all estimates, earn nothing real by waiting."""
        if isinstance(self._read.source, StaticGrid):
            return ["annual means do not differ by hour: nothing is gained by waiting"]
        known = ~np.isnan(kg)
        least, most = (f(np.where(known, kg, fill), 1) for f, fill in ((np.min, np.inf), (np.max, -np.inf)))
        estimated = tables.hourly(self._grid, "estimated", self._axes)
        several = known.sum(1) > 1
        constant, guessed = several & (least == most), several & (estimated | ~known).all(1)
        notes = []
        for flags, what in ((constant, "the same at all hours"), (guessed, "estimated at all hours")):
            if flags.any():
                regions = _some([n for n, f in zip(self._regions.names, flags.tolist(), strict=True) if f])
                notes.append(f"the grid's intensity is {what} in {regions}: a later start there has no proven gain")
        return notes

    def _list_notes(self) -> list[str]:
        listed = {r for text in self._read.jobs.allowed.values for r in listed_regions(text)}
        foreign = listed - set(self._regions.names) - _held(self._read.source)
        if not foreign:
            return []
        return [f"allowed_regions names places without grid hours or a price: {_some(foreign)}"]


_BOUNDS = ("intensity_lower", "intensity_upper")


def _held(source: FileGrid | StaticGrid) -> set[str]:
    """Cloud regions a source has hours for, by name or by zone."""
    if isinstance(source, StaticGrid):
        return set(reference.regions()["region"].to_pylist())
    rows = source.loaded
    zones = pc.unique(rows["zone"].filter(pc.equal(rows["region"], "")))
    by_zone = reference.region_zones()
    mapped = by_zone.filter(pc.is_in(by_zone["zone"], zones.drop_null()))
    return {r for r in pc.unique(rows["region"]).to_pylist() if r} | set(mapped["region"].to_pylist())


def _unmet(found: Candidates, source: FileGrid | StaticGrid) -> list[str]:
    """Jobs that cannot be planned, by reason, and what the grid covers where that is why."""
    counts = np.bincount(found.reason, minlength=len(INPUT_REASONS))
    unmet = [f"{name} {n:,}" for name, n in zip(INPUT_REASONS, counts.tolist(), strict=True) if name and n]
    if not unmet:
        return []
    note = f"{int(counts[1:].sum()):,} of {len(found.jobs):,} jobs cannot be planned and stay as they are: "
    note += ", ".join(unmet)
    if any("grid" in u for u in unmet):
        note += f"\nthe grid source covers {source.coverage}"
        hint = source.hint()
        note += f"\n{hint}" if hint else ""
    return [note]


def _some(names: Sequence[str] | set[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)

"""The calculation behind `sust account`: ledger batches of any hours and regions, one grid source.

Belongs here: which months of the grid a batch needs and how they are kept, and what the grid could not answer.
Does not belong here: files, totals, printing.

Grid hours are prepared by calendar month and kept, so that a bill sorted by resource does not ask for the same
hours with every batch; memory holds a few years of the regions that occur.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster import reference
from sust_dagster.agents.accountant import Accountant, FactorSet, prepare
from sust_dagster.agents.accountant.columns import encode
from sust_dagster.agents.accountant.lookups import grid_lookup
from sust_dagster.connectors.grid import (
    FALLBACK_FLAG,
    FileGrid,
    GapPolicy,
    GridError,
    StaticGrid,
    hourly,
)
from sust_dagster.world.schemas import GRID_INTENSITY

NO_INTENSITY = "no_intensity"

#: Months a lookup may span; rows further apart are accounted piece by piece.
_SPAN_MONTHS = 24
#: Months kept beyond those of the batch at hand.
_KEPT_MONTHS = 48
_HOUR_US = 3_600_000_000
_SHOWN = 8


@dataclass
class _Month:
    """Grid hours of one month, for the regions asked for so far."""

    regions: set[str]
    table: pa.Table


class Calculation:
    """Accounts ledger batches against one grid source, and remembers what the source could not answer."""

    def __init__(
        self,
        source: FileGrid | StaticGrid,
        *,
        method: str,
        instruments: pa.Table | None = None,
        gap_policy: GapPolicy = "last_known",
        fallback: StaticGrid | None = None,
    ) -> None:
        self.source = source
        self.coverage = Coverage(source, fallback is not None)
        self._gap_policy: GapPolicy = gap_policy
        self._fallback = fallback
        if fallback is not None and source.methods != fallback.methods:
            raise GridError(
                f"the grid file holds {' and '.join(source.methods)} intensity, the annual means are "
                f"{' and '.join(fallback.methods)} figures: they do not mix",
                fix="leave --grid-fallback out, or give a grid file of life-cycle intensity",
            )
        self._ready = self._base = prepare(
            GRID_INTENSITY.empty(),
            FactorSet.from_table(reference.shipped_factors()),
            method=method,
            instances=reference.instances(),
            instruments=instruments,
        )
        self._months: dict[int, _Month] = {}
        self._ready_for: tuple[set[int], set[str]] = (set(), set())

    def __call__(self, ledger: pa.Table) -> pa.Table:
        """Emissions of one ledger batch, order kept, text columns as dictionaries."""
        month = _months_of(ledger.column("started_at"))
        if int(month.max() - month.min()) < _SPAN_MONTHS:
            emissions = self._accountant(ledger, month)(ledger)
        else:
            emissions = self._piecewise(ledger, month)
        self.coverage.add(emissions)
        return emissions

    def _piecewise(self, ledger: pa.Table, month: NDArray[np.int64]) -> pa.Table:
        """Rows years apart, such as one stray date, would make one lookup of all the years between."""
        piece = (month - month.min()) // _SPAN_MONTHS
        places = [np.flatnonzero(piece == p) for p in np.unique(piece)]
        tables = [self._accountant(rows := ledger.take(pa.array(at)), month[at])(rows) for at in places]
        back = np.argsort(np.concatenate(places), kind="stable")
        return pa.concat_tables(tables).unify_dictionaries().take(pa.array(back))

    def _accountant(self, ledger: pa.Table, month: NDArray[np.int64]) -> Accountant:
        months = {int(m) for m in np.unique(month)}
        regions = set(pc.unique(ledger.column("region")).to_pylist())
        ready_months, ready_regions = self._ready_for
        if months <= ready_months and regions <= ready_regions:
            return self._ready
        if not months <= ready_months:
            ready_months = months
        regions = regions | ready_regions
        for m in ready_months:
            self._complete(m, regions)
        for old in sorted(set(self._months) - ready_months)[: max(0, len(self._months) - _KEPT_MONTHS)]:
            del self._months[old]
        table = pa.concat_tables([self._months[m].table for m in sorted(ready_months)])
        self._ready = replace(self._base, grid=grid_lookup(table))
        self._ready_for = (ready_months, regions)
        return self._ready

    def _complete(self, month: int, regions: set[str]) -> None:
        held = self._months.setdefault(month, _Month(set(), GRID_INTENSITY.empty()))
        missing = sorted(regions - held.regions)
        if missing:
            start, end = _first_of(month), _first_of(month + 1)
            more = hourly(
                self.source, start, end, missing, gap_policy=self._gap_policy, fallback=self._fallback
            ).table  # fmt: skip
            held.table = pa.concat_tables([held.table, more])
            held.regions.update(missing)


def _months_of(times: pa.ChunkedArray) -> NDArray[np.int64]:
    """Months since 1970 of each row."""
    micros = times.cast(pa.int64()).to_numpy()
    return micros.astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)


def _first_of(month: int) -> datetime:
    return datetime(1970 + month // 12, month % 12 + 1, 1, tzinfo=UTC)


@dataclass
class _Outside:
    """Slices of one region that met no intensity: how many, from which hour to which (since 1970)."""

    slices: int
    first: int
    last: int


class Coverage:
    """What the grid source could not answer, over all emissions so far."""

    def __init__(self, source: FileGrid | StaticGrid, with_fallback: bool) -> None:
        self.no_intensity = 0
        self.fallback = 0
        self.slices = 0
        self._source = source
        self._with_fallback = with_fallback
        self._outside: dict[str, _Outside] = {}

    def add(self, emissions: pa.Table) -> None:
        """Count one more batch of emissions."""
        self.slices += emissions.num_rows
        quality = encode(emissions.column("quality"))
        flags = [set(v.split(";")) for v in quality.values]
        self.fallback += int(np.array([FALLBACK_FLAG in f for f in flags])[quality.codes].sum())
        without = np.array([NO_INTENSITY in f for f in flags])[quality.codes]
        if not without.any():
            return
        self.no_intensity += int(without.sum())
        region = encode(emissions.column("region"))
        hour = emissions.column("started_at").cast(pa.int64()).to_numpy()[without] // _HOUR_US
        code = region.codes[without]
        for c in np.unique(code):
            mine = hour[code == c]
            entry = self._outside.setdefault(region.values[c], _Outside(0, int(mine[0]), int(mine[0])))
            entry.slices += len(mine)
            entry.first, entry.last = min(entry.first, int(mine.min())), max(entry.last, int(mine.max()))

    def notices(self) -> list[str]:
        """One notice of what lies outside the source, what it covers and what to do; none where nothing does."""
        if not self.no_intensity:
            return []
        absent = {r: o for r, o in self._outside.items() if not self._source.holds(r)}
        hours = {r: o for r, o in self._outside.items() if r not in absent}
        what = f"{self.no_intensity:,} of {self.slices:,} slices meet no grid intensity"
        lines = [f"{what}: their location-based kg is empty (quality {NO_INTENSITY})"]
        if absent:
            lines.append(f"regions it does not hold: {_listed(absent, lambda o: f'{o.slices:,}')}")
        if hours:
            lines.append(
                "hours it does not hold: "
                + _listed(hours, lambda o: f"{o.slices:,} from {_hour(o.first)} to {_hour(o.last)}")
            )
        lines.append(f"the grid source covers {self._source.coverage}")
        fixes = [f for f in (self._source.hint(),) if f]
        if isinstance(self._source, StaticGrid):
            fixes.append("give a grid file that holds these regions (ts, region, intensity_g_per_kwh)")
        else:
            fixes.append("give a grid file of these regions and hours (--grid may be repeated)")
            if not self._with_fallback:
                fixes.append("or --grid-fallback static for annual means with wide bounds")
        lines.append("to do: " + "; ".join(fixes))
        return ["\n".join(lines)]


def _listed(outside: dict[str, _Outside], figure: Callable[[_Outside], str]) -> str:
    ordered = sorted(outside.items(), key=lambda item: (-item[1].slices, item[0]))
    shown = [f"{region} ({figure(o)})" for region, o in ordered[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")


def _hour(hour: int) -> str:
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%d %H:00")

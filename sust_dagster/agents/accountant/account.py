"""From activity and intensity to emissions: one pass over columns, whole or batch by batch.

Belongs here: the order of the calculation, bounds, output columns and the overlap of reading, computing and
writing. Does not belong here: formulas (``methods``), energy rules (``energy``), lookups, or any I/O: a
source of tables and a sink are given.

Bounds are interval arithmetic over five named factors (power, provider PUE, site PUE, region-systematic
grid, hour of grid). Each factor is a box around 1, so a row's box is its value times the product of the
boxes; for a correction (negative kg) the two ends change places. The value always lies inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Coded, Floats, compact, constant, dictionary, to_arrow
from sust_dagster.agents.accountant.energy import Batch, Energy, energy_of
from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.lookups import (
    HOUR_US,
    GridLookup,
    InstanceLookup,
    LedgerError,
    PlaceLookup,
    PowerClasses,
    grid_lookup,
    instance_lookup,
    place_lookup,
    power_classes,
)
from sust_dagster.agents.accountant.market import NO_INSTRUMENT, MarketLookup, market_lookup
from sust_dagster.agents.accountant.methods import Method, embodied_kg_per_vcpu_hour, method_set_id
from sust_dagster.agents.accountant.methods import method as method_of
from sust_dagster.agents.accountant.quality import bit, quality_column
from sust_dagster.world.schemas import ACTIVITY_LEDGER, EMISSIONS

#: The cloud customer buys a service: the provider's electricity is the customer's upstream emission.
SCOPE = "Scope 3, category 1 (purchased goods and services)"

#: Ledger columns a calculation reads; a reader need not load the others.
LEDGER_COLUMNS: tuple[str, ...] = (
    "activity_id",
    "job_id",
    "workload_id",
    "service_name",
    "team_id",
    "cloud_provider",
    "region",
    "instance_type",
    "resource_type",
    "resource_qty",
    "resource_unit",
    "cost_usd",
    "workload_category",
    "started_at",
    "ended_at",
    "usage_hours",
    "vcpus",
    "gpus",
    "gpu_model",
    "memory_gib",
    "vcpu_hours",
    "gpu_hours",
    "utilisation",
    "data_gb",
    "quality",
)

#: Text columns with few distinct values: read them as dictionaries where the reader can.
DICTIONARY_COLUMNS: tuple[str, ...] = (
    "workload_id",
    "service_name",
    "team_id",
    "cloud_provider",
    "region",
    "instance_type",
    "resource_type",
    "resource_unit",
    "workload_category",
    "gpu_model",
    "quality",
)

T = TypeVar("T")


@dataclass(frozen=True)
class Accountant:
    """A calculation made ready: lookups built once, then applied to any number of ledger batches."""

    method: Method
    factors: FactorSet
    factor_set_id: str
    grid: GridLookup
    instances: InstanceLookup
    market: MarketLookup | None
    classes: PowerClasses

    def __call__(self, ledger: pa.Table) -> pa.Table:
        """Emissions of one ledger batch, ledger order kept, text columns as dictionaries.

        Raises :class:`LedgerError` for a missing column or a slice that leaves its clock hour.
        """
        batch = Batch(_ledger_columns(ledger))
        time = _slice_times(batch)
        energy = energy_of(batch, self.method, self.factors, self.instances, self.classes)
        if time.open_ended is not None:
            energy.flags[time.open_ended] |= bit("open_end")
        place = _places(batch, self.factors, self.method)
        region = batch.coded("region")
        cell = self.grid.cells(region.values, region.codes, time.hour)
        location = _location(energy, place, self.grid, cell, self.classes)
        embodied = _embodied(energy, self.instances, self.factors)
        _flag_gaps(energy, place, location, embodied)
        return self._assemble(batch, time, energy, place, cell, location, embodied)

    def _assemble(
        self,
        batch: Batch,
        time: _Times,
        energy: Energy,
        place: _Places,
        cell: NDArray[np.int64],
        location: _Location,
        embodied: _Bounded,
    ) -> pa.Table:
        rows = batch.rows
        grid_quality = Coded(self.grid.quality_codes[cell], self.grid.qualities)
        market = _market(self.market, time, location, place)
        present, cells = compact(cell, len(self.grid.intensity))
        region = batch.coded("region")
        system_keys = [f"grid/{r}" if r in set(self.grid.regions) else None for r in region.values]
        columns: dict[str, pa.Array | pa.ChunkedArray] = {
            name: batch.table[name]
            for name in (
                "activity_id", "started_at", "region", "service_name", "team_id", "resource_type", "cost_usd",
                "cloud_provider", "job_id", "workload_id", "workload_category",
            )
        }  # fmt: skip
        columns |= {
            "ended_at": time.ended_at,
            "vcpu_hours": to_arrow(energy.vcpu_hours),
            "energy_kwh": to_arrow(energy.kwh),
            "facility_kwh": to_arrow(location.facility_kwh),
            "kg_location": to_arrow(location.kg.value),
            "kg_location_lower": to_arrow(location.kg.lower),
            "kg_location_upper": to_arrow(location.kg.upper),
            "kg_market": to_arrow(market.kg.value),
            "kg_market_lower": to_arrow(market.kg.lower),
            "kg_market_upper": to_arrow(market.kg.upper),
            "market_basis": market.basis,
            "kg_embodied": to_arrow(embodied.value),
            "kg_embodied_lower": to_arrow(embodied.lower),
            "kg_embodied_upper": to_arrow(embodied.upper),
            "methodology": constant(self.method.name, rows),
            "emission_factor_id": constant(self.factor_set_id, rows),
            "quality": quality_column(batch.coded("quality"), energy.flags, grid_quality),
            "scope": constant(SCOPE, rows),
            "pue": to_arrow(place.pue.pue[place.codes]),
            "intensity_kgco2_kwh": to_arrow(location.intensity),
            "power_factor_key": dictionary(energy.power, self.classes.keys),
            "provider_pue_factor_key": dictionary(place.codes, place.pue.provider_keys),
            "region_pue_factor_key": dictionary(place.codes, place.pue.region_keys),
            "grid_system_factor_key": dictionary(region.codes, system_keys),
            "grid_hour_factor_key": dictionary(cells, self.grid.keys(present)),
            "grid_quality": dictionary(grid_quality.codes, [q or None for q in grid_quality.values]),
        }
        return pa.table({name: columns[name] for name in EMISSIONS.arrow.names})


def prepare(
    grid: pa.Table,
    factors: FactorSet,
    *,
    method: str = "simple/v1",
    instances: pa.Table | None = None,
    instruments: pa.Table | None = None,
    signal: str = "average",
    grid_method: str | None = None,
) -> Accountant:
    """Build every lookup of a calculation once.

    ``grid``: ``GRID_INTENSITY`` rows. ``method``: a name of ``methods.METHODS``. ``instances``: the instance
    table (without one no instance is known). ``instruments``: market-based factors (``market.INSTRUMENT_SCHEMA``).
    ``signal`` and ``grid_method`` choose among several series in one grid table; an inventory takes the average
    signal. Raises ``ValueError`` for an unknown method, :class:`LedgerError` or ``FactorError`` for unusable input.
    """
    chosen = method_of(method)
    known = instance_lookup(instances)
    market = market_lookup(instruments)
    digests = [known.digest] + ([market.digest] if market is not None else [])
    return Accountant(
        method=chosen,
        factors=factors,
        factor_set_id=method_set_id(factors, method, *digests),
        grid=grid_lookup(grid, signal=signal, grid_method=grid_method),
        instances=known,
        market=market,
        classes=power_classes(factors, chosen),
    )


def account(
    ledger: pa.Table,
    grid: pa.Table,
    factors: FactorSet,
    *,
    method: str = "simple/v1",
    instances: pa.Table | None = None,
    instruments: pa.Table | None = None,
    signal: str = "average",
    grid_method: str | None = None,
) -> pa.Table:
    """Emissions of a ledger in ``EMISSIONS`` shape, one row per ledger row, order kept. Options as :func:`prepare`.

    Each slice meets its own hour's intensity. Energy in kWh, emissions in kgCO2e; location-based and
    market-based side by side, embodied apart. Null where a factor is missing, with the reason in ``quality``.
    """
    ready = prepare(
        grid,
        factors,
        method=method,
        instances=instances,
        instruments=instruments,
        signal=signal,
        grid_method=grid_method,
    )
    return EMISSIONS.conform(ready(ledger))


def account_batches(batches: Iterable[pa.Table], ready: Accountant) -> Iterator[pa.Table]:
    """Emissions batch by batch, text columns as dictionaries (which Parquet writes cheaply).

    Memory holds one batch; rows of a batch may have any hour and region.
    """
    for batch in batches:
        yield ready(batch)


def account_stream(
    batches: Iterable[pa.Table], sink: Callable[[pa.Table], object], ready: Callable[[pa.Table], pa.Table]
) -> int:
    """Account a stream into a sink with reading, computing and writing overlapped in threads; rows written.

    ``ready`` is an :class:`Accountant`, or what chooses one per batch. ``batches`` is advanced in one thread and
    ``sink`` is called in another, in order, so at most four batches are in memory. An error in any of the three ends
    the stream and is raised here.
    """
    rows = 0
    source = iter(batches)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead = reader.submit(next, source, None)
        behind = None
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, source, None)
            emissions = ready(batch)
            if behind is not None:
                behind.result()
            rows += emissions.num_rows
            behind = writer.submit(sink, emissions)
        if behind is not None:
            behind.result()
    return rows


@dataclass(frozen=True)
class _Times:
    """Hour since 1970 of each slice, its end, and the rows whose end the ledger leaves open (None: none)."""

    hour: NDArray[np.int64]
    started_us: NDArray[np.int64]
    ended_at: pa.ChunkedArray | pa.Array
    open_ended: NDArray[np.int64] | None


@dataclass(frozen=True)
class _Places:
    codes: NDArray[np.int32]
    names: tuple[tuple[str, str], ...]
    pue: PlaceLookup


@dataclass(frozen=True)
class _Bounded:
    value: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class _Location:
    facility_kwh: Floats
    intensity: Floats
    kg: _Bounded
    meter_lower: Floats
    meter_upper: Floats


@dataclass(frozen=True)
class _Market:
    kg: _Bounded
    basis: pa.DictionaryArray


def _ledger_columns(ledger: pa.Table) -> pa.Table:
    present = set(ledger.column_names)
    columns: list[pa.Array | pa.ChunkedArray] = []
    for name in LEDGER_COLUMNS:
        declared = ACTIVITY_LEDGER.column(name)
        if name in present:
            columns.append(_typed(ledger[name], declared.type, name))
        elif declared.nullable:
            columns.append(pa.nulls(ledger.num_rows, declared.type))
        else:
            raise LedgerError(f"the ledger has no column {name} ({declared.doc})")
    return pa.table(columns, names=list(LEDGER_COLUMNS))


def _typed(column: pa.ChunkedArray, wanted: pa.DataType, name: str) -> pa.ChunkedArray:
    """The column in its declared type; dictionaries of text pass as they are."""
    if column.type.equals(wanted):
        return column
    if pa.types.is_dictionary(column.type) and pa.types.is_string(wanted):
        return column
    try:
        return pc.cast(column, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise LedgerError(f"ledger column {name}: {error}") from error


def _slice_times(batch: Batch) -> _Times:
    started = batch.table["started_at"].cast(pa.int64()).to_numpy()
    ended_at = batch.table["ended_at"]
    hour = started // HOUR_US
    hour_end = (hour + 1) * HOUR_US
    open_ended = None
    if ended_at.null_count:
        open_ended = np.flatnonzero(ended_at.is_null().to_numpy())
        ended = pc.fill_null(ended_at.cast(pa.int64()), 0).to_numpy().copy()
        ended[open_ended] = hour_end[open_ended]
        ended_at = pa.array(ended).cast(EMISSIONS.column("ended_at").type)
    else:
        ended = ended_at.cast(pa.int64()).to_numpy()
    wrong = (ended > hour_end) | (ended < started)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise LedgerError(
            f"ledger row {at} ({batch.table['activity_id'][at]}) runs from {batch.table['started_at'][at]} to "
            f"{batch.table['ended_at'][at]}: a slice stays inside one clock hour, so that it meets one intensity; "
            "split it"
        )
    return _Times(hour, started, ended_at, open_ended)


def _places(batch: Batch, factors: FactorSet, chosen: Method) -> _Places:
    provider, region = batch.coded("cloud_provider"), batch.coded("region")
    wide = provider.codes.astype(np.int64) * len(region.values) + region.codes
    present, codes = compact(wide, len(provider.values) * len(region.values))
    pairs = [divmod(int(p), len(region.values)) for p in present]
    names = tuple((provider.values[p], region.values[r]) for p, r in pairs)
    return _Places(codes, names, place_lookup(factors, chosen, names))


def _ordered(value: Floats, low: Floats, high: Floats) -> _Bounded:
    """The value x [low, high], ends in order whatever the sign of the value."""
    lower, upper = value * low, value * high
    negative = value < 0
    if negative.any():
        lower, upper = np.where(negative, upper, lower), np.where(negative, lower, upper)
    return _Bounded(value, lower, upper)


def _location(
    energy: Energy, place: _Places, grid: GridLookup, cell: NDArray[np.int64], classes: PowerClasses
) -> _Location:
    facility = energy.kwh * place.pue.pue[place.codes]
    intensity = grid.intensity[cell]
    meter_lower = classes.lower[energy.power] * place.pue.lower[place.codes]
    meter_upper = classes.upper[energy.power] * place.pue.upper[place.codes]
    kg = _ordered(facility * intensity, meter_lower * grid.lower[cell], meter_upper * grid.upper[cell])
    return _Location(facility, intensity, kg, meter_lower, meter_upper)


def _market(
    market: MarketLookup | None,
    time: _Times,
    location: _Location,
    place: _Places,
) -> _Market:
    if market is None:
        return _Market(location.kg, constant(NO_INSTRUMENT, len(place.codes)))
    year = time.started_us.astype("datetime64[us]").astype("datetime64[Y]").astype(np.int64) + 1970
    years, year_codes = np.unique(year, return_inverse=True)
    entry = market.of(place.names, [int(y) for y in years])[place.codes, year_codes]
    factor = market.factor[entry]
    meter = _ordered(location.facility_kwh, location.meter_lower, location.meter_upper)
    # The instrument's own bounds multiply the meter's; a negative meter takes the far end.
    low = np.where(meter.lower < 0, market.upper[entry], market.lower[entry])
    high = np.where(meter.upper < 0, market.lower[entry], market.upper[entry])
    none = entry == 0
    kg = _Bounded(
        np.where(none, location.kg.value, location.facility_kwh * factor),
        np.where(none, location.kg.lower, meter.lower * low),
        np.where(none, location.kg.upper, meter.upper * high),
    )
    return _Market(kg, dictionary(entry.astype(np.int32), market.basis))


def _embodied(energy: Energy, instances: InstanceLookup, factors: FactorSet) -> _Bounded:
    formula, life = factors.get("embodied", "formula"), factors.get("embodied", "server life")
    per_hour = embodied_kg_per_vcpu_hour(instances.embodied_kg, instances.server_vcpus, life.value) * formula.value
    value = per_hour[energy.instance] * energy.vcpu_hours
    # A longer life is a smaller share per hour.
    low = formula.rel_lower / life.rel_upper
    high = formula.rel_upper / life.rel_lower
    return _ordered(value, np.full(1, low), np.full(1, high))


def _flag_gaps(energy: Energy, place: _Places, location: _Location, embodied: _Bounded) -> None:
    covered = ~np.isnan(energy.kwh)
    for where, name in (
        (np.isnan(embodied.value), "no_embodied_model"),
        (covered & np.isnan(location.intensity), "no_intensity"),
        (covered & np.isnan(location.facility_kwh), "no_pue"),
        (covered & place.pue.averaged[place.codes], "pue_provider_average"),
    ):
        if where.any():
            energy.flags |= np.where(where, bit(name), np.uint32(0))

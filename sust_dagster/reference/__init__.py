"""Small factor tables (CSV) and their loader; every row carries source, year and licence.

Belongs here: figures carried over from public sources in our own columns, and the functions that read them.
Does not belong here: formulas, choices between sources at run time, or anything fetched.

How each figure was chosen, recomputed or corrected is told in ``docs/factors.md``.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from sust_dagster.reference.azure import AzureSize, azure_size
from sust_dagster.reference.factors import SHIPPED_AT, shipped_rows

__all__ = [
    "SHIPPED_AT",
    "AzureSize",
    "ReferenceError",
    "azure_size",
    "conventions",
    "cpu_families",
    "embodied",
    "gpus",
    "instances",
    "network",
    "region_zones",
    "regions",
    "shipped_factors",
    "storage",
]

#: What every row of every table must say about itself.
PROVENANCE: tuple[str, ...] = ("source", "source_year", "licence")

_STRINGS = {
    "regions": (
        "provider", "region", "name", "grid_zone", "grid_zone_alternates", "continent", "country", "pue_basis",
        "pue_bound_reading", "pue_source", "annual_bound_reading", "signal", "method", "hour_spread_basis",
    ),
    "cpu_families": ("cpu_family", "bound_basis", "proxy_of", "note", "bound_reading"),
    "instance_types": ("provider", "instance_type", "gpu_model", "accelerator", "cpu_family"),
    "gpus": ("model", "bound_basis", "bound_reading"),
    "conventions": ("factor_type", "name", "unit", "bound_reading", "bound_basis"),
    "embodied": ("name", "unit", "bound_reading", "bound_basis"),
    "network": ("name", "unit", "bound_reading", "bound_basis"),
    "storage": ("name", "bound_reading", "bound_basis"),
}  # fmt: skip


class ReferenceError(ValueError):  # noqa: A001 - the built-in of this name is about weak references
    """A reference table that breaks its own rules."""


def _read(name: str) -> pa.Table:
    """One CSV of this package as Arrow: text columns as strings, the rest as numbers."""
    text = ("source", "licence", "source_url", *_STRINGS[name])
    with files("sust_dagster.reference").joinpath(f"{name}.csv").open("rb") as stream:
        table = pa_csv.read_csv(
            stream,
            convert_options=pa_csv.ConvertOptions(
                column_types={**dict.fromkeys(text, pa.string()), "source_year": pa.int64()},
                strings_can_be_null=False,
            ),
        )
    for column in PROVENANCE:
        values = table[column]
        unsaid = pc.fill_null(pc.equal(pc.cast(values, pa.string()), ""), True)
        if pc.any(unsaid).as_py():
            raise ReferenceError(f"{name}.csv: a row has no {column}; every figure says where it comes from")
    return table


def _unique(table: pa.Table, name: str, *key: str) -> pa.Table:
    groups = table.group_by(list(key)).aggregate([([], "count_all")])
    if groups.num_rows != table.num_rows:
        twice = groups.filter(pc.greater(groups["count_all"], 1)).select(list(key)).to_pylist()[0]
        raise ReferenceError(f"{name}.csv: {twice} stands there twice")
    return table


@lru_cache(maxsize=1)
def regions() -> pa.Table:
    """Cloud regions: grid zone, site, PUE with bounds, annual mean intensity in g/kWh with bounds."""
    return _unique(_read("regions"), "regions", "region")


@lru_cache(maxsize=1)
def cpu_families() -> pa.Table:
    """Watts per vCPU, idle and full, by CPU family, with a relative box around the power at any load."""
    return _unique(_read("cpu_families"), "cpu_families", "cpu_family")


@lru_cache(maxsize=1)
def gpus() -> pa.Table:
    """Watts per GPU, idle and full, by model, with a relative box around the half-load figure."""
    return _unique(_read("gpus"), "gpus", "model")


@lru_cache(maxsize=1)
def instances() -> pa.Table:
    """Instance types: vCPUs, memory, GPUs, CPU family, and the whole server behind them with its embodied kg."""
    return _unique(_read("instance_types"), "instance_types", "provider", "instance_type")


@lru_cache(maxsize=1)
def conventions() -> pa.Table:
    """Figures that are conventions of a method: simple/v1's watts and PUE, DRAM, shared PUE error."""
    return _unique(_read("conventions"), "conventions", "factor_type", "name")


@lru_cache(maxsize=1)
def embodied() -> pa.Table:
    """Constants of the embodied formula and the server life, with bounds."""
    return _unique(_read("embodied"), "embodied", "name")


@lru_cache(maxsize=1)
def network() -> pa.Table:
    """Energy of data that leaves a region, kWh/GB."""
    return _unique(_read("network"), "network", "name")


@lru_cache(maxsize=1)
def storage() -> pa.Table:
    """Energy of stored data by storage class: Wh per TB and hour, and how many copies are kept."""
    return _unique(_read("storage"), "storage", "name")


@lru_cache(maxsize=1)
def region_zones() -> pa.Table:
    """region, zone, rank: the grid zones of each region, rank 0 the chosen one, then its alternates."""
    rows: list[dict[str, object]] = []
    for r in regions().select(["region", "grid_zone", "grid_zone_alternates"]).to_pylist():
        zones = [z for z in (r["grid_zone"], *r["grid_zone_alternates"].split(";")) if z]
        rows += [{"region": r["region"], "zone": zone, "rank": rank} for rank, zone in enumerate(zones)]
    return pa.Table.from_pylist(rows, pa.schema([("region", pa.string()), ("zone", pa.string()), ("rank", pa.int64())]))


@lru_cache(maxsize=1)
def shipped_factors() -> pa.Table:
    """Every shipped figure as version 1 ``EMISSION_FACTORS`` rows, written at :data:`SHIPPED_AT`.

    Ids are UUIDv5 over type, region, provider, name and version, so a re-load is the same rows.
    """
    return shipped_rows(
        regions=regions(),
        cpu_families=cpu_families(),
        gpus=gpus(),
        conventions=conventions(),
        embodied=embodied(),
        network=network(),
        storage=storage(),
    )

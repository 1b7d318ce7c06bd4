"""The shipped figures as factor rows: from the reference tables to ``EMISSION_FACTORS``.

Belongs here: which column of which table becomes which factor, and the refusal of a bound without a reading.
Does not belong here: the figures (CSV) or what a method does with them.

Factor names are part of the contract with the accountant:
``<CPU family>/idle|full|box|included memory`` (power), ``<GPU model>/idle|full|box`` (gpu), ``site`` and
``annual average`` (per region), and the names of ``conventions.csv``, ``embodied.csv``, ``network.csv``,
``storage.csv`` (with ``<name>/copies`` for replication).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import pyarrow as pa

from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import EMISSION_FACTORS

#: When the shipped rows were written; a constant, so that the ids and the bytes never depend on a clock.
SHIPPED_AT = datetime(2026, 11, 21, tzinfo=UTC)

#: First instant the shipped rows may be applied to: old bills are accounted with them too.
VALID_FROM = datetime(2019, 1, 1, tzinfo=UTC)

READINGS: frozenset[str] = frozenset({"95% lognormal", "uniform", "declared box"})

Row = dict[str, object]


class UnreadBoundError(ValueError):
    """A figure whose bound does not say how it is to be read."""


def shipped_rows(
    *,
    regions: pa.Table,
    cpu_families: pa.Table,
    gpus: pa.Table,
    conventions: pa.Table,
    embodied: pa.Table,
    network: pa.Table,
    storage: pa.Table,
) -> pa.Table:
    """All figures as version 1 factor rows in ``EMISSION_FACTORS`` shape, ordered by id.

    Raises :class:`UnreadBoundError` for a row whose bound has no known reading.
    """
    rows = [
        *_plain(conventions),
        *_plain(embodied, "embodied"),
        *_plain(network, "network"),
        *_storage(storage),
        *_cpu(cpu_families),
        *_gpu(gpus),
        *_regions(regions),
    ]
    rows.sort(key=lambda r: str(r["factor_id"]))
    return EMISSION_FACTORS.conform(pa.Table.from_pylist(rows, EMISSION_FACTORS.arrow))


def _row(
    origin: Mapping[str, object],
    factor_type: str,
    name: str,
    figures: tuple[float, float, float],
    unit: str,
    *,
    provider: str | None = None,
    region: str | None = None,
    reading: object = None,
    source: object = None,
    source_year: object = None,
) -> Row:
    said = origin.get("bound_reading") if reading is None else reading
    if said not in READINGS:
        raise UnreadBoundError(
            f"{factor_type} {name!r}: bound reading {said!r} is not one of {sorted(READINGS)}; "
            "state how it is to be read"
        )
    value, lower, upper = figures
    return {
        "factor_id": uuid5("emission_factor", factor_type, region or "", provider or "", name, 1),
        "factor_type": factor_type,
        "region": region,
        "provider": provider,
        "name": name,
        "value": value,
        "value_lower": lower,
        "value_upper": upper,
        "unit": unit,
        "bound_reading": said,
        "source": origin["source"] if source is None else source,
        "source_url": origin["source_url"] or None,
        "source_year": origin["source_year"] if source_year is None else source_year,
        "licence": origin["licence"],
        "valid_from": VALID_FROM,
        "valid_to": None,
        "version": 1,
        "created_at": SHIPPED_AT,
    }


def _plain(table: pa.Table, factor_type: str | None = None) -> Iterator[Row]:
    for r in table.to_pylist():
        figures = (float(r["value"]), float(r["value_lower"]), float(r["value_upper"]))
        yield _row(r, factor_type or r["factor_type"], r["name"], figures, r["unit"])


def _storage(table: pa.Table) -> Iterator[Row]:
    for r in table.to_pylist():
        watts = (float(r["wh_per_tbh"]), float(r["wh_lower"]), float(r["wh_upper"]))
        copies = (float(r["replication"]), float(r["replication_lower"]), float(r["replication_upper"]))
        yield _row(r, "storage", r["name"], watts, "Wh/TBh")
        yield _row(r, "storage", f"{r['name']}/copies", copies, "ratio")


def _cpu(table: pa.Table) -> Iterator[Row]:
    for r in table.to_pylist():
        lower, upper = float(r["rel_lower"]), float(r["rel_upper"])
        name = r["cpu_family"]
        for part, column in (("idle", "min_w_per_vcpu"), ("full", "max_w_per_vcpu")):
            watts = float(r[column])
            yield _row(r, "power", f"{name}/{part}", (watts, watts * lower, watts * upper), "W/vCPU")
        yield _row(r, "power", f"{name}/box", (1.0, lower, upper), "ratio")
        included = float(r["included_gb_per_vcpu"])
        yield _row(r, "memory", f"{name}/included", (included, included, included), "GB/vCPU")


def _gpu(table: pa.Table) -> Iterator[Row]:
    for r in table.to_pylist():
        idle, full = float(r["idle_w"]), float(r["max_w"])
        yield _row(r, "gpu", f"{r['model']}/idle", (idle, idle, idle), "W/GPU")
        yield _row(r, "gpu", f"{r['model']}/full", (full, full, full), "W/GPU")
        yield _row(r, "gpu", f"{r['model']}/box", (1.0, float(r["rel_lower"]), float(r["rel_upper"])), "ratio")


def _regions(table: pa.Table) -> Iterator[Row]:
    for r in table.to_pylist():
        scope = {"provider": r["provider"], "region": r["region"]}
        # The name says whether the figure is the site's own or an average that stands in for it.
        yield _row(
            r,
            "pue",
            "site" if r["pue_basis"] == "region" else "provider average",
            (float(r["pue"]), float(r["pue_lower"]), float(r["pue_upper"])),
            "ratio",
            reading=r["pue_bound_reading"],
            source=r["pue_source"],
            source_year=r["pue_source_year"],
            **scope,
        )
        grams = (r["annual_intensity_g_per_kwh"], r["annual_lower_g_per_kwh"], r["annual_upper_g_per_kwh"])
        kg = (grams[0] / 1000, grams[1] / 1000, grams[2] / 1000)
        yield _row(r, "grid_intensity", "annual average", kg, "kgCO2e/kWh", reading=r["annual_bound_reading"], **scope)

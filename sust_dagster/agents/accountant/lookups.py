"""Lookups a calculation makes once: dense tables by place, hour, instance and power class.

Belongs here: turning the grid table, the factor set, the instance table and the instruments into arrays
that rows index. Does not belong here: row arithmetic or what a flag means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats, encode, floats
from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.methods import Method, power_box, region_pue, simple_pue_box
from sust_dagster.agents.accountant.quality import merge

HOUR_US = 3_600_000_000

#: Parts of a storage name (service, volume type) and the storage class they mean; the first that occurs decides.
STORAGE_MATCHES: tuple[tuple[str, str], ...] = (
    ("snapshot", "snapshot"),
    ("st1", "hdd"),
    ("sc1", "hdd"),
    ("hdd", "hdd"),
    ("s3", "s3"),
    ("simple storage", "s3"),
    ("efs", "efs"),
    ("elastic file", "efs"),
    ("ebs", "ebs"),
    ("elastic block", "ebs"),
    ("cloud storage", "cloud storage"),
    ("persistent disk", "persistent disk"),
    ("blob", "blob"),
    ("managed disk", "managed disk"),
    ("gp2", "ebs"),
    ("gp3", "ebs"),
    ("io1", "ebs"),
    ("io2", "ebs"),
    ("pd-ssd", "persistent disk"),
    ("pd-balanced", "persistent disk"),
    ("ssd", "ssd"),
)

#: GPU names as bills write them, longest first, and the model they mean.
GPU_TOKENS: tuple[tuple[str, str], ...] = (
    ("RADEON PRO V520", "Radeon Pro V520"),
    ("V520", "Radeon Pro V520"),
    ("A100", "A100"),
    ("A10G", "A10G"),
    ("B200", "B200"),
    ("H100", "H100"),
    ("H200", "H200"),
    ("K520", "K520"),
    ("L40S", "L40S"),
    ("P100", "P100"),
    ("V100", "V100"),
    ("K80", "K80"),
    ("M60", "M60"),
    ("L4", "L4"),
    ("P4", "P4"),
    ("T4", "T4"),
)


class LedgerError(ValueError):
    """A ledger, grid or instrument table that breaks its contract; the message names row, column and remedy."""


def gpu_model(text: str) -> str:
    """The GPU model a billed name means, ``unknown`` where none of ours occurs in it, ``""`` where there is no name."""
    words = text.upper().replace("-", " ").replace("_", " ").split()
    if not words:
        return ""
    joined = " ".join(words)
    for token, model in GPU_TOKENS:
        if token in words or (" " in token and token in joined):
            return model
    return "unknown"


def instance_name(provider: str, billed: str) -> str:
    """The instance type behind a billed name: AWS databases, caches and search run on EC2 shapes under other names."""
    name = billed.lower()
    if provider == "aws":
        name = name.removeprefix("db.").removeprefix("cache.").removesuffix(".elasticsearch").removesuffix(".search")
    return name


def storage_class(*names: str) -> str:
    """The storage class the first telling name means; ``unknown`` where none does."""
    for name in names:
        text = name.lower()
        for part, meaning in STORAGE_MATCHES:
            if part in text:
                return meaning
    return "unknown"


@dataclass(frozen=True)
class GridLookup:
    """Intensity by (region, hour) as one flat array; the last cell stands for everything that is not there."""

    regions: tuple[str, ...]
    first_hour: int
    hours: int
    intensity: Floats
    lower: Floats
    upper: Floats
    quality_codes: NDArray[np.int32]
    qualities: tuple[str, ...]

    @property
    def nowhere(self) -> int:
        """The cell of a region or hour without intensity."""
        return len(self.intensity) - 1

    def cells(
        self, region_values: Sequence[str], region_codes: NDArray[np.int32], hour: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The cell of each row from its region code and its hour since 1970."""
        position = {name: i for i, name in enumerate(self.regions)}
        base = np.array([position.get(v, -1) for v in region_values], dtype=np.int64) * self.hours
        offset = hour - self.first_hour
        cell = base[region_codes] + offset
        outside = (offset < 0) | (offset >= self.hours) | (base[region_codes] < 0)
        cell[outside] = self.nowhere
        return cell

    def keys(self, cells: NDArray[np.int64]) -> pa.Array:
        """``grid/<region>/<hour>`` of the given cells; null where there is no intensity."""
        inside = cells != self.nowhere
        hours = np.datetime_as_string((self.first_hour + cells % max(self.hours, 1)).astype("datetime64[h]"), unit="h")
        names = np.array([*(f"grid/{r}/" for r in self.regions), ""])
        # The sentinel's row may lie beyond the last region: clip, then mask it away.
        row = np.minimum(cells // max(self.hours, 1), len(self.regions))
        text = np.char.add(np.char.add(names[row], hours), "Z")
        return pa.array(text.tolist(), pa.string(), mask=~inside)


def grid_lookup(grid: pa.Table, *, signal: str = "average", grid_method: str | None = None) -> GridLookup:
    """Index ``GRID_INTENSITY`` rows of one signal and method by region and hour.

    Raises :class:`LedgerError` where the table mixes methods and none is chosen, holds two rows for one
    (region, hour), a time that is not the start of an hour, or a relative bound that does not contain 1.
    """
    rows = grid.filter(pc.equal(grid["signal"], signal))
    methods = sorted(m for m in pc.unique(rows["method"]).to_pylist() if m)
    if grid_method is not None:
        rows = rows.filter(pc.equal(rows["method"], grid_method))
    elif len(methods) > 1:
        raise LedgerError(f"the grid table holds {signal} intensity by {methods}: choose one with grid_method")
    if rows.num_rows == 0:
        empty = np.array([np.nan])
        one = np.ones(1)
        return GridLookup((), 0, 0, empty, one, one, np.zeros(1, np.int32), ("",))
    micros = rows["ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    if (micros % HOUR_US).any():
        at = int(np.flatnonzero(micros % HOUR_US)[0])
        raise LedgerError(f"grid row {at}: ts {rows['ts'][at]} is not the start of an hour; normalise the source first")
    hour = micros // HOUR_US
    region = encode(rows["region"])
    first, span = int(hour.min()), int(hour.max() - hour.min()) + 1
    names = region.values[:-1]
    cell = region.codes.astype(np.int64) * span + (hour - first)
    size = len(names) * span
    twice = np.flatnonzero(np.bincount(cell, minlength=size) > 1)
    if len(twice):
        where, when = divmod(int(twice[0]), span)
        raise LedgerError(
            f"two {signal} intensities for {names[where]} at {np.datetime64(first + when, 'h')}Z: keep one source"
        )
    quality = encode(rows["quality"])
    lower = floats(rows["system_rel_lower"]) * floats(rows["hour_rel_lower"])
    upper = floats(rows["system_rel_upper"]) * floats(rows["hour_rel_upper"])
    _refuse_boxes(rows, ("system_rel_lower", "hour_rel_lower"), ("system_rel_upper", "hour_rel_upper"))
    return GridLookup(
        regions=names,
        first_hour=first,
        hours=span,
        intensity=_scatter(cell, floats(rows["intensity_kgco2_kwh"]), size, np.nan),
        lower=_scatter(cell, lower, size, 1.0),
        upper=_scatter(cell, upper, size, 1.0),
        quality_codes=_scatter(cell, quality.codes, size, len(quality.values) - 1).astype(np.int32),
        qualities=tuple(merge(q) if q else "" for q in quality.values),
    )


def _scatter(cell: NDArray[np.int64], values: NDArray, size: int, absent: float) -> NDArray:
    out = np.full(size + 1, absent, dtype=np.result_type(values, type(absent)))
    out[cell] = values
    return out


def _refuse_boxes(rows: pa.Table, lowers: Sequence[str], uppers: Sequence[str]) -> None:
    for names, wrong in ((lowers, lambda v: ~((v > 0) & (v <= 1))), (uppers, lambda v: ~((v >= 1) & np.isfinite(v)))):
        for name in names:
            bad = np.flatnonzero(wrong(floats(rows[name])))
            if len(bad):
                at = int(bad[0])
                raise LedgerError(
                    f"grid row {at}, column {name}: {rows[name][at].as_py()} does not bound 1; "
                    "lower factors lie in (0, 1], upper factors are at least 1"
                )


@dataclass(frozen=True)
class PlaceLookup:
    """PUE and its factors by place (provider x region of one batch)."""

    pue: Floats
    lower: Floats
    upper: Floats
    provider_keys: tuple[str | None, ...]
    region_keys: tuple[str | None, ...]
    averaged: NDArray[np.bool_]


def place_lookup(factors: FactorSet, chosen: Method, places: Sequence[tuple[str, str]]) -> PlaceLookup:
    """PUE of each (provider, region): simple/v1's constant, or the site's published figure."""
    pue, lower, upper, averaged = [], [], [], []
    provider_keys: list[str | None] = []
    region_keys: list[str | None] = []
    for provider, region in places:
        if chosen.name == "simple/v1":
            half = simple_pue_box(factors)
            pue.append(factors.get("pue", "simple/v1").value)
            lower.append(half[0] * half[0])
            upper.append(half[1] * half[1])
            provider_keys.append(f"pue/simple/v1/{provider}")
            region_keys.append(f"pue/simple/v1/{provider}/{region}")
            averaged.append(False)
            continue
        found = region_pue(factors, provider, region)
        if found is None:
            pue.append(np.nan)
            lower.append(1.0)
            upper.append(1.0)
            provider_keys.append(None)
            region_keys.append(None)
            averaged.append(False)
            continue
        shared = factors.get("pue", "provider shared")
        pue.append(found.value)
        lower.append(shared.rel_lower * found.rel_lower)
        upper.append(shared.rel_upper * found.rel_upper)
        provider_keys.append(f"pue/{provider}")
        region_keys.append(f"pue/{provider}/{region}")
        averaged.append(found.name != "site")
    return PlaceLookup(
        np.array(pue, dtype=np.float64),
        np.array(lower, dtype=np.float64),
        np.array(upper, dtype=np.float64),
        tuple(provider_keys),
        tuple(region_keys),
        np.array(averaged, dtype=bool),
    )


@dataclass(frozen=True)
class PowerClasses:
    """The power keys a method can write, each with its relative box; class 0 is "no power figure"."""

    keys: tuple[str | None, ...]
    lower: Floats
    upper: Floats
    index: dict[str, int]


def power_classes(factors: FactorSet, chosen: Method) -> PowerClasses:
    """All power classes of a method with a factor set."""
    names = ["power/network", *(f"power/storage/{f.name}" for f in factors.of_type("storage") if "/" not in f.name)]
    if chosen.name == "simple/v1":
        names.insert(0, "power/simple/v1")
    else:
        names.append("power/memory")
        families = [f.name.removesuffix("/box") for f in factors.of_type("power") if f.name.endswith("/box")]
        models = [f.name.removesuffix("/box") for f in factors.of_type("gpu") if f.name.endswith("/box")]
        for family in families:
            for load in ("metered", "unmetered"):
                stem = f"power/{chosen.name}/{family}/{load}"
                names += [stem, *(f"{stem}/{model}" for model in models)]
    boxes = [power_box(factors, name) for name in names]
    return PowerClasses(
        keys=(None, *names),
        lower=np.array([1.0, *(b[0] for b in boxes)]),
        upper=np.array([1.0, *(b[1] for b in boxes)]),
        index={name: i + 1 for i, name in enumerate(names)},
    )


#: Columns of the instance table a calculation reads.
INSTANCE_COLUMNS: tuple[str, ...] = (
    "provider",
    "instance_type",
    "vcpus",
    "memory_gib",
    "gpus",
    "gpu_model",
    "accelerator",
    "cpu_family",
    "server_vcpus",
    "embodied_kg",
)


@dataclass(frozen=True)
class InstanceLookup:
    """The instance table by (provider, type); entry 0 stands for an unknown instance."""

    position: dict[tuple[str, str], int]
    vcpus: Floats
    memory_gb: Floats
    gpus: Floats
    gpu_models: tuple[str, ...]
    accelerator: NDArray[np.bool_]
    families: tuple[str, ...]
    embodied_kg: Floats
    server_vcpus: Floats
    digest: str


def instance_lookup(instances: pa.Table | None) -> InstanceLookup:
    """Index an instance table (the columns of :data:`INSTANCE_COLUMNS`); None knows no instance."""
    if instances is None:
        instances = pa.table({c: pa.array([], pa.string()) for c in INSTANCE_COLUMNS})
    missing = [c for c in INSTANCE_COLUMNS if c not in instances.column_names]
    if missing:
        raise LedgerError(f"the instance table has no {missing}; it needs {list(INSTANCE_COLUMNS)}")
    rows = instances.select(list(INSTANCE_COLUMNS)).sort_by([("provider", "ascending"), ("instance_type", "ascending")])
    text = {c: ["" if v is None else str(v) for v in rows[c].to_pylist()] for c in INSTANCE_COLUMNS}
    keys = list(zip(text["provider"], (t.lower() for t in text["instance_type"]), strict=True))

    def number(name: str) -> Floats:
        return np.concatenate([[np.nan], floats(pc.cast(rows[name], pa.float64()))])

    digest = hashlib.sha256()
    for column in INSTANCE_COLUMNS:
        digest.update(("\x1e".join(text[column]) + "\x1f").encode())
    return InstanceLookup(
        position={key: i + 1 for i, key in enumerate(keys)},
        vcpus=number("vcpus"),
        memory_gb=number("memory_gib"),
        gpus=number("gpus"),
        gpu_models=("", *(gpu_model(m) for m in text["gpu_model"])),
        accelerator=np.array([False, *(bool(a) for a in text["accelerator"])]),
        families=("unknown", *(f or "unknown" for f in text["cpu_family"])),
        embodied_kg=number("embodied_kg"),
        server_vcpus=number("server_vcpus"),
        digest=digest.hexdigest() if keys else "no instance table",
    )

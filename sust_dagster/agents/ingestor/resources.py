"""What rows use: from SKU meanings and machine sizes to hours, vCPU-hours, GB-hours and their units.

Belongs here: the arithmetic between a billed quantity and the ledger's quantities, on whole columns. The reading of
a single SKU is skus.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, combinations, numbers, take_text
from sust_dagster.agents.ingestor.normal_form import Flag
from sust_dagster.agents.ingestor.skus import Billed, carries_gpus, read_sku
from sust_dagster.agents.ingestor.slices import HOUR_US

_SKU_COLUMNS = (
    "x_Provider",
    "ServiceName",
    "x_ServiceCode",
    "ServiceCategory",
    "SkuMeter",
    "x_Operation",
    "ChargeDescription",
    "ConsumedUnit",
    "x_InstanceType",
)
_ROLES = ("instance", "vcpu", "memory", "gpu", "storage", "network", "other")
INSTANCE, VCPU, MEMORY, GPU, STORAGE, NETWORK, OTHER = range(len(_ROLES))
#: Resource type of each role; machines with GPUs are ``gpu``.
_TYPES = ("compute", "compute", "memory", "gpu", "storage", "network", "other")
_MACHINE_COLUMNS = ("provider", "instance_type", "vcpus", "memory_gib", "gpus", "gpu_model")


class InstanceTableError(ValueError):
    """The reference table of instance types lacks columns."""


@dataclass(frozen=True)
class Machines:
    """Sizes by distinct SKU: vCPUs, memory (GiB) and GPUs (NaN: unknown), GPU model."""

    vcpus: np.ndarray
    memory_gib: np.ndarray
    gpus: np.ndarray
    gpu_model: list[str | None]


@dataclass(frozen=True)
class Amounts:
    """Row totals: ``quantity`` in ``unit``, hours and GB (NaN: not applicable), sizes of the resource, flags."""

    base: np.ndarray
    quantity: np.ndarray
    unit: pa.DictionaryArray
    usage_hours: np.ndarray
    vcpus: np.ndarray
    gpus: np.ndarray
    memory_gib: np.ndarray
    vcpu_hours: np.ndarray
    gpu_hours: np.ndarray
    data_gb: np.ndarray
    held_gb_hours: np.ndarray
    flags: np.ndarray


@dataclass(frozen=True)
class Resources:
    """Resource meaning of rows: a role and a factor per row, texts as dictionary arrays."""

    role: np.ndarray
    factor: np.ndarray
    by_month: np.ndarray
    month_hours: np.ndarray
    hourly: np.ndarray
    derived: np.ndarray
    unknown_unit: np.ndarray
    accelerated: np.ndarray
    skip: pa.DictionaryArray
    unit: pa.DictionaryArray
    instance_type: pa.DictionaryArray
    gpu_model: pa.DictionaryArray
    resource_type: pa.DictionaryArray
    consumed: np.ndarray
    vcpus: np.ndarray
    memory_gib: np.ndarray
    gpus: np.ndarray

    def skips(self) -> Iterator[tuple[str, np.ndarray]]:
        """Skip classes that follow from the SKU, with the rows in them."""
        indices = self.skip.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for i, name in enumerate(self.skip.dictionary.to_pylist()):
            if name:
                yield name, indices == i

    def take(self, rows: np.ndarray) -> Resources:
        """The rows at these positions."""
        if len(rows) == len(self.role):
            return self
        at = pa.array(rows)
        return replace(
            self,
            **{
                name: value[rows] if isinstance(value, np.ndarray) else value.take(at)
                for name, value in vars(self).items()
            },
        )

    def amounts(self, start: np.ndarray, end: np.ndarray) -> Amounts:
        """Quantities of rows whose charge periods are ``[start, end)`` (µs)."""
        base = self.consumed * self.factor
        if self.by_month.any():
            hours = np.where(self.month_hours > 0, self.month_hours, hours_of_month(start))
            base = np.where(self.by_month, base * hours, base)
        period = (end - start) / HOUR_US
        nan = np.full(len(base), np.nan)
        is_role = [self.role == i for i in range(len(_ROLES))]
        vcpus = np.where(is_role[VCPU] & np.isnan(self.vcpus), 1.0, self.vcpus)
        vcpus = np.where(is_role[INSTANCE] | is_role[VCPU], vcpus, np.nan)
        gpus = np.where(is_role[GPU] & ~(self.gpus > 0), 1.0, self.gpus)
        gpus = np.where(is_role[INSTANCE] | is_role[GPU], gpus, np.nan)
        memory = np.where(is_role[INSTANCE] | is_role[MEMORY], self.memory_gib, np.nan)
        size = np.select([is_role[VCPU], is_role[GPU], is_role[MEMORY]], [vcpus, gpus, memory], 1.0)
        size = np.where(np.isnan(size), 1.0, size)
        timed = is_role[INSTANCE] | is_role[VCPU] | is_role[GPU] | is_role[MEMORY] | self.hourly
        usage_hours = np.where(timed, base / size, np.where(is_role[STORAGE], period, 0.0))
        vcpu_hours = np.select([is_role[INSTANCE], is_role[VCPU]], [vcpus * base, base], nan)
        gpu_hours = np.select([is_role[INSTANCE], is_role[GPU]], [gpus * base, base], nan)
        unit, quantity = self._unit(is_role, base, vcpu_hours, gpu_hours)
        flags = np.zeros(len(base), np.uint32)
        flags[is_role[INSTANCE] & np.isnan(vcpus)] |= int(Flag.UNKNOWN_INSTANCE)
        flags[is_role[INSTANCE] & np.isnan(gpus) & self.accelerated] |= int(Flag.UNKNOWN_GPUS)
        flags[self.derived] |= int(Flag.DERIVED_VCPUS)
        flags[self.unknown_unit] |= int(Flag.UNKNOWN_UNIT)
        return Amounts(
            base=base,
            quantity=quantity,
            unit=unit,
            usage_hours=usage_hours,
            vcpus=vcpus,
            gpus=gpus,
            memory_gib=memory,
            vcpu_hours=vcpu_hours,
            gpu_hours=gpu_hours,
            data_gb=np.where(is_role[NETWORK] | self._other_gb(), base, np.nan),
            held_gb_hours=np.where(is_role[STORAGE], base, np.nan),
            flags=flags,
        )

    def _other_gb(self) -> np.ndarray:
        names = self.unit.dictionary.to_pylist()
        gb = [i for i, name in enumerate(names) if name == "GB"]
        return np.isin(self.unit.indices.to_numpy(zero_copy_only=False), gb)

    def _unit(
        self, is_role: list[np.ndarray], base: np.ndarray, vcpu_hours: np.ndarray, gpu_hours: np.ndarray
    ) -> tuple[pa.DictionaryArray, np.ndarray]:
        """Machines are counted in GPU-hours or vCPU-hours where their size is known, else in hours."""
        with_gpu = is_role[INSTANCE] & (gpu_hours != 0) & (self.gpus > 0)
        with_vcpu = is_role[INSTANCE] & ~with_gpu & ~np.isnan(vcpu_hours)
        quantity = np.select([with_gpu, with_vcpu], [gpu_hours, vcpu_hours], base)
        names = self.unit.dictionary.to_pylist()
        code = self.unit.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        code = np.where(with_gpu, len(names), np.where(with_vcpu, len(names) + 1, code))
        return take_text(pa.array([*names, "GPU-h", "vCPU-h"]), code), quantity


def hours_of_month(start: np.ndarray) -> np.ndarray:
    """Hours in the calendar month (UTC) of each instant (µs)."""
    month = start.astype("datetime64[us]").astype("datetime64[M]")
    days = (month + 1).astype("datetime64[D]") - month.astype("datetime64[D]")
    return days.astype(np.int64) * 24.0


def read_resources(normal: pa.Table, instances: pa.Table | None) -> Resources:
    """The resource meaning of rows in the normal form: each distinct SKU is read once.

    Raises :class:`InstanceTableError` where ``instances`` lacks columns.
    """
    columns = [as_dictionary(normal.column(name)) for name in _SKU_COLUMNS]
    group, first = combinations(columns)
    at = pa.array(first)
    texts = [pc.fill_null(c.take(at).cast(pa.string()), "").to_pylist() for c in columns]
    billed = [Billed(*row) for row in zip(*texts, strict=True)]
    skus = [read_sku(b) for b in billed]
    machines = _machines([(b.provider, s.instance_type) for b, s in zip(billed, skus, strict=True)], instances)

    def each(values: list[float] | list[bool], kind: type) -> np.ndarray:
        return np.array(values, kind)[group] if values else np.zeros(0, kind)

    def text(values: list[str | None]) -> pa.DictionaryArray:
        encoded = pa.array(values, pa.string()).dictionary_encode()
        return encoded.take(pa.array(group))

    role = each([_ROLES.index(s.role) for s in skus], np.int64)
    vcpus = _first(numbers(normal.column("x_VCpus")), machines.vcpus, group)
    gpus = numbers(normal.column("x_Gpus"))
    table_gpus = machines.gpus[group] if len(group) else gpus
    gpus = np.where(np.isnan(gpus), table_gpus, gpus)
    named = [s.gpu_model or m for s, m in zip(skus, machines.gpu_model, strict=True)]
    model = as_dictionary(normal.column("x_GpuModel"))
    if model.null_count == len(model):
        model = text(named)
    elif any(named):
        model = as_dictionary(pc.coalesce(model.cast(pa.string()), text(named).cast(pa.string())))
    types = np.where((role == INSTANCE) & (gpus > 0), GPU, role)
    return Resources(
        role=role,
        factor=each([s.factor for s in skus], np.float64),
        by_month=each([s.by_month for s in skus], np.bool_),
        month_hours=each([s.month_hours for s in skus], np.float64),
        hourly=each([s.hours for s in skus], np.bool_),
        derived=each([s.derived for s in skus], np.bool_),
        unknown_unit=each([s.unknown_unit for s in skus], np.bool_),
        accelerated=each(
            [carries_gpus(b.provider, s.instance_type or "") for b, s in zip(billed, skus, strict=True)], np.bool_
        ),
        skip=text([s.skip for s in skus]),
        unit=text([s.unit for s in skus]),
        instance_type=text([s.instance_type for s in skus]),
        gpu_model=model,
        resource_type=take_text(pa.array(_TYPES), types),
        consumed=numbers(normal.column("ConsumedQuantity")),
        vcpus=vcpus,
        memory_gib=_first(numbers(normal.column("x_MemoryGib")), machines.memory_gib, group),
        gpus=gpus,
    )


def _first(billed: np.ndarray, table: np.ndarray, group: np.ndarray) -> np.ndarray:
    """What the bill says, else the reference table; a size of zero says nothing."""
    if not len(group):
        return billed
    return np.where(billed > 0, billed, table[group])


def _machines(names: list[tuple[str, str | None]], instances: pa.Table | None) -> Machines:
    """Sizes of machine types, by name; one entry per name given."""
    count = len(names)
    empty = Machines(np.full(count, np.nan), np.full(count, np.nan), np.full(count, np.nan), [None] * count)
    if instances is None or not instances.num_rows:
        return empty
    missing = [c for c in _MACHINE_COLUMNS if c not in instances.column_names]
    if missing:
        raise InstanceTableError(f"the table of instance types lacks {missing}; it needs {list(_MACHINE_COLUMNS)}")
    provider = instances.column("provider").to_pylist()
    kind = instances.column("instance_type").to_pylist()
    position = {(p, k.lower()): i for i, (p, k) in enumerate(zip(provider, kind, strict=True))}
    at = np.array([_position(position, p, n) for p, n in names], np.int64)
    hit = at >= 0

    def size(name: str) -> np.ndarray:
        column = instances.column(name).cast(pa.float64())
        return np.where(hit, numbers(column)[np.maximum(at, 0)], np.nan)

    models = instances.column("gpu_model").to_pylist()
    return Machines(
        size("vcpus"), size("memory_gib"), size("gpus"), [models[i] or None if i >= 0 else None for i in at]
    )


def _position(position: dict[tuple[str, str], int], provider: str, name: str | None) -> int:
    """Row of a type in the reference table; AWS databases, caches and search run on shapes of the same name."""
    if not name:
        return -1
    lowered = name.lower()
    found = position.get((provider, lowered), -1)
    if found < 0 and provider == "aws":
        bare = re.sub(r"^(?:db|cache|ml|dax|search)\.|\.(?:search|elasticsearch)$", "", lowered)
        found = position.get((provider, bare), -1)
    if found < 0 and provider == "azure" and not lowered.startswith(("standard_", "basic_")):
        found = position.get((provider, "standard_" + lowered), -1)
    return found

"""The methods: formulas of energy and embodied carbon, and the named factors behind their bounds.

Belongs here: each formula once, vectorised, in stated units; the registry of method versions; what every
factor key means. Does not belong here: figures (factor set), lookups by region and hour, or table shapes.

A factor key names one multiplicative error that all rows with that key share:

- ``power/simple/v1``: the watts of simple/v1;
- ``power/instance-power/v1/<CPU family>/<metered|unmetered>[/<GPU model>]``;
- ``power/memory``, ``power/network``, ``power/storage/<class>``;
- ``pue/simple/v1/<provider>`` and ``pue/simple/v1/<provider>/<region>``;
- ``pue/<provider>`` and ``pue/<provider>/<region>``;
- ``grid/<region>`` (region-systematic) and ``grid/<region>/<hour>``: their boxes stand in the intensity row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.accountant.factors import Factor, FactorError, FactorSet, NamedFactor

Floats = NDArray[np.float64]

#: CPU (and GPU) load assumed where the bill does not meter it: a fraction of full load.
DEFAULT_UTILISATION = 0.5

HOURS_PER_YEAR = 8760.0

MethodName = Literal["simple/v1", "instance-power/v1"]


def simple_kwh(vcpu_hours: Floats, gpu_hours: Floats, kw_per_vcpu: float, kw_per_gpu: float) -> Floats:
    """IT energy in kWh: ``vcpus x 0.005 kW x hours + gpus x 0.3 kW x hours`` (the founding design's formula)."""
    return vcpu_hours * kw_per_vcpu + gpu_hours * kw_per_gpu


def load_watts(idle: Floats, full: Floats, utilisation: Floats) -> Floats:
    """Watts at a load between 0 and 1: ``idle + utilisation x (full - idle)``.

    The linear model of Cloud Carbon Footprint and of SPECpower's end points.
    """
    return idle + utilisation * (full - idle)


def memory_kwh(
    memory_gb_hours: Floats, vcpu_hours: Floats, included_gb_per_vcpu: Floats, watts_per_gb: float
) -> Floats:
    """Energy in kWh of the memory above what the CPU figure holds (its servers were measured with memory in)."""
    return np.maximum(memory_gb_hours - vcpu_hours * included_gb_per_vcpu, 0.0) * (watts_per_gb / 1000)


def storage_kwh(gb_hours: Floats, wh_per_tbh: Floats, copies: Floats) -> Floats:
    """Energy in kWh of stored data: ``GB h / 1000 x Wh/TBh x copies / 1000``."""
    return gb_hours * wh_per_tbh * copies / 1e6


def network_kwh(gb: Floats, kwh_per_gb: float) -> Floats:
    """Energy in kWh of data that left the region."""
    return gb * kwh_per_gb


def embodied_kg_per_vcpu_hour(server_kg: Floats, server_vcpus: Floats, life_years: float) -> Floats:
    """``TE / (life x 8760 h) / server vCPUs``: the SCI's M = TE x TS x RS for one vCPU and hour.

    Cloud Carbon Footprint documents this formula; its code divides once more by the instance's vCPUs.
    """
    return server_kg / (life_years * HOURS_PER_YEAR) / server_vcpus


def server_embodied_kg(
    factors: FactorSet, *, memory_gb: float, cpus: int = 2, ssds: int = 0, hdds: int = 0, gpus: int = 0
) -> float:
    """Mass in kg of one server by the Cloud Carbon Footprint constants (base, DRAM above 16 GB, further parts).

    ``m5`` (384 GB, 2 CPUs) is 1,610.8 kg; ``p4d`` (1,152 GB, 2 CPUs, 8 SSDs, 8 GPUs) 4,676.8 kg.
    """
    part = {
        name: factors.get("embodied", name).value
        for name in ("base server", "dram", "further cpu", "ssd", "hdd", "gpu")
    }
    return (
        part["base server"]
        + max(0.0, memory_gb - 16.0) * part["dram"]
        + (cpus - 1) * part["further cpu"]
        + ssds * part["ssd"]
        + hdds * part["hdd"]
        + gpus * part["gpu"]
    )


@dataclass(frozen=True)
class Method:
    """One version of a method: which factors decide its result, and what it does with memory."""

    name: MethodName
    doc: str
    counts_memory: bool

    def uses(self, factor: Factor) -> bool:
        """Whether a change of this factor can change a row of this method."""
        if factor.factor_type in {"network", "storage", "embodied"}:
            return True
        of_simple = factor.name.startswith("simple/v1")
        if self.name == "simple/v1":
            return of_simple
        return factor.factor_type in {"power", "pue", "memory", "gpu"} and not of_simple


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        m.name: m
        for m in (
            Method(
                "simple/v1", "(vcpus x 0.005 kW + gpus x 0.3 kW) x hours x PUE 1.1 x intensity", counts_memory=False
            ),
            Method(
                "instance-power/v1",
                "idle and full watts by CPU family at the metered load, memory, GPU, site PUE, intensity",
                counts_memory=True,
            ),
        )
    }
)


def method(name: str) -> Method:
    """The method of this name and version; ``ValueError`` lists what there is."""
    found = METHODS.get(name)
    if found is None:
        raise ValueError(f"no method {name!r}; there are {', '.join(METHODS)}")
    return found


def method_set_id(factors: FactorSet, name: str, *digests: str) -> str:
    """``emission_factor_id`` of a method with a factor set (and digests of further inputs)."""
    chosen = method(name)
    return factors.set_id(chosen.name, (f for f in factors.index.values() if chosen.uses(f)), *digests)


def hull(*boxes: tuple[float, float]) -> tuple[float, float]:
    """Smallest box that holds all: the safe relative box of a sum whose parts have these boxes."""
    return min(b[0] for b in boxes), max(b[1] for b in boxes)


def power_box(factors: FactorSet, key: str) -> tuple[float, float, str]:
    """Relative lower and upper bound of a power key, and the reading."""
    parts = key.split("/")
    if key == "power/simple/v1":
        vcpu, gpu = factors.get("power", "simple/v1 vcpu"), factors.get("power", "simple/v1 gpu")
        return *hull(_box(vcpu), _box(gpu)), vcpu.bound_reading
    if parts[:3] == ["power", "instance-power", "v1"] and len(parts) in {5, 6}:
        lower, upper = _box(factors.get("power", f"{parts[3]}/box"))
        if parts[4] == "unmetered":
            load = _box(factors.get("power", "utilisation not metered"))
            lower, upper = lower * load[0], upper * load[1]
        boxes = [(lower, upper), _box(factors.get("memory", "dram"))]
        if len(parts) == 6:
            boxes.append(_box(factors.get("gpu", f"{parts[5]}/box")))
        return *hull(*boxes), "declared box"
    if key == "power/memory":
        dram = factors.get("memory", "dram")
        return *_box(dram), dram.bound_reading
    if key == "power/network":
        egress = factors.get("network", "egress")
        return *_box(egress), egress.bound_reading
    if parts[:2] == ["power", "storage"] and len(parts) == 3:
        watts, copies = factors.get("storage", parts[2]), factors.get("storage", f"{parts[2]}/copies")
        return watts.rel_lower * copies.rel_lower, watts.rel_upper * copies.rel_upper, watts.bound_reading
    raise FactorError(f"{key!r} is not a power factor key")


def simple_pue_box(factors: FactorSet) -> tuple[float, float]:
    """Half, in logarithms, of simple/v1's PUE range: one half is shared by a provider's sites, one is the site's.

    Nothing published separates the two; an even split claims neither that all sites err together nor that none do.
    """
    pue = factors.get("pue", "simple/v1")
    return math.sqrt(pue.rel_lower), math.sqrt(pue.rel_upper)


def named_factor(factors: FactorSet, key: str) -> NamedFactor:
    """Box and reading of a power or PUE key as the rows carry it.

    Grid keys are not here: their boxes belong to the intensity rows (``system_rel_*``, ``hour_rel_*``).
    Raises :class:`FactorError` for a key no method writes.
    """
    parts = key.split("/")
    if parts[0] == "power":
        return NamedFactor(key, *power_box(factors, key))
    if parts[:3] == ["pue", "simple", "v1"] and len(parts) in {4, 5}:
        return NamedFactor(key, *simple_pue_box(factors), factors.get("pue", "simple/v1").bound_reading)
    if parts[0] == "pue" and len(parts) == 2:
        shared = factors.get("pue", "provider shared")
        return NamedFactor(key, *_box(shared), shared.bound_reading)
    if parts[0] == "pue" and len(parts) == 3:
        found = region_pue(factors, parts[1], parts[2])
        if found is not None:
            return NamedFactor(key, *_box(found), found.bound_reading)
    raise FactorError(f"{key!r} is not a power or PUE factor key of this factor set")


def region_pue(factors: FactorSet, provider: str, region: str) -> Factor | None:
    """PUE of a site: its published figure, else the provider's average recorded for it, else None."""
    return factors.find("pue", "site", provider=provider, region=region) or factors.find(
        "pue", "provider average", provider=provider, region=region
    )


def _box(factor: Factor) -> tuple[float, float]:
    return factor.rel_lower, factor.rel_upper

"""Energy of a batch of ledger rows: which formula covers a row, its kWh, its power class and its flags.

Belongs here: the way from ledger columns (quantities, units, instance types) to the formulas' inputs.
Does not belong here: the formulas (``methods``), PUE, intensity or output columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Coded, Floats, compact, encode, floats
from sust_dagster.agents.accountant.factors import FactorSet
from sust_dagster.agents.accountant.lookups import (
    InstanceLookup,
    LedgerError,
    PowerClasses,
    gpu_model,
    instance_name,
    storage_class,
)
from sust_dagster.agents.accountant.methods import (
    DEFAULT_UTILISATION,
    Method,
    load_watts,
    memory_kwh,
    network_kwh,
    simple_kwh,
    storage_kwh,
)
from sust_dagster.agents.accountant.quality import Mask, bit

Rows = NDArray[np.int64]

#: Which part of the model covers a resource type.
COMPUTE, MEMORY, STORAGE, NETWORK, OTHER = range(5)
_PART = {"compute": COMPUTE, "gpu": COMPUTE, "memory": MEMORY, "storage": STORAGE, "network": NETWORK}


class Batch:
    """Ledger columns as arrays, converted when first asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.rows = table.num_rows
        self._numbers: dict[str, Floats] = {}
        self._codes: dict[str, Coded] = {}

    def number(self, name: str) -> Floats:
        """A number column, null as NaN."""
        if name not in self._numbers:
            self._numbers[name] = floats(self.table[name])
        return self._numbers[name]

    def coded(self, name: str) -> Coded:
        """A text column as codes."""
        if name not in self._codes:
            self._codes[name] = encode(self.table[name])
        return self._codes[name]

    @cached_property
    def sign(self) -> Floats | None:
        """-1 for corrections, 1 otherwise; None where nothing is negative."""
        negative = self.number("resource_qty") < 0
        for name in ("vcpu_hours", "usage_hours"):
            negative |= self.number(name) < 0
        return np.where(negative, -1.0, 1.0) if negative.any() else None

    def signed(self, magnitude: Floats, rows: Rows | slice) -> Floats:
        """A magnitude with the row's sign, however the ledger wrote the correction."""
        return magnitude if self.sign is None else np.abs(magnitude) * self.sign[rows]


@dataclass
class Energy:
    """kWh at the IT equipment (NaN: no model), power class, flags, vCPU-hours and instance entry of each row."""

    kwh: Floats
    power: NDArray[np.int32]
    flags: Mask
    vcpu_hours: Floats
    instance: NDArray[np.int32]
    compute: Rows | slice


def energy_of(
    batch: Batch, chosen: Method, factors: FactorSet, instances: InstanceLookup, classes: PowerClasses
) -> Energy:
    """Energy of every row of a batch by one method. Rows no model covers have NaN and say why in a flag."""
    kind = batch.coded("resource_type")
    part = np.array([_PART.get(v, OTHER) for v in kind.values], dtype=np.uint8)[kind.codes]
    counts = np.bincount(part, minlength=OTHER + 1)
    out = Energy(
        kwh=np.full(batch.rows, np.nan),
        power=np.zeros(batch.rows, dtype=np.int32),
        flags=np.zeros(batch.rows, dtype=np.uint32),
        vcpu_hours=np.full(batch.rows, np.nan),
        instance=_instance_entries(batch, instances),
        compute=slice(None) if counts[COMPUTE] == batch.rows else np.flatnonzero(part == COMPUTE),
    )
    if counts[COMPUTE]:
        _compute(batch, out, chosen, factors, instances, classes)
    if counts[MEMORY]:
        _memory(batch, out, np.flatnonzero(part == MEMORY), chosen, factors, classes)
    if counts[STORAGE]:
        _storage(batch, out, np.flatnonzero(part == STORAGE), factors, classes)
    if counts[NETWORK]:
        _network(batch, out, np.flatnonzero(part == NETWORK), factors, classes)
    uncovered = np.isnan(out.kwh)
    if uncovered.any():
        out.power[uncovered] = 0
        out.flags[uncovered] |= bit("no_energy_model")
    return out


def _instance_entries(batch: Batch, instances: InstanceLookup) -> NDArray[np.int32]:
    """Entry of the instance table of each row; resolved once per distinct (provider, type)."""
    provider, name = batch.coded("cloud_provider"), batch.coded("instance_type")
    if not instances.position:
        return np.zeros(batch.rows, dtype=np.int32)
    wide = provider.codes.astype(np.int64) * len(name.values) + name.codes
    present, codes = compact(wide, len(provider.values) * len(name.values))
    pairs = [divmod(int(p), len(name.values)) for p in present]
    entries = [
        instances.position.get((provider.values[p], instance_name(provider.values[p], name.values[i])), 0)
        for p, i in pairs
    ]
    return np.array(entries, dtype=np.int32)[codes]


def _quantity(batch: Batch, rows: Rows | slice, units: frozenset[str]) -> Floats:
    """resource_qty where the unit is one of ``units`` (lower case), else NaN."""
    unit = batch.coded("resource_unit")
    fits = np.array([v.lower() in units for v in unit.values])[unit.codes[rows]]
    return np.where(fits, batch.number("resource_qty")[rows], np.nan)


def _first_known(first: Floats, *others: Floats) -> Floats:
    for other in others:
        missing = np.isnan(first)
        if not missing.any():
            break
        first = np.where(missing, other, first)
    return first


_VCPU_HOUR_UNITS = frozenset({"vcpu-h", "vcpu-hours"})
_GPU_HOUR_UNITS = frozenset({"gpu-h", "gpu-hours"})
_GB_HOUR_UNITS = frozenset({"gb-h", "gib-h", "gb-hours"})
_GB_UNITS = frozenset({"gb", "gib"})


def _hours(batch: Batch, out: Energy, instances: InstanceLookup) -> tuple[Floats, Floats]:
    """Signed vCPU-hours and GPU-hours of the compute rows.

    The ledger's own hours first; where they are null, the billed quantity in that unit, then count x hours,
    then the instance table's count x hours. A provider that bills cores and GPUs as rows of their own (GCP)
    gets no hours from counts: the other row has them. A GPU count nobody states is none.
    """
    rows = out.compute
    used = np.where(_apart(batch, rows), np.nan, batch.number("usage_hours")[rows])
    vcpu_hours = batch.number("vcpu_hours")[rows]
    if np.isnan(vcpu_hours).any():
        vcpu_hours = _first_known(
            vcpu_hours,
            _quantity(batch, rows, _VCPU_HOUR_UNITS),
            batch.number("vcpus")[rows] * used,
            instances.vcpus[out.instance[rows]] * used,
        )
    gpu_hours = batch.number("gpu_hours")[rows]
    if np.isnan(gpu_hours).any():
        gpu_hours = _first_known(
            gpu_hours,
            _quantity(batch, rows, _GPU_HOUR_UNITS),
            batch.number("gpus")[rows] * used,
            instances.gpus[out.instance[rows]] * used,
            np.zeros(1),
        )
    bare_gpu = np.isnan(vcpu_hours) & (gpu_hours != 0)
    if bare_gpu.any():
        machine = batch.coded("instance_type")
        unnamed = np.array([v == "" for v in machine.values])[machine.codes[rows]]
        # A GPU billed apart from its machine has no vCPUs of its own; a machine of unknown size stays unknown.
        vcpu_hours = np.where(bare_gpu & (unnamed | _apart(batch, rows)), 0.0, vcpu_hours)
    return batch.signed(vcpu_hours, rows), batch.signed(gpu_hours, rows)


def _apart(batch: Batch, rows: Rows | slice) -> NDArray[np.bool_]:
    """Rows of a provider that bills cores, memory and GPUs of one machine as rows of their own."""
    provider = batch.coded("cloud_provider")
    return np.array([v == "gcp" for v in provider.values])[provider.codes[rows]]


def _compute(
    batch: Batch, out: Energy, chosen: Method, factors: FactorSet, instances: InstanceLookup, classes: PowerClasses
) -> None:
    rows = out.compute
    vcpu_hours, gpu_hours = _hours(batch, out, instances)
    out.vcpu_hours[rows] = vcpu_hours
    models = _gpu_models(batch, rows, out.instance, instances, gpu_hours)
    if chosen.name == "simple/v1":
        vcpu, gpu = factors.get("power", "simple/v1 vcpu"), factors.get("power", "simple/v1 gpu")
        out.kwh[rows] = simple_kwh(vcpu_hours, gpu_hours, vcpu.value, gpu.value)
        out.power[rows] = classes.index["power/simple/v1"]
        if models is not None:
            half = {m: _half_load(factors, m) for m in models.values if m}
            outside = [bool(m) and not gpu.lower <= half[m] / 1000 <= gpu.upper for m in models.values]
            out.flags[rows] |= np.where(np.array(outside)[models.codes], bit("gpu_outside_bound"), np.uint32(0))
        _flag(out, rows, instances.accelerator[out.instance[rows]], "accelerator_not_modelled")
        return
    _instance_power(batch, out, vcpu_hours, gpu_hours, models, factors, instances, classes)


def _half_load(factors: FactorSet, model: str) -> float:
    """Watts of a GPU model at half load; the declared stand-in of an unknown model counts as inside any box."""
    if model == "unknown":
        return factors.get("power", "simple/v1 gpu").value * 1000
    return (factors.get("gpu", f"{model}/idle").value + factors.get("gpu", f"{model}/full").value) / 2


def _gpu_models(
    batch: Batch, rows: Rows | slice, instance: NDArray[np.int32], instances: InstanceLookup, gpu_hours: Floats
) -> Coded | None:
    """GPU model of each compute row ("" without GPUs): the billed name, else the instance's; None: no GPU at all."""
    used = gpu_hours != 0
    if not np.nan_to_num(used).any():
        return None
    billed = batch.coded("gpu_model")
    words: dict[str, int] = {"": 0, "unknown": 1}
    own = np.array([words.setdefault(gpu_model(v), len(words)) for v in billed.values], dtype=np.int32)
    by_type = np.array([words.setdefault(m, len(words)) for m in instances.gpu_models], dtype=np.int32)
    codes = own[billed.codes[rows]]
    codes = np.where(codes == 0, by_type[instance[rows]], codes)
    codes = np.where(used, np.where(codes == 0, 1, codes), 0).astype(np.int32)
    return Coded(codes, tuple(words))


def _flag(out: Energy, rows: Rows | slice, where: NDArray[np.bool_], name: str) -> None:
    if where.any():
        out.flags[rows] |= np.where(where, bit(name), np.uint32(0))


def _instance_power(
    batch: Batch,
    out: Energy,
    vcpu_hours: Floats,
    gpu_hours: Floats,
    models: Coded | None,
    factors: FactorSet,
    instances: InstanceLookup,
    classes: PowerClasses,
) -> None:
    rows = out.compute
    entry = out.instance[rows]
    families = sorted(set(instances.families))
    family = np.array([families.index(f) for f in instances.families], dtype=np.int32)[entry]
    idle, full, included = (
        np.array([factors.get(kind, f"{f}/{what}").value for f in families])
        for kind, what in (("power", "idle"), ("power", "full"), ("memory", "included"))
    )
    load = batch.number("utilisation")[rows]
    bad = (load < 0) | (load > 1)
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise LedgerError(
            f"utilisation {load[at]} of {batch.table['activity_id'][_row(rows, at)]} is not between 0 and 1; "
            "give it as a fraction of full load"
        )
    unmetered = np.isnan(load)
    load = np.where(unmetered, DEFAULT_UTILISATION, load)
    kwh = vcpu_hours * load_watts(idle[family], full[family], load) / 1000
    kwh += _memory_of_instances(batch, out, vcpu_hours, included[family], factors, instances)
    width = 1
    model_codes = np.zeros(len(kwh), dtype=np.int32)
    names: Sequence[str] = ("",)
    if models is not None:
        half = np.array([_half_load_watts(factors, m) for m in models.values])
        kwh += gpu_hours * half[models.codes] / 1000
        names, width, model_codes = models.values, len(models.values), models.codes
        _flag(out, rows, model_codes == 1, "unknown_gpu")
    # A missing accelerator may be most of the machine: no figure rather than half a figure.
    missing = instances.accelerator[entry]
    out.kwh[rows] = np.where(missing, np.nan, kwh) if missing.any() else kwh
    combination = (family * 2 + unmetered) * width + model_codes
    lookup = [
        classes.index[_instance_key(families[c // width // 2], bool(c // width % 2), names[c % width])]
        for c in range(len(families) * 2 * width)
    ]
    out.power[rows] = np.array(lookup, dtype=np.int32)[combination]
    _flag(out, rows, missing, "accelerator_not_modelled")
    _flag(out, rows, unmetered, "utilisation_default")
    unknown = families.index("unknown") if "unknown" in families else -1
    # A GPU billed apart from its machine has no CPU whose family could be unknown.
    _flag(out, rows, (family == unknown) & (vcpu_hours != 0), "unknown_family")


def _row(rows: Rows | slice, at: int) -> int:
    return at if isinstance(rows, slice) else int(rows[at])


def _half_load_watts(factors: FactorSet, model: str) -> float:
    if not model:
        return 0.0
    idle, full = (np.array([factors.get("gpu", f"{model}/{part}").value]) for part in ("idle", "full"))
    return float(load_watts(idle, full, np.array([DEFAULT_UTILISATION]))[0])


def _instance_key(family: str, unmetered: bool, model: str) -> str:
    stem = f"power/instance-power/v1/{family}/{'unmetered' if unmetered else 'metered'}"
    return f"{stem}/{model}" if model else stem


def _memory_of_instances(
    batch: Batch, out: Energy, vcpu_hours: Floats, included: Floats, factors: FactorSet, instances: InstanceLookup
) -> Floats:
    """Energy in kWh of the memory that belongs to compute rows; none for GCP, which bills memory as rows of its own."""
    rows = out.compute
    apart = _apart(batch, rows)
    size = _first_known(batch.number("memory_gib")[rows], instances.memory_gb[out.instance[rows]])
    unknown = np.isnan(size) & ~apart & (vcpu_hours != 0)
    _flag(out, rows, unknown, "memory_not_counted")
    gb_hours = np.where(apart | np.isnan(size), 0.0, size) * np.abs(batch.number("usage_hours")[rows])
    watts = factors.get("memory", "dram").value
    return batch.signed(memory_kwh(gb_hours, np.abs(vcpu_hours), included, watts), rows)


def _memory(batch: Batch, out: Energy, rows: Rows, chosen: Method, factors: FactorSet, classes: PowerClasses) -> None:
    if not chosen.counts_memory:
        out.flags[rows] |= bit("memory_in_vcpu")
        return
    gb_hours = _quantity(batch, rows, _GB_HOUR_UNITS)
    none_included = np.zeros(len(rows))
    kwh = memory_kwh(np.abs(gb_hours), none_included, none_included, factors.get("memory", "dram").value)
    out.kwh[rows] = batch.signed(kwh, rows)
    out.power[rows] = classes.index["power/memory"]


def _storage(batch: Batch, out: Energy, rows: Rows, factors: FactorSet, classes: PowerClasses) -> None:
    volume, service = batch.coded("instance_type"), batch.coded("service_name")
    wide = volume.codes[rows].astype(np.int64) * len(service.values) + service.codes[rows]
    present, codes = compact(wide, len(volume.values) * len(service.values))
    pairs = [divmod(int(p), len(service.values)) for p in present]
    names = [storage_class(volume.values[v], service.values[s]) for v, s in pairs]
    watts = np.array([factors.get("storage", n).value for n in names])
    copies = np.array([factors.get("storage", f"{n}/copies").value for n in names])
    kwh = storage_kwh(np.abs(_quantity(batch, rows, _GB_HOUR_UNITS)), watts[codes], copies[codes])
    out.kwh[rows] = batch.signed(kwh, rows)
    out.power[rows] = np.array([classes.index[f"power/storage/{n}"] for n in names], dtype=np.int32)[codes]
    _flag(out, rows, np.array([n == "unknown" for n in names])[codes] & ~np.isnan(kwh), "storage_unknown")


def _network(batch: Batch, out: Energy, rows: Rows, factors: FactorSet, classes: PowerClasses) -> None:
    billed = _first_known(_quantity(batch, rows, _GB_UNITS), batch.number("data_gb")[rows])
    kwh = network_kwh(np.abs(billed), factors.get("network", "egress").value)
    out.kwh[rows] = batch.signed(kwh, rows)
    out.power[rows] = classes.index["power/network"]

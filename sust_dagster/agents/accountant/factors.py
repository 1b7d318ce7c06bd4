"""The factor set: which figures a calculation may use, how their bounds are to be read, and what they are called.

Belongs here: validation and lookup of active factor versions, the id of a set, age and cross-source checks.
Does not belong here: formulas (``methods``), figures (the reference tables and the factor store) or storage.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import EMISSION_FACTORS, SchemaError

#: The readings of a bound we know how to turn into a spread. A bound without one of them is refused at load.
BOUND_READINGS: tuple[str, ...] = ("95% lognormal", "uniform", "declared box")

FACTOR_TYPES: tuple[str, ...] = (
    "grid_intensity",
    "pue",
    "power",
    "memory",
    "gpu",
    "embodied",
    "network",
    "storage",
    "market",
)

#: A factor nobody has looked at for this long raises an alert.
MAX_AGE = timedelta(days=30)

#: Two-sided 95 % quantile of the standard normal distribution.
Z95 = 1.959963984540054


class FactorError(ValueError):
    """A factor table that cannot be used; the message names the factor and the remedy."""


@dataclass(frozen=True)
class Factor:
    """One active factor version: value and bounds in ``unit``, and how the bounds are to be read."""

    factor_id: str
    factor_type: str
    provider: str
    region: str
    name: str
    value: float
    lower: float
    upper: float
    unit: str
    bound_reading: str

    @property
    def rel_lower(self) -> float:
        """Lower bound as a ratio of the value, at most 1."""
        return min(1.0, self.lower / self.value) if self.value else 1.0

    @property
    def rel_upper(self) -> float:
        """Upper bound as a ratio of the value, at least 1."""
        return max(1.0, self.upper / self.value) if self.value else 1.0


@dataclass(frozen=True)
class NamedFactor:
    """A multiplicative error that every row with the same key shares: a box around 1 and its reading."""

    key: str
    rel_lower: float
    rel_upper: float
    bound_reading: str

    @property
    def log_sd(self) -> float:
        """Standard deviation of ln(factor) under the stated reading."""
        return log_sd(self.rel_lower, self.rel_upper, self.bound_reading)


def log_sd(rel_lower: float, rel_upper: float, reading: str) -> float:
    """Standard deviation of the logarithm of a factor from its relative bounds.

    ``95% lognormal``: the bounds are the 2.5 % and 97.5 % points, sd = ln(upper/lower) / (2 x 1.96).
    ``uniform`` and ``declared box``: every value in the box is as likely as any other (on the log scale),
    sd = ln(upper/lower) / sqrt(12), which for a small symmetric bound b is the usual b / sqrt(3).
    Raises :class:`FactorError` for another reading or a bound that is not positive.
    """
    if reading not in BOUND_READINGS:
        raise FactorError(f"bound reading {reading!r} is not one of {BOUND_READINGS}")
    if not 0 < rel_lower <= rel_upper:
        raise FactorError(f"relative bounds [{rel_lower}, {rel_upper}] have no logarithm")
    width = math.log(rel_upper / rel_lower)
    return width / (2 * Z95) if reading == "95% lognormal" else width / math.sqrt(12)


FactorKey = tuple[str, str, str, str]

#: Columns that a factor is made of.
_INDEXED = [
    "factor_id", "factor_type", "provider", "region", "name", "value", "value_lower", "value_upper", "unit",
    "bound_reading",
]  # fmt: skip


@dataclass(frozen=True)
class FactorSet:
    """The active factor versions of one calculation, immutable; built by :meth:`from_table`."""

    table: pa.Table
    index: Mapping[FactorKey, Factor]

    @classmethod
    def from_table(cls, table: pa.Table, *, at: datetime | None = None) -> FactorSet:
        """Build a set from ``EMISSION_FACTORS`` rows, one active version per (type, provider, region, name).

        ``at`` keeps only the versions valid at that instant. Raises :class:`FactorError` for a bound without
        a known reading, a value outside its own bounds, a non-finite figure, an unknown factor type or two
        active versions of one factor.
        """
        try:
            rows = EMISSION_FACTORS.conform(table)
        except SchemaError as error:
            raise FactorError(str(error)) from error
        if at is not None:
            instant = pa.scalar(at, pa.timestamp("us", tz="UTC"))
            open_ended = pc.fill_null(pc.greater(rows["valid_to"], instant), True)
            rows = rows.filter(pc.and_(pc.less_equal(rows["valid_from"], instant), open_ended))
        rows = rows.sort_by("factor_id")
        _refuse_invalid(rows)
        index: dict[FactorKey, Factor] = {}
        for r in rows.select(_INDEXED).to_pylist():
            key = (r["factor_type"], r["provider"] or "", r["region"] or "", r["name"])
            if key in index:
                raise FactorError(
                    f"two active versions of factor {_label(key)}: {index[key].factor_id} and {r['factor_id']}; "
                    "activate one of them"
                )
            index[key] = Factor(
                factor_id=r["factor_id"],
                factor_type=key[0],
                provider=key[1],
                region=key[2],
                name=key[3],
                value=r["value"],
                lower=r["value_lower"],
                upper=r["value_upper"],
                unit=r["unit"],
                bound_reading=r["bound_reading"],
            )
        return cls(rows, MappingProxyType(index))

    def find(self, factor_type: str, name: str, *, provider: str = "", region: str = "") -> Factor | None:
        """The factor with exactly this scope, or None. There is no fallback to a wider scope: callers say theirs."""
        return self.index.get((factor_type, provider, region, name))

    def get(self, factor_type: str, name: str, *, provider: str = "", region: str = "") -> Factor:
        """As :meth:`find`; raises :class:`FactorError` naming the missing factor."""
        found = self.find(factor_type, name, provider=provider, region=region)
        if found is None:
            wanted = _label((factor_type, provider, region, name))
            raise FactorError(f"no active factor {wanted}; load it and have it reviewed before this method runs")
        return found

    def of_type(self, factor_type: str) -> tuple[Factor, ...]:
        """All factors of one type, in id order."""
        return tuple(f for f in self.index.values() if f.factor_type == factor_type)

    def set_id(self, method: str, used: Iterable[Factor], *digests: str) -> str:
        """``emission_factor_id``: UUIDv5 over the method, the sorted ids of the factors it may use, and digests.

        ``digests`` stand for further inputs that decide the result, such as the instance table.
        """
        return uuid5("emission_factor_set", method, *sorted(f.factor_id for f in used), *digests)

    def stale(self, now: datetime, *, max_age: timedelta = MAX_AGE) -> pa.Table:
        """Factors whose row is older than ``max_age`` at ``now``, oldest first, with their age in days."""
        limit = pa.scalar(now - max_age, pa.timestamp("us", tz="UTC"))
        old = self.table.filter(pc.less(self.table["created_at"], limit)).sort_by("created_at")
        seconds = pc.subtract(pa.scalar(now, pa.timestamp("us", tz="UTC")), old["created_at"]).cast(pa.int64())
        age = pc.divide(seconds.cast(pa.float64()), 86_400e6)
        return old.select(
            ["factor_id", "factor_type", "provider", "region", "name", "source", "created_at"]
        ).append_column("age_days", age)


def cross_check(table: pa.Table) -> pa.Table:
    """Pairs of sources that state the same factor and differ by more than their bounds.

    ``table`` is ``EMISSION_FACTORS``-shaped and may hold several sources and versions of a factor (active or
    waiting); of each source the latest version counts. Two figures disagree where their bound intervals do
    not meet. Returns factor_type, provider, region, name, unit, source_a, value_a, source_b, value_b and gap
    (distance between the intervals, in unit).
    """
    rows = EMISSION_FACTORS.conform(table).to_pandas()
    scope = ["factor_type", "provider", "region", "name", "unit"]
    rows[scope] = rows[scope].fillna("")
    rows = rows.sort_values("version").drop_duplicates([*scope, "source"], keep="last")
    columns = [*scope, "source", "value", "value_lower", "value_upper"]
    pairs = rows[columns].merge(rows[columns], on=scope, suffixes=("_a", "_b"))
    pairs = pairs[pairs["source_a"] < pairs["source_b"]]
    gap = np.maximum(pairs["value_lower_a"] - pairs["value_upper_b"], pairs["value_lower_b"] - pairs["value_upper_a"])
    pairs = pairs.assign(gap=gap)[gap > 0].sort_values([*scope, "source_a", "source_b"])
    keep = [*scope, "source_a", "value_a", "source_b", "value_b", "gap"]
    schema = pa.schema([(k, pa.float64() if k in {"value_a", "value_b", "gap"} else pa.string()) for k in keep])
    return pa.Table.from_pandas(pairs[keep], schema=schema, preserve_index=False)


def _label(key: FactorKey) -> str:
    factor_type, provider, region, name = key
    scope = "/".join(p for p in (provider, region) if p) or "everywhere"
    return f"{factor_type} {name!r} ({scope})"


def _refuse_invalid(rows: pa.Table) -> None:
    """Refuse a table with a bad row; the message names the first one."""
    value, lower, upper = (rows[c].to_numpy(zero_copy_only=False) for c in ("value", "value_lower", "value_upper"))
    finite = np.isfinite(value) & np.isfinite(lower) & np.isfinite(upper)
    checks: tuple[tuple[np.ndarray, str], ...] = (
        (
            ~np.isin(rows["factor_type"].to_numpy(zero_copy_only=False), FACTOR_TYPES),
            f"its type is unknown; use one of {FACTOR_TYPES}",
        ),
        (
            ~np.isin(rows["bound_reading"].to_numpy(zero_copy_only=False), BOUND_READINGS),
            f"its bound has no known reading; state one of {BOUND_READINGS}",
        ),
        (~finite, "its value or bounds are not finite numbers"),
        (finite & ((lower > value) | (value > upper)), "its value lies outside its own bounds; check the order"),
        (finite & (lower < 0), "its lower bound is negative; a factor multiplies and cannot be below zero"),
    )
    for bad, why in checks:
        if bad.any():
            row = rows.slice(int(np.flatnonzero(bad)[0]), 1).to_pylist()[0]
            key = (row["factor_type"], row["provider"] or "", row["region"] or "", row["name"])
            raise FactorError(
                f"factor {row['factor_id']}, {_label(key)}: {why} "
                f"(value {row['value']}, bounds [{row['value_lower']}, {row['value_upper']}], "
                f"reading {row['bound_reading']!r})"
            )

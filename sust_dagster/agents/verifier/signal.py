"""The grid signal a verification reads: one matrix of one signal type and one method, with its error boxes.

Belongs here: regions x hours of intensity, what is estimated or missing, the grid's named factors, and the refusal
to mix two signals. Does not belong here: normalising a source (``accountant.grid``) or any energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats, encode, floats
from sust_dagster.agents.accountant.lookups import HOUR_US, LedgerError, grid_lookup
from sust_dagster.agents.verifier.arrays import Bools, Ints

#: How the boxes of intensity rows are read: bounds are the 2.5 % and 97.5 % points of a log-normal.
GRID_READING = "95% lognormal"


class MixedSignalsError(ValueError):
    """Two sides of one difference that were measured with different signals or methods."""


@dataclass(frozen=True)
class HourlySignal:
    """Intensity in kgCO2e/kWh by (region, hour), of one signal type and one method.

    All matrices have shape (regions, hours); hour ``j`` is hour ``first_hour + j`` since 1970-01-01T00Z.
    ``intensity`` is NaN where nobody reports. ``system_*`` and ``hour_*`` are relative boxes around 1 (lower in
    (0, 1], upper at least 1): the error all hours of a region share, and the hour's own. Their reading is
    :data:`GRID_READING`.
    """

    signal: str
    method: str
    regions: tuple[str, ...]
    first_hour: int
    intensity: Floats
    estimated: Bools
    system_lower: Floats
    system_upper: Floats
    hour_lower: Floats
    hour_upper: Floats

    def __post_init__(self) -> None:
        shape = (len(self.regions), self.intensity.shape[1] if self.intensity.ndim == 2 else -1)
        for name in ("intensity", "estimated", "system_lower", "system_upper", "hour_lower", "hour_upper"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"signal matrix {name} has shape {getattr(self, name).shape}, not {shape}")

    @property
    def hours(self) -> int:
        """Number of hours of the matrix."""
        return self.intensity.shape[1]

    @property
    def nowhere(self) -> int:
        """The cell that stands for an unknown region or an hour outside the matrix."""
        return self.intensity.size

    def region_codes(self, names: Sequence[str]) -> Ints:
        """The row of each region name; -1 for a region the signal does not hold."""
        position = {name: i for i, name in enumerate(self.regions)}
        return np.array([position.get(n, -1) for n in names], dtype=np.int64)

    def cells(self, region: Ints, hour: Ints) -> Ints:
        """Flat index of each (region row, hour since 1970); :attr:`nowhere` where there is none."""
        offset = hour - self.first_hour
        inside = (region >= 0) & (offset >= 0) & (offset < self.hours)
        return np.where(inside, region * self.hours + offset, self.nowhere)

    def at(self, cells: Ints) -> Floats:
        """Intensity of cells, NaN at :attr:`nowhere`."""
        return np.append(self.intensity.reshape(-1), np.nan)[cells]

    def hour_keys(self, cells: Ints) -> list[str]:
        """``grid/<region>/<YYYY-MM-DDTHH>Z`` of cells, the key the accountant's rows carry."""
        row, column = cells // max(self.hours, 1), cells % max(self.hours, 1)
        stamps = np.datetime_as_string((self.first_hour + column).astype("datetime64[h]"), unit="h")
        return [f"grid/{self.regions[r]}/{s}Z" for r, s in zip(row.tolist(), stamps.tolist(), strict=True)]

    def constant_days(self) -> Bools:
        """Whether the UTC day of each cell has 24 known hours that are all equal: shape (regions, hours)."""
        day = (self.first_hour + np.arange(self.hours)) // 24
        if not self.intensity.size:
            return np.zeros(self.intensity.shape, bool)
        _, starts, inverse = np.unique(day, return_index=True, return_inverse=True)
        known = np.add.reduceat(~np.isnan(self.intensity), starts, axis=1, dtype=np.int64)
        low = np.minimum.reduceat(np.nan_to_num(self.intensity, nan=np.inf), starts, axis=1)
        high = np.maximum.reduceat(np.nan_to_num(self.intensity, nan=-np.inf), starts, axis=1)
        return ((known == 24) & (low == high))[:, inverse]


def require_same_signal(before: HourlySignal, after: HourlySignal) -> None:
    """Raise :class:`MixedSignalsError` unless both sides have the same signal type and method."""
    if (before.signal, before.method) != (after.signal, after.method):
        raise MixedSignalsError(
            f"the counterfactual is measured with {before.signal}/{before.method} and the actual run with "
            f"{after.signal}/{after.method}: a difference of the two means nothing; use one signal and method"
        )


def signal_matrix(grid: pa.Table, *, signal: str = "average", method: str | None = None) -> HourlySignal:
    """Rows of ``GRID_INTENSITY`` as an :class:`HourlySignal`.

    ``method`` chooses where the table holds several. Raises ``LedgerError`` for mixed methods without a choice,
    duplicate hours, times that are not whole hours, boxes that do not contain 1, or no row at all.
    """
    look = grid_lookup(grid, signal=signal, grid_method=method)
    if not look.regions:
        raise LedgerError(f"the grid table holds no {signal} intensity{f' by {method}' if method else ''}: load it")
    rows = grid.filter(pc.equal(grid["signal"], signal))
    if method is not None:
        rows = rows.filter(pc.equal(rows["method"], method))
    region = encode(rows["region"])
    hour = rows["ts"].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy() // HOUR_US
    row = np.array([look.regions.index(v) if v in look.regions else -1 for v in region.values])[region.codes]
    shape = (len(look.regions), look.hours)

    def matrix(name: str, absent: float) -> Floats:
        out = np.full(shape, absent)
        out[row, hour - look.first_hour] = floats(rows[name])
        return out

    estimated = np.zeros(shape, bool)
    estimated[row, hour - look.first_hour] = rows["estimated"].to_numpy()
    return HourlySignal(
        signal=signal,
        method=method if method is not None else str(rows["method"][0]),
        regions=look.regions,
        first_hour=look.first_hour,
        intensity=matrix("intensity_kgco2_kwh", np.nan),
        estimated=estimated,
        system_lower=matrix("system_rel_lower", 1.0),
        system_upper=matrix("system_rel_upper", 1.0),
        hour_lower=matrix("hour_rel_lower", 1.0),
        hour_upper=matrix("hour_rel_upper", 1.0),
    )

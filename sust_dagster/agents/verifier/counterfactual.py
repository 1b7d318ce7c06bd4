"""What a run emitted, and what it would have emitted where and when it would have run.

Belongs here: the full rule, integrated over the metered slices hour by hour on both clocks, and the terms it
consists of, each with the named factors that multiply it. Does not belong here: intervals, sums over a
portfolio, tables.

``S = sum e_cf PUE_A g_A(t0 + h) - sum e_act PUE_B g_B(t1 + h) - leakage``. The counterfactual run has the actual
run's metered shape, moved back by ``shift`` and scaled by the energy ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.verifier.arrays import Bools, Ints
from sust_dagster.agents.verifier.decomposition import Parts, lmdi, shapley
from sust_dagster.agents.verifier.signal import HourlySignal, require_same_signal

#: Columns of the factor matrices: what multiplies a side of a slice, apart from the grid.
SLOTS: tuple[str, ...] = ("power", "provider_pue", "region_pue", "energy_ratio")


class SliceError(ValueError):
    """Metered slices that cannot be used; the message names the row and the remedy."""


@dataclass(frozen=True)
class Slices:
    """Metered slices of executed runs, one array element each, n in all.

    ``outcome``: code of the outcome, 0.. ``outcomes`` - 1. ``run``: code of the run. ``start_us``, ``end_us``: actual
    clock, microseconds since 1970, half-open. ``energy_kwh``: metered IT energy of the actual run. ``energy_ratio``:
    counterfactual over actual usage energy. ``region_*``: rows of the signal, -1 unknown. ``shift_us``: actual start -
    counterfactual start. ``keys_*``: shape (n, 4), codes into ``key_names`` in the order of :data:`SLOTS`, -1 none
    (the actual side has no energy ratio).
    """

    outcomes: int
    outcome: Ints
    run: Ints
    start_us: Ints
    end_us: Ints
    energy_kwh: Floats
    energy_ratio: Floats
    region_before: Ints
    region_after: Ints
    shift_us: Ints
    pue_before: Floats
    pue_after: Floats
    keys_before: Ints
    keys_after: Ints
    key_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not (len(self.start_us) and (self.end_us < self.start_us).any()):
            return
        at = int(np.flatnonzero(self.end_us < self.start_us)[0])
        raise SliceError(f"slice {at} ends at {self.end_us[at]} us before it starts at {self.start_us[at]} us")

    def take(self, rows: Ints | Bools) -> Slices:
        """The slices at these rows, codes unchanged."""
        picked = {
            name: getattr(self, name)[rows]
            for name in self.__dataclass_fields__
            if name not in {"outcomes", "key_names"}
        }
        return Slices(outcomes=self.outcomes, key_names=self.key_names, **picked)


@dataclass(frozen=True)
class Pieces:
    """Slices cut at the hour boundaries of both clocks: every piece meets one intensity on each, m in all.

    ``row``: the slice. ``usage_*_kwh``: IT energy, ``*_kwh``: at the meter. ``cell_xy``: flat cell of the signal for
    region x (a before, b after) at time y (0 counterfactual, 1 actual); ``g_xy`` its intensity, kgCO2e/kWh.
    """

    outcome: Ints
    row: Ints
    usage_before_kwh: Floats
    usage_after_kwh: Floats
    pue_before: Floats
    pue_after: Floats
    cell_a0: Ints
    cell_a1: Ints
    cell_b0: Ints
    cell_b1: Ints
    g_a0: Floats
    g_a1: Floats
    g_b0: Floats
    g_b1: Floats

    @property
    def counterfactual_kwh(self) -> Floats:
        """Energy at the meter the run would have taken."""
        return self.usage_before_kwh * self.pue_before

    @property
    def actual_kwh(self) -> Floats:
        """Energy at the meter the run took."""
        return self.usage_after_kwh * self.pue_after

    @property
    def counterfactual_kg(self) -> Floats:
        return self.counterfactual_kwh * self.g_a0

    @property
    def actual_kg(self) -> Floats:
        """The accountant's formula: IT energy x PUE x intensity of the slice's hour."""
        return self.actual_kwh * self.g_b1

    @property
    def seed_savings_kg(self) -> Floats:
        """The founding design's term: actual usage x (g_A - g_B), both at the actual time; 0 for a pure time shift."""
        return self.actual_kwh * (self.g_a1 - self.g_b1)

    def parts(self) -> Parts:
        """Spatial, temporal and energy savings of each piece (Shapley), kg; they add up to the gross saving."""
        return shapley(self.counterfactual_kwh, self.actual_kwh, self.g_a0, self.g_a1, self.g_b0, self.g_b1)

    def factor_parts(self) -> tuple[Floats, Bools]:
        """Usage, PUE and intensity savings of each piece (LMDI-I), shape (m, 3), and where the guard took Shapley."""
        before = np.stack([self.usage_before_kwh, self.pue_before, self.g_a0], axis=1)
        after = np.stack([self.usage_after_kwh, self.pue_after, self.g_b1], axis=1)
        return lmdi(before, after)


def split_at_hours(start_us: Ints, end_us: Ints, shift_us: Ints) -> tuple[Ints, Ints, Ints]:
    """Cut ``[start, end)`` at the whole hours of the clock and of the clock ``shift`` earlier.

    Returns (row, start, end) of the pieces in order of row and time. An empty slice stays one empty piece.
    """
    rows = np.arange(len(start_us))
    row_cuts, cuts = [rows], [start_us]
    for offset, wanted in ((np.zeros_like(shift_us), None), (shift_us, shift_us % HOUR_US != 0)):
        first = (start_us - offset) // HOUR_US + 1
        count = np.maximum((end_us - offset - 1) // HOUR_US - first + 1, 0)
        if wanted is not None:
            # A shift of whole hours has the same boundaries on both clocks.
            count = np.where(wanted, count, 0)
        if count.any():
            row = np.repeat(rows, count)
            nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
            row_cuts.append(row)
            cuts.append((first[row] + nth) * HOUR_US + offset[row])
    if len(cuts) == 1:
        return rows, start_us, end_us
    row, begin = np.concatenate(row_cuts), np.concatenate(cuts)
    order = np.lexsort((begin, row))
    row, begin = row[order], begin[order]
    last = np.append(row[1:] != row[:-1], True)
    until = np.where(last, end_us[row], np.append(begin[1:], 0))
    return row, begin, until


def cut(slices: Slices, before: HourlySignal, after: HourlySignal | None = None) -> Pieces:
    """Pieces of the slices with the intensities of both regions on both clocks.

    ``before`` measures the counterfactual, ``after`` the actual run; they must have the same regions, hours, signal
    and method, and are usually one object. Raises ``MixedSignalsError`` for two signals or methods, :class:`SliceError`
    where the matrices are not aligned. Intensities that are not there are NaN.
    """
    after = before if after is None else after
    require_same_signal(before, after)
    if (before.regions, before.first_hour, before.hours) != (after.regions, after.first_hour, after.hours):
        raise SliceError("the two signal matrices cover different regions or hours: align them")
    row, begin, until = split_at_hours(slices.start_us, slices.end_us, slices.shift_us)
    length = (slices.end_us - slices.start_us)[row]
    share = np.where(length > 0, (until - begin) / np.maximum(length, 1), 1.0)
    usage = slices.energy_kwh[row] * share
    hour_1, hour_0 = begin // HOUR_US, (begin - slices.shift_us[row]) // HOUR_US
    region_a, region_b = slices.region_before[row], slices.region_after[row]
    cells = {
        "a0": before.cells(region_a, hour_0),
        "a1": before.cells(region_a, hour_1),
        "b0": after.cells(region_b, hour_0),
        "b1": after.cells(region_b, hour_1),
    }
    return Pieces(
        outcome=slices.outcome[row],
        row=row,
        usage_before_kwh=usage * slices.energy_ratio[row],
        usage_after_kwh=usage,
        pue_before=slices.pue_before[row],
        pue_after=slices.pue_after[row],
        cell_a0=cells["a0"],
        cell_a1=cells["a1"],
        cell_b0=cells["b0"],
        cell_b1=cells["b1"],
        g_a0=before.at(cells["a0"]),
        g_a1=before.at(cells["a1"]),
        g_b0=after.at(cells["b0"]),
        g_b1=after.at(cells["b1"]),
    )

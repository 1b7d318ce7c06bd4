"""The gates a verification must pass before a number exists.

Belongs here: each gate with its qualified name, what it means, and where it closes. Does not belong here: what is
done about it, or statuses. A gate never repairs and never falls back: an outcome that fails one has no number.

Modelled on the sufficiency criteria of OpenEEmeter, which names each disqualification.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats, floats
from sust_dagster.agents.verifier.arrays import Bools, Ints, count_by, sum_by
from sust_dagster.agents.verifier.counterfactual import Pieces
from sust_dagster.agents.verifier.inputs import LEAKAGE_COMPONENTS, Inputs
from sust_dagster.agents.verifier.signal import HourlySignal

#: Qualified name -> what it says, in the order they are written.
GATES: dict[str, str] = {
    "sufficiency.no_frozen_baseline": "no baseline was frozen: there is nothing to compare with",
    "sufficiency.late_baseline": "the baseline was frozen after the change: it could have been chosen to fit",
    "sufficiency.missing_runs": "no run, or fewer runs than the baseline asks for, were found",
    "sufficiency.ambiguous_runs": "runs match no baseline run, or several: the counterfactual is not determined",
    "sufficiency.unsettled_data": "inputs are not past their settling time: they may still change",
    "sufficiency.restated_inputs": "an input changed after it was pinned: verify again from the new version",
    "sufficiency.mixed_signals": "the baseline was frozen with another signal or method than the runs'",
    "sufficiency.missing_energy": "metered slices have no energy, or no ratio to the counterfactual's",
    "sufficiency.missing_pue": "slices have no PUE before or after",
    "sufficiency.missing_intensity": "hours have no intensity, in one of the regions or on one of the clocks",
    "sufficiency.missing_factor": "a figure has no named factor, or the factor is not in the factor set",
    "sufficiency.constant_series": "a time shift in a region whose intensity does not vary: nothing measured it",
    "sufficiency.estimated_series": "a time shift measured with estimated hours only, in one of the regions",
    "sufficiency.leakage_unstated": "a kind of leakage has neither a number nor a reason for zero",
    "sufficiency.actual_not_reproduced": "the booked emissions of the slices are not reproduced from the same inputs",
}

#: Booked and recomputed emissions of a slice agree up to this share.
REPRODUCED = 1e-9


@dataclass(frozen=True)
class Gated:
    """How often each gate closed: shape (outcomes, gates), in the order of :data:`GATES`; 0 is passed."""

    counts: Ints

    @property
    def disqualified(self) -> Bools:
        """Outcomes that failed a gate."""
        return (self.counts != 0).sum(axis=1) > 0

    def reasons(self) -> list[str | None]:
        """Names of the failed gates joined by ``;``, null where none failed."""
        names = list(GATES)
        out: list[str | None] = [None] * len(self.counts)
        for i in np.flatnonzero(self.disqualified).tolist():
            out[i] = ";".join(names[g] for g in np.flatnonzero(self.counts[i]))
        return out

    def table(self, outcome_ids: pa.Array) -> pa.Table:
        """One row per outcome and failed gate: ``outcome_id, gate, count, text``."""
        row, gate = np.nonzero(self.counts)
        names, texts = pa.array(list(GATES)), pa.array(list(GATES.values()))
        picked = pa.array(gate)
        return pa.table(
            {
                "outcome_id": outcome_ids.take(pa.array(row)),
                "gate": names.take(picked),
                "count": self.counts[row, gate],
                "text": texts.take(picked),
            }
        )


def gates(inputs: Inputs, pieces: Pieces, signal: HourlySignal, factors: Collection[str]) -> Gated:
    """Try every gate on every outcome. ``factors``: the names of the factors there are. No gate stops another."""
    n = inputs.outcomes
    counts = {**_facts(inputs, signal), **_measurements(inputs, pieces, factors), **_series(inputs, pieces, signal)}
    counts["sufficiency.leakage_unstated"] = len(LEAKAGE_COMPONENTS) - inputs.leakage.stated.sum(axis=1)
    return Gated(np.stack([np.asarray(counts[name], dtype=np.int64).reshape(n) for name in GATES], axis=1))


def _facts(inputs: Inputs, signal: HourlySignal) -> dict[str, Ints | Bools]:
    """Gates on what is recorded about an outcome."""
    claims = inputs.claims

    def flag(values: pa.ChunkedArray) -> Bools:
        return pc.fill_null(values, False).to_numpy()

    runs = np.zeros(inputs.outcomes, dtype=np.int64)
    if len(inputs.slices.run):
        pairs = np.unique(np.stack([inputs.slices.outcome, inputs.slices.run]), axis=1)
        runs = count_by(pairs[0], inputs.outcomes)
    expected = pc.fill_null(claims["runs_expected"], 1).to_numpy()
    other = [
        flag(pc.not_equal(claims[column], wanted))
        for column, wanted in (("baseline_signal", signal.signal), ("baseline_method", signal.method))
    ]
    return {
        "sufficiency.no_frozen_baseline": claims["baseline_frozen_at"].is_null().to_numpy(),
        "sufficiency.late_baseline": flag(pc.greater(claims["baseline_frozen_at"], claims["executed_at"])),
        "sufficiency.missing_runs": np.maximum(np.maximum(expected, 1) - runs, 0),
        "sufficiency.ambiguous_runs": claims["runs_ambiguous"].to_numpy(),
        "sufficiency.unsettled_data": ~claims["settled"].to_numpy(),
        "sufficiency.restated_inputs": claims["restated"].to_numpy(),
        "sufficiency.mixed_signals": other[0] | other[1],
    }


def _measurements(inputs: Inputs, pieces: Pieces, factors: Collection[str]) -> dict[str, Ints]:
    """Gates on the slices, their hours and their factors."""
    slices, leak = inputs.slices, inputs.leakage.terms

    def by_slice(bad: Bools) -> Ints:
        return count_by(slices.outcome[bad], inputs.outcomes)

    finite = np.isfinite
    no_hour = ~finite(pieces.g_a0 + pieces.g_a1 + pieces.g_b0 + pieces.g_b1)
    missing = count_by(pieces.outcome[no_hour], inputs.outcomes)
    missing += count_by(leak.outcome[~finite(leak.kg)], inputs.outcomes)
    held = np.array([name in factors for name in slices.key_names] + [False])
    nameless = ~(held[slices.keys_before[:, :3]] & held[slices.keys_after[:, :3]]).all(axis=1)
    ratio = slices.keys_before[:, 3]
    nameless |= (ratio >= 0) & ~held[ratio]
    actual = sum_by(pieces.row, pieces.actual_kg, len(slices.run))
    booked = inputs.kg_location
    differs = finite(booked) & finite(actual) & (np.abs(actual - booked) > REPRODUCED * np.abs(booked))
    return {
        "sufficiency.missing_energy": by_slice(~finite(slices.energy_kwh * slices.energy_ratio)),
        "sufficiency.missing_pue": by_slice(~finite(slices.pue_before * slices.pue_after)),
        "sufficiency.missing_intensity": missing,
        "sufficiency.missing_factor": by_slice(nameless) + count_by(leak.outcome[~held[leak.key]], inputs.outcomes),
        "sufficiency.actual_not_reproduced": by_slice(differs),
    }


def _series(inputs: Inputs, pieces: Pieces, signal: HourlySignal) -> dict[str, Bools]:
    """Gates on the intensity series behind a time shift.

    A series counts as constant (estimated) for an outcome when every hour of it that the shifted pieces use, on either
    clock, lies in a day of 24 equal hours (is estimated).
    """
    moved = inputs.slices.shift_us[pieces.row] != 0
    constant, estimated = signal.constant_days().reshape(-1), signal.estimated.reshape(-1)
    return {
        "sufficiency.constant_series": _all_cells(inputs.outcomes, pieces, moved, constant),
        "sufficiency.estimated_series": _all_cells(inputs.outcomes, pieces, moved, estimated),
    }


def _all_cells(outcomes: int, pieces: Pieces, moved: Bools, flagged: Bools) -> Bools:
    """Outcomes one of whose two regions is flagged in every cell its moved pieces use."""
    flags = np.append(flagged, False)
    moves = count_by(pieces.outcome[moved], outcomes)
    closed = np.zeros(outcomes, bool)
    for early, late in ((pieces.cell_a0, pieces.cell_a1), (pieces.cell_b0, pieces.cell_b1)):
        both = moved & flags[early] & flags[late]
        closed |= (moves > 0) & (count_by(pieces.outcome[both], outcomes) == moves)
    return closed


def plan_interval(claims: pa.Table) -> tuple[Floats, Floats, Floats]:
    """Claimed delta and its plan interval (forecast to settled), kg, carried as they were promised; NaN where none."""
    names = ("claimed_delta_kg", "claimed_delta_kg_lower", "claimed_delta_kg_upper")
    claimed, lower, upper = (floats(claims[name]) for name in names)
    return claimed, lower, upper

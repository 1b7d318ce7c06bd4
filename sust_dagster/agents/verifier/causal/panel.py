"""A block of units by periods, some units treated from one period on; and what an estimate on it looks like.

Belongs here: reading a long table into a panel with named refusals, the result's shape, the placebo draws. Does not
belong here: any weight or effect.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.causal.inputs import CheckInputError, flags, keys, numbers, require


@dataclass(frozen=True)
class Panel:
    """``values`` ``(controls + treated, periods)``: control units first, each part in order of its name."""

    values: Floats
    units: tuple[str, ...]
    periods: pa.Array
    controls: int
    #: Periods before the treatment began.
    before: int
    #: Control units left out because a period of theirs has no value.
    dropped: tuple[str, ...] = ()
    #: Why no effect can be estimated on it, or None.
    reason: str | None = None

    @property
    def treated(self) -> int:
        return len(self.units) - self.controls

    @property
    def after(self) -> int:
        return self.values.shape[1] - self.before


@dataclass(frozen=True)
class PanelEffect:
    """Mean effect on the treated units after the treatment began, in the unit of the measure, per unit and period.

    ``gaps`` is observed less counterfactual by period, ``(periods,)``. Where ``reason`` names why nothing is
    estimated, numbers are None and arrays empty; where it only concerns the standard error (``no_se: ...``), the
    effect stands.
    """

    method: str
    effect: float | None
    se: float | None
    ci90_lower: float | None
    ci90_upper: float | None
    #: Share of units, the treated among them, whose placebo is at least as extreme (synthetic control).
    p_value: float | None
    se_method: str | None
    placebos: int
    #: Root mean square of the gaps before the treatment.
    rmse_before: float | None
    unit_weights: dict[str, float] = field(default_factory=dict)
    time_weights: Floats = field(default_factory=lambda: np.empty(0))
    gaps: Floats = field(default_factory=lambda: np.empty(0))
    dropped: tuple[str, ...] = ()
    reason: str | None = None


def none_estimated(method: str, panel: Panel, reason: str) -> PanelEffect:
    """A result without numbers, and why."""
    return PanelEffect(method, None, None, None, None, None, None, 0, None, dropped=panel.dropped, reason=reason)


def panel_of(table: pa.Table) -> Panel:
    """The panel in a long ``table``: unit (text), period (timestamp or integer), value, treated (bool, per cell).

    A control unit without a value in some period is dropped and named. ``reason`` is set for: 'no_treated_unit',
    'no_control_unit', 'staggered_start' (treated units begin at different periods), 'treatment_ends',
    'treated_value_missing: unit, period'. Raises :class:`CheckInputError` for missing columns and a cell given twice.
    """
    what = "panel"
    require(table, ("unit", "period", "value", "treated"), what)
    unit, value, treated = keys(table, "unit", what), numbers(table, "value", what), flags(table, "treated", what)
    periods = pc.unique(table["period"]).take(pc.array_sort_indices(pc.unique(table["period"])))
    if periods.null_count:
        raise CheckInputError("panel: column period has a null; every row needs one")
    at = pc.index_in(table["period"], periods).to_numpy().astype(np.int64)
    cells = unit.codes * len(periods) + at
    if len(np.unique(cells)) != len(cells):
        row = int(np.flatnonzero(np.bincount(cells)[cells] > 1)[1])
        raise CheckInputError(f"panel: row {row} gives {unit.values[unit.codes[row]]} in {periods[at[row]]} again")
    values = np.full((unit.n, len(periods)), np.nan)
    values[unit.codes, at] = value
    on = np.zeros((unit.n, len(periods)), bool)
    on[unit.codes, at] = treated
    is_treated = on.any(axis=1)
    whole = ~np.isnan(values).any(axis=1)
    names = np.array(unit.values, dtype=object)
    controls, chosen = np.flatnonzero(~is_treated & whole), np.flatnonzero(is_treated)
    starts = on[chosen].argmax(axis=1)
    before = int(starts.min()) if len(chosen) else len(periods)
    kept = np.concatenate([controls, chosen])
    return Panel(
        values[kept],
        tuple(names[kept]),
        periods,
        len(controls),
        before,
        tuple(names[~is_treated & ~whole]),
        _refusal(values[chosen], on[chosen], starts, names[chosen], periods, len(controls)),
    )


def _refusal(
    values: Floats, on: np.ndarray, starts: np.ndarray, names: np.ndarray, periods: pa.Array, controls: int
) -> str | None:
    if len(values) == 0:
        return "no_treated_unit"
    if controls == 0:
        return "no_control_unit"
    if (starts != starts[0]).any():
        return "staggered_start"
    if not on[:, starts[0] :].all():
        return "treatment_ends"
    missing = np.argwhere(np.isnan(values))
    if len(missing):
        u, p = missing[0]
        return f"treated_value_missing: {names[u]}, {periods[int(p)]}"
    return None


def placebo_groups(controls: int, treated: int, draws: int, seed: int) -> np.ndarray | None:
    """Controls to treat as if they were the treated ones, ``(draws, treated)``; None where too few are left.

    Every control once where a single unit is treated (all there are, so nothing is random); else ``draws`` samples
    without replacement from Philox keyed by the seed.
    """
    if controls - treated < 2:
        return None
    if treated == 1:
        return np.arange(controls)[:, None]
    digest = hashlib.sha256(f"{seed}\x1fplacebo".encode()).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    return np.stack([np.sort(generator.choice(controls, treated, replace=False)) for _ in range(draws)])

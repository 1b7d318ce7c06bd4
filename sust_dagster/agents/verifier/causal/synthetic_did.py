"""Synthetic difference-in-differences: a weighted comparison of units and of periods, level differences left out.

Belongs here: the estimator of Arkhangelsky, Athey, Hirshberg, Imbens and Wager 2021 (AER 111:4088), plain
difference-in-differences on the same panel, their placebo and jackknife standard errors. Does not belong here: runs
(``diff_in_diff``), units treated at different times.

    tau = (treated after - l . treated before) - w . (controls after - L controls before)

Unit weights w: simplex, intercept, ridge zeta² T0 with zeta = (N1 T1)^(1/4) sigma, sigma the standard deviation of the
controls' first differences before. Time weights l: simplex, intercept, ridge (1e-6 sigma)² N0. Both solved exactly, so
figures differ from iterative solvers in the fourth digit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.causal.inputs import Z90, CheckInputError
from sust_dagster.agents.verifier.causal.panel import Panel, PanelEffect, none_estimated, placebo_groups
from sust_dagster.agents.verifier.causal.simplex import nearest_mix
from sust_dagster.agents.verifier.causal.synthetic_control import MIN_BEFORE, MIN_CONTROLS, noise_level

METHOD = "synthetic_did"
PLAIN = "diff_in_diff"
ErrorMethod = Literal["placebo", "jackknife"]


@dataclass(frozen=True)
class _Weights:
    units: Floats
    times: Floats


def synthetic_did(
    panel: Panel, *, se_method: ErrorMethod = "placebo", placebos: int = 200, seed: int = 0
) -> PanelEffect:
    """The effect by synthetic difference-in-differences.

    ``placebo`` (any number of treated units, more controls than treated): the estimate is made again with controls in
    place of the treated; it holds where all units scatter alike. ``jackknife`` (two treated units or more): units are
    left out in turn with the weights kept. ``reason``: as :func:`panel_of`, 'too_few_controls',
    'too_few_periods_before', or 'no_se: ...' with the effect standing.
    """
    return _estimate(panel, METHOD, se_method, placebos, seed)


def panel_did(panel: Panel, *, se_method: ErrorMethod = "placebo", placebos: int = 200, seed: int = 0) -> PanelEffect:
    """Plain difference-in-differences on the panel: all weights equal. Errors and reasons as :func:`synthetic_did`."""
    return _estimate(panel, PLAIN, se_method, placebos, seed)


def _estimate(panel: Panel, method: str, se_method: str, placebos: int, seed: int) -> PanelEffect:
    if se_method not in ("placebo", "jackknife"):
        raise CheckInputError(f"{method}: standard error {se_method!r} is neither 'placebo' nor 'jackknife'")
    least = (MIN_CONTROLS, MIN_BEFORE) if method == METHOD else (1, 1)
    refusal = panel.reason
    if refusal is None and panel.controls < least[0]:
        refusal = f"too_few_controls: {panel.controls}, needs {least[0]}"
    if refusal is None and panel.before < least[1]:
        refusal = f"too_few_periods_before: {panel.before}, needs {least[1]}"
    if refusal:
        return none_estimated(method, panel, refusal)
    stay, moved = panel.values[: panel.controls], panel.values[panel.controls :]
    weights = _weights(stay, moved, panel.before, method)
    effect = _effect(stay, moved.mean(axis=0), weights, panel.before)
    se, reason, count = _standard_error(panel, weights, method, se_method, placebos, seed)
    path = moved.mean(axis=0) - weights.units @ stay
    # Levels may differ: the gap is counted from its weighted mean before.
    gaps = path - weights.times @ path[: panel.before]
    return PanelEffect(
        method,
        effect,
        se,
        None if se is None else effect - Z90 * se,
        None if se is None else effect + Z90 * se,
        None,
        None if se is None else se_method,
        count,
        float(path[: panel.before].std()),
        dict(zip(panel.units[: panel.controls], weights.units.tolist(), strict=True)),
        weights.times,
        gaps,
        panel.dropped,
        reason,
    )


def _weights(stay: Floats, moved: Floats, before: int, method: str) -> _Weights:
    """Weights for controls ``(n0, periods)`` and treated units ``(n1, periods)``."""
    n0, after = len(stay), stay.shape[1] - before
    if method == PLAIN:
        return _Weights(np.full(n0, 1.0 / n0), np.full(before, 1.0 / before))
    sigma = noise_level(stay[:, :before])
    zeta = (len(moved) * after) ** 0.25 * sigma
    by_time, target = stay[:, :before].T, moved[:, :before].mean(axis=0)
    units = nearest_mix(by_time - by_time.mean(axis=0), target - target.mean(), zeta * np.sqrt(before)).weights
    by_unit, later = stay[:, :before], stay[:, before:].mean(axis=1)
    times = nearest_mix(by_unit - by_unit.mean(axis=0), later - later.mean(), 1e-6 * sigma * np.sqrt(n0)).weights
    return _Weights(units, times)


def _contrast(rows: Floats, times: Floats, before: int) -> Floats:
    """Mean after less weighted mean before, by row."""
    return rows[..., before:].mean(axis=-1) - rows[..., :before] @ times


def _effect(stay: Floats, moved: Floats, weights: _Weights, before: int) -> float:
    treated, control = _contrast(moved, weights.times, before), _contrast(stay, weights.times, before)
    return float(treated - weights.units @ control)


def _standard_error(
    panel: Panel, weights: _Weights, method: str, se_method: str, placebos: int, seed: int
) -> tuple[float | None, str | None, int]:
    """Standard error or None, the reason for none, and the number of estimates behind it."""
    stay, before = panel.values[: panel.controls], panel.before
    if se_method == "jackknife":
        effects = _left_out(panel, weights)
        if effects is None:
            return None, "no_se: jackknife needs two treated units and two controls with weight", 0
        n = len(effects)
        se = float(np.sqrt((n - 1) / n * ((effects - effects.mean()) ** 2).sum()))
    else:
        groups = placebo_groups(panel.controls, panel.treated, placebos, seed)
        if groups is None:
            return None, "no_se: too few controls for a placebo", 0
        effects = np.array([_placebo(stay, g, before, method) for g in groups])
        se = float(effects.std())
    return (se, None, len(effects)) if se > 0.0 else (None, "no_se: zero_variance", len(effects))


def _placebo(stay: Floats, group: np.ndarray, before: int, method: str) -> float:
    rest, chosen = np.delete(stay, group, axis=0), stay[group]
    return _effect(rest, chosen.mean(axis=0), _weights(rest, chosen, before, method), before)


def _left_out(panel: Panel, weights: _Weights) -> Floats | None:
    """The effect without each unit in turn, the other unit weights scaled to sum to 1."""
    if panel.treated < 2 or np.count_nonzero(weights.units) < 2:
        return None
    contrast = _contrast(panel.values, weights.times, panel.before)
    control, treated = contrast[: panel.controls], contrast[panel.controls :]
    whole, n1 = weights.units @ control, panel.treated
    without_control = treated.mean() - (whole - weights.units * control) / (1.0 - weights.units)
    without_treated = (treated.sum() - treated) / (n1 - 1) - whole
    return np.concatenate([without_control, without_treated])

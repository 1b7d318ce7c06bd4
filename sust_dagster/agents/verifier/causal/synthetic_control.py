"""Synthetic control: a mix of units that stayed, chosen to run with the treated one before it was treated.

Belongs here: the weights, the effect and its placebo test. Does not belong here: several treated units with weights of
their own, covariates, or time weights (``synthetic_did``).

Abadie, Diamond and Hainmueller 2010 (JASA 105:493), on the outcome alone: weights w >= 0, sum 1, least squares on the
periods before, without intercept. Several treated units are taken by their mean. A ridge of 1e-6 of the noise level,
as in Arkhangelsky et al., makes the weights unique without moving them.
"""

from __future__ import annotations

import numpy as np

from sust_dagster.agents.accountant.columns import Floats
from sust_dagster.agents.verifier.causal.inputs import Z90
from sust_dagster.agents.verifier.causal.panel import Panel, PanelEffect, none_estimated, placebo_groups
from sust_dagster.agents.verifier.causal.simplex import nearest_mix

METHOD = "synthetic_control"
MIN_CONTROLS = 2
MIN_BEFORE = 2


def noise_level(controls_before: Floats) -> float:
    """Standard deviation of the first differences over time of the controls before, ``(controls, periods)``."""
    steps = np.diff(controls_before, axis=1)
    return float(steps.std(ddof=1)) if steps.size > 1 else 0.0


def synthetic_control(panel: Panel, *, placebos: int = 200, seed: int = 0) -> PanelEffect:
    """The effect by synthetic control, its placebo standard error and rank test.

    Each placebo treats control units as if they were the treated ones (all of them in turn where one unit is treated)
    and leaves the treated ones out. ``se`` is the root mean square of their effects about their mean; ``p_value`` the
    share of units, the treated included, with a ratio of mean square gap after to before at least as large.
    ``reason``: as :func:`panel_of`, 'too_few_controls', 'too_few_periods_before', or 'no_se: ...'.
    """
    refusal = panel.reason or _too_few(panel)
    if refusal:
        return none_estimated(METHOD, panel, refusal)
    stay, moved = panel.values[: panel.controls], panel.values[panel.controls :].mean(axis=0)
    weights, gaps = _fit(stay, moved, panel.before)
    effect = float(gaps[panel.before :].mean())
    groups = placebo_groups(panel.controls, panel.treated, placebos, seed)
    se = p_value = None
    reason: str | None = "no_se: too few controls for a placebo"
    if groups is not None:
        others = [_fit(np.delete(stay, g, axis=0), stay[g].mean(axis=0), panel.before)[1] for g in groups]
        spread = float(np.std([g[panel.before :].mean() for g in others]))
        ranks = np.array([_extremity(g, panel.before) for g in others])
        p_value = float((1 + np.count_nonzero(ranks >= _extremity(gaps, panel.before))) / (1 + len(ranks)))
        se, reason = (spread, None) if spread > 0.0 else (None, "no_se: zero_variance")
    return PanelEffect(
        METHOD,
        effect,
        se,
        None if se is None else effect - Z90 * se,
        None if se is None else effect + Z90 * se,
        p_value,
        None if se is None else "placebo",
        0 if groups is None else len(groups),
        float(np.sqrt((gaps[: panel.before] ** 2).mean())),
        dict(zip(panel.units[: panel.controls], weights.tolist(), strict=True)),
        gaps=gaps,
        dropped=panel.dropped,
        reason=reason,
    )


def _fit(stay: Floats, moved: Floats, before: int) -> tuple[Floats, Floats]:
    """Weights of the controls, and observed less synthetic by period."""
    ridge = 1e-6 * noise_level(stay[:, :before]) * np.sqrt(before)
    weights = nearest_mix(stay[:, :before].T, moved[:before], ridge).weights
    return weights, moved - weights @ stay


def _extremity(gaps: Floats, before: int) -> float:
    fit, after = float((gaps[:before] ** 2).mean()), float((gaps[before:] ** 2).mean())
    return after / fit if fit > 0.0 else (np.inf if after > 0.0 else 0.0)


def _too_few(panel: Panel) -> str | None:
    if panel.controls < MIN_CONTROLS:
        return f"too_few_controls: {panel.controls}, needs {MIN_CONTROLS}"
    if panel.before < MIN_BEFORE:
        return f"too_few_periods_before: {panel.before}, needs {MIN_BEFORE}"
    return None

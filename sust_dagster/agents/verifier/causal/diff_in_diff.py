"""Difference-in-differences: did the moved runs change more than the runs that stayed?

Belongs here: the two-by-two estimate on runs, with its standard error, and the correction of a modelled counterfactual
by a comparison group. Does not belong here: who is treated (``holdout``), panels with few units (``synthetic_did``).

The estimate is (treated after - treated before) - (control after - control before) of the mean of a measure per run.
It is the effect of the move where both would have changed alike; where they would not, it is off by exactly that
difference, and no standard error shows it.

Standard errors. ``cluster`` (the default): the sandwich of the saturated regression with runs of one cluster free to
move together, times G/(G-1) x (N-1)/(N-4) (Cameron and Miller 2015, "A practitioner's guide to cluster-robust
inference", the CR1 form), with min(G treated, G control) - 1 degrees of freedom. ``welch``: the four variances of the
mean added, Welch-Satterthwaite degrees of freedom; right only for runs that are independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from scipy.stats import t as student

from sust_dagster.agents.accountant.columns import Floats, to_arrow
from sust_dagster.agents.verifier.causal.inputs import (
    CheckInputError,
    Flags,
    Ints,
    distinct,
    flags,
    keys,
    numbers,
    require,
)
from sust_dagster.world.schemas import FLOAT, INT, STRING

Form = Literal["ordinary", "log"]
StandardError = Literal["cluster", "welch"]
Adjustment = Literal["ordinary", "percent"]

CELLS = ("control before", "control after", "treated before", "treated after")
_SIGNS = np.array([1.0, -1.0, -1.0, 1.0])

#: One row per pool. ``effect`` is per run in the unit of the measure, or the difference of logarithms; ``ratio`` is
#: what moved runs use over what they would have used.
EFFECTS = pa.schema(
    [
        ("pool", STRING),
        ("measure", STRING),
        ("form", STRING),
        ("standard_error", STRING),
        ("effect", FLOAT),
        ("se", FLOAT),
        ("df", FLOAT),
        ("ci90_lower", FLOAT),
        ("ci90_upper", FLOAT),
        ("ratio", FLOAT),
        ("treated_before", INT),
        ("treated_after", INT),
        ("control_before", INT),
        ("control_after", INT),
        ("treated_clusters", INT),
        ("control_clusters", INT),
        ("runs_without_value", INT),
        ("reason", STRING),
    ]
)


def diff_in_diff(
    runs: pa.Table,
    *,
    measure: str = "energy_kwh",
    form: Form = "ordinary",
    standard_error: StandardError = "cluster",
    min_runs: int = 5,
    min_clusters: int = 5,
) -> pa.Table:
    """The effect of moving on ``measure`` by pool: schema :data:`EFFECTS`, one row per pool in order of its name.

    ``runs``, one row per run: pool (what is estimated together, as instance family and route), cluster (runs that
    move together, as a workload), treated (bool: its group was moved), after (bool: the run is after the move began,
    or would have been), and ``measure`` (null where not observed; such runs are counted and left out).

    ``reason`` is null, or: 'too_few_runs: ...' and 'too_few_clusters: ...' (nothing is estimated), 'not_positive'
    (logarithm of a measure <= 0), 'zero_variance' (the effect stands, no standard error can be taken from runs that
    are all alike). Raises :class:`CheckInputError` for missing or malformed columns.
    """
    what = "runs of diff_in_diff"
    require(runs, ("pool", "cluster", "treated", "after", measure), what)
    if form not in ("ordinary", "log") or standard_error not in ("cluster", "welch"):
        raise CheckInputError(f"{what}: form {form!r} with standard error {standard_error!r} is none of those offered")
    pool, cluster = keys(runs, "pool", what), keys(runs, "cluster", what)
    cell = flags(runs, "treated", what) * 2 + flags(runs, "after", what)
    value = numbers(runs, measure, what)
    known = ~np.isnan(value)
    not_positive = np.bincount(pool.codes[known & ~(value > 0)], minlength=pool.n) > 0
    if form == "log":
        value = np.log(np.where(value > 0, value, 1.0))
    sums = _sums(pool.codes[known], cluster.codes[known], cell[known], value[known], pool.n)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance, df = _clustered(sums) if standard_error == "cluster" else _welch(sums)
        effect = sums.mean @ _SIGNS
        expected = sums.mean[:, 2] + sums.mean[:, 1] - sums.mean[:, 0]
        ratio = np.exp(effect) if form == "log" else np.where(expected > 0, sums.mean[:, 3] / expected, np.nan)
    # Means of equal numbers differ by rounding only: that is no scatter.
    scattered = variance > (1e-12 * np.maximum(sums.scale, 1e-300)) ** 2
    fewest = sums.clusters.min(axis=1)
    few_runs = sums.n.min(axis=1) < max(min_runs, 2)
    few_clusters = ~few_runs & (fewest < max(min_clusters, 2)) & (standard_error == "cluster")
    undefined = few_runs | few_clusters | (not_positive & (form == "log"))
    measured = ~undefined & scattered
    se = np.where(measured, np.sqrt(np.where(measured, variance, 0.0)), np.nan)
    effect, ratio = np.where(undefined, np.nan, effect), np.where(undefined, np.nan, ratio)
    half = se * student.ppf(0.95, np.where(measured, df, 1.0))
    reasons: list[str | None] = [None] * pool.n
    for p in np.flatnonzero(~measured):
        reasons[p] = _reason(sums, int(p), few_runs, few_clusters, undefined, max(min_runs, 2), max(min_clusters, 2))
    return pa.table(
        {
            "pool": pa.array(pool.values, STRING),
            "measure": pa.array([measure] * pool.n, STRING),
            "form": pa.array([form] * pool.n, STRING),
            "standard_error": pa.array([standard_error] * pool.n, STRING),
            "effect": to_arrow(effect),
            "se": to_arrow(se),
            "df": to_arrow(np.where(measured, df, np.nan)),
            "ci90_lower": to_arrow(effect - half),
            "ci90_upper": to_arrow(effect + half),
            "ratio": to_arrow(ratio),
            "treated_before": sums.n[:, 2],
            "treated_after": sums.n[:, 3],
            "control_before": sums.n[:, 0],
            "control_after": sums.n[:, 1],
            "treated_clusters": sums.clusters[:, 1],
            "control_clusters": sums.clusters[:, 0],
            "runs_without_value": np.bincount(pool.codes[~known], minlength=pool.n),
            "reason": pa.array(reasons, STRING),
        },
        schema=EFFECTS,
    )


@dataclass(frozen=True)
class _Sums:
    """By pool and cell (``(p, 4)``), and what the standard errors need."""

    n: Ints
    mean: Floats
    #: Variance of a run in its cell (n - 1), NaN for a single run.
    within: Floats
    #: Sum over clusters of the squared weighted residual sums, ``(p,)``.
    squares: Floats
    #: Distinct clusters in all, and of the control and the treated side, ``(p, 2)``.
    clusters_all: Ints
    clusters: Ints
    #: Largest absolute value, for telling scatter from rounding.
    scale: Floats


def _sums(pool: Ints, cluster: Ints, cell: Ints, value: Floats, pools: int) -> _Sums:
    at = pool * 4 + cell
    n = np.bincount(at, minlength=pools * 4)
    total = np.bincount(at, value, minlength=pools * 4)
    filled = np.maximum(n, 1)
    mean = np.where(n > 0, total / filled, np.nan)
    residual = value - mean[at] if len(at) else value
    squared = np.bincount(at, residual**2, minlength=pools * 4)
    within = np.where(n > 1, squared / np.maximum(n - 1, 1), np.nan)
    weighted = _SIGNS[cell] * residual / filled[at] if len(at) else value
    groups, inverse = distinct(pool, cluster)
    summed = np.bincount(inverse, weighted, minlength=len(groups))
    sided, _ = distinct(pool, cluster, cell // 2)
    clusters = np.bincount(sided[:, 0] * 2 + sided[:, 2], minlength=pools * 2)
    scale = np.zeros(pools)
    np.maximum.at(scale, pool, np.abs(value))
    return _Sums(
        n.reshape(pools, 4),
        mean.reshape(pools, 4),
        within.reshape(pools, 4),
        np.bincount(groups[:, 0], summed**2, minlength=pools).astype(np.float64),
        np.bincount(groups[:, 0], minlength=pools),
        clusters.reshape(pools, 2),
        scale,
    )


def _clustered(sums: _Sums) -> tuple[Floats, Floats]:
    g, n = sums.clusters_all.astype(float), sums.n.sum(axis=1).astype(float)
    return sums.squares * (g / (g - 1.0)) * ((n - 1.0) / (n - 4.0)), sums.clusters.min(axis=1) - 1.0


def _welch(sums: _Sums) -> tuple[Floats, Floats]:
    parts = sums.within / sums.n
    variance = parts.sum(axis=1)
    return variance, variance**2 / (parts**2 / (sums.n - 1.0)).sum(axis=1)


def _reason(sums: _Sums, p: int, few_runs: Flags, few_clusters: Flags, undefined: Flags, runs: int, groups: int) -> str:
    if few_runs[p]:
        least = int(sums.n[p].argmin())
        return f"too_few_runs: {CELLS[least]} has {sums.n[p, least]}, needs {runs}"
    if few_clusters[p]:
        side = int(sums.clusters[p].argmin())
        return f"too_few_clusters: {('control', 'treated')[side]} has {sums.clusters[p, side]}, needs {groups}"
    return "not_positive" if undefined[p] else "zero_variance"


@dataclass(frozen=True)
class Corrected:
    """A modelled counterfactual after correction by a comparison group; arrays of one shape, NaN where ``reason``."""

    value: Floats
    variance: Floats
    #: '' where all is well, else 'missing_value' or 'zero_model' (a percent of nothing).
    reason: np.ndarray


def comparison_group(
    modelled: Floats,
    group_modelled: Floats,
    group_observed: Floats,
    *,
    var_modelled: Floats,
    var_group_modelled: Floats,
    var_group_observed: Floats,
    adjustment: Adjustment = "ordinary",
) -> Corrected:
    """``m_cT = m_T - s (m_CG - o_CG)``: what the model got wrong for the runs that stayed, taken off those that moved.

    All arguments broadcast together, in one unit; variances in its square. ``ordinary``: s = 1. ``percent``:
    s = m_T / m_CG, so m_cT = m_T x o_CG / m_CG. Source of the forms: OpenDSM comparison groups (Apache-2.0). The
    variance is the delta method for three independent inputs: for ``ordinary`` the sum of the three, which is
    OpenDSM's; for ``percent`` it keeps that m_CG stands in s and in the difference, and m_T inside and outside s.
    """
    m, g, o, vm, vg, vo = np.broadcast_arrays(
        *(
            np.asarray(x, np.float64)
            for x in (modelled, group_modelled, group_observed, var_modelled, var_group_modelled, var_group_observed)
        )
    )
    missing = ~np.isfinite(m + g + o + vm + vg + vo)
    if adjustment == "ordinary":
        zero, value, variance = np.zeros(m.shape, bool), m - (g - o), vm + vg + vo
    elif adjustment == "percent":
        zero = g == 0.0
        base = np.where(zero, 1.0, g)
        share = o / base
        value = m * share
        variance = share**2 * vm + (m / base) ** 2 * vo + (m * share / base) ** 2 * vg
    else:
        raise CheckInputError(f"comparison group: adjustment {adjustment!r} is neither 'ordinary' nor 'percent'")
    reason = np.where(missing, "missing_value", np.where(zero, "zero_model", ""))
    bad = missing | zero
    return Corrected(np.where(bad, np.nan, value), np.where(bad, np.nan, variance), reason)

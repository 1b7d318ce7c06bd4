"""The usage ratio: what a moved run uses over what the same run would have used unmoved.

Belongs here: its estimate from the hold-out, on the log scale, shrunk toward 1, as a named factor with a standard
deviation. Does not belong here: carbon, or how the factor enters a saving's variance.

The counterfactual energy of a moved run is its own energy over the ratio, so its logarithmic sensitivity to the factor
is -1. Within each stratum (a workload) the draw decides who moves, so the difference of mean logarithms is the effect
of moving; strata are joined by the regression with one intercept per stratum (weights n_T n_C / n). The standard error
lets all runs of one cluster (one draw: workload and requested hour) move together (CR1). The ratio is one of geometric
means: of totals too where a move scales every run alike.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

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

#: Prior of ln(ratio): normal around 0 with this standard deviation. 0.10 says that before any run was compared 95 %
#: of moves are taken to change the energy of a run by less than about a fifth.
PRIOR_LOG_SD = 0.10

#: Fewer draws than this on a side and their scatter says nothing about the error.
MIN_CLUSTERS = 4

#: One row per pool. ``log_ratio`` and ``log_se`` are the runs' own; ``ratio`` and ``log_sd`` after the prior.
USAGE_RATIOS = pa.schema(
    [
        ("factor_key", STRING),
        ("pool", STRING),
        ("ratio", FLOAT),
        ("log_sd", FLOAT),
        ("log_ratio", FLOAT),
        ("log_se", FLOAT),
        ("weight", FLOAT),
        ("prior_log_sd", FLOAT),
        ("n_treated", INT),
        ("n_control", INT),
        ("treated_clusters", INT),
        ("control_clusters", INT),
        ("runs_left_out", INT),
        ("reason", STRING),
    ]
)


def usage_ratio(
    runs: pa.Table, *, measure: str = "energy_kwh", prior_log_sd: float = PRIOR_LOG_SD, min_clusters: int = MIN_CLUSTERS
) -> pa.Table:
    """The ratio by pool: schema :data:`USAGE_RATIOS`, one row per pool in order of its name.

    ``runs``, one row per run after the draw: pool (as instance family and route), stratum (as the workload), cluster
    (the draw: workload and hour), moved (bool), and ``measure`` (null or <= 0: left out and counted). Runs of a
    stratum without both a moved and an unmoved run compare with nothing and are left out too.

    With b = difference of mean logarithms and v its variance (times df/(df-2), df = clusters of the smaller side - 1,
    for the scatter of v itself), the weight of the runs is w = prior² / (prior² + v), ln(ratio) = w b and
    log_sd² = w v. ``reason`` is null for such an estimate, else: 'no_moved_runs', 'no_unmoved_runs' or
    'too_few_clusters: ...' (ratio 1 with the prior's sd: nothing was measured), 'zero_variance' (the ratio of the runs
    as it is with the prior's sd: runs that are all alike say nothing about the error).
    """
    what = "runs of usage_ratio"
    require(runs, ("pool", "stratum", "cluster", "moved", measure), what)
    if not prior_log_sd > 0.0:
        raise CheckInputError(f"{what}: prior_log_sd {prior_log_sd} must be above 0")
    pool, stratum, cluster = keys(runs, "pool", what), keys(runs, "stratum", what), keys(runs, "cluster", what)
    moved, value = flags(runs, "moved", what), numbers(runs, measure, what)
    _, cell = distinct(pool.codes, stratum.codes)
    usable = value > 0
    cells = int(cell.max(initial=-1)) + 1
    n_moved = np.bincount(cell[usable & moved], minlength=cells)
    n_stay = np.bincount(cell[usable & ~moved], minlength=cells)
    usable &= ((n_moved > 0) & (n_stay > 0))[cell] if cells else usable
    at, by, who, side = pool.codes[usable], cell[usable], cluster.codes[usable], moved[usable]
    log = np.log(value[usable])
    own = _within(at, by, who, side, log, pool.n)
    b, variance, clusters, scale = own
    df = clusters.min(axis=1) - 1.0
    empty = clusters.min(axis=1) == 0
    few = clusters.min(axis=1) < max(min_clusters, 4)
    flat = ~few & ~(variance > (1e-12 * np.maximum(scale, 1.0)) ** 2)
    measured = ~few & ~flat
    spread = np.where(measured, variance * df / np.where(measured, df - 2.0, 1.0), 1.0)
    weight = np.where(measured, prior_log_sd**2 / (prior_log_sd**2 + spread), np.where(flat, 1.0, 0.0))
    log_ratio = np.where(empty, np.nan, b)
    reasons: list[str | None] = [None] * pool.n
    for p in np.flatnonzero(~measured):
        side_of = int(clusters[p].argmin())
        if flat[p]:
            reasons[p] = "zero_variance"
        elif not (pool.codes[moved] == p).any():
            reasons[p] = "no_moved_runs"
        elif not (pool.codes[~moved] == p).any():
            reasons[p] = "no_unmoved_runs"
        else:
            least = max(min_clusters, 4)
            reasons[p] = f"too_few_clusters: {('unmoved', 'moved')[side_of]} has {clusters[p, side_of]}, needs {least}"
    return pa.table(
        {
            "factor_key": pa.array([f"usage_ratio:{measure}:{p}" for p in pool.values], STRING),
            "pool": pa.array(pool.values, STRING),
            "ratio": np.exp(weight * np.where(weight > 0, log_ratio, 0.0)),
            "log_sd": np.where(measured, np.sqrt(weight * spread), prior_log_sd),
            "log_ratio": to_arrow(log_ratio),
            "log_se": to_arrow(np.where(measured, np.sqrt(np.where(measured, variance, 0.0)), np.nan)),
            "weight": weight,
            "prior_log_sd": np.full(pool.n, prior_log_sd),
            "n_treated": np.bincount(at[side], minlength=pool.n),
            "n_control": np.bincount(at[~side], minlength=pool.n),
            "treated_clusters": clusters[:, 1],
            "control_clusters": clusters[:, 0],
            "runs_left_out": np.bincount(pool.codes[~usable], minlength=pool.n),
            "reason": pa.array(reasons, STRING),
        },
        schema=USAGE_RATIOS,
    )


def _within(
    pool: Ints, cell: Ints, cluster: Ints, moved: Flags, log: Floats, pools: int
) -> tuple[Floats, Floats, Ints, Floats]:
    """The regression of ``log`` on ``moved`` within cells: b, its CR1 variance, clusters by side, largest |log|."""
    cells = int(cell.max(initial=-1)) + 1
    n = np.maximum(np.bincount(cell, minlength=cells), 1)
    treated = moved - (np.bincount(cell, moved, minlength=cells) / n)[cell]
    centred = log - (np.bincount(cell, log, minlength=cells) / n)[cell]
    sxx = np.bincount(pool, treated**2, minlength=pools)
    safe = np.where(sxx > 0, sxx, 1.0)
    b = np.bincount(pool, treated * centred, minlength=pools) / safe
    score = treated * (centred - b[pool] * treated)
    groups, inverse = distinct(pool, cluster)
    summed = np.bincount(inverse, score, minlength=len(groups))
    g = np.bincount(groups[:, 0], minlength=pools).astype(float)
    runs = np.bincount(pool, minlength=pools).astype(float)
    strata = np.bincount(distinct(pool, cell)[0][:, 0], minlength=pools)
    left = np.maximum(runs - strata - 1.0, 1.0)
    variance = np.bincount(groups[:, 0], summed**2, minlength=pools) / safe**2
    variance *= g / np.maximum(g - 1.0, 1.0) * np.maximum(runs - 1.0, 1.0) / left
    sided, _ = distinct(pool, cluster, moved.astype(np.int64))
    clusters = np.bincount(sided[:, 0] * 2 + sided[:, 2], minlength=pools * 2).reshape(pools, 2)
    scale = np.zeros(pools)
    np.maximum.at(scale, pool, np.abs(log))
    return b, variance, clusters, scale


def counterfactual_energy_kwh(actual_kwh: Floats, ratio: Floats) -> Floats:
    """What moved runs would have used unmoved: actual / ratio. Raises :class:`CheckInputError` for a ratio <= 0."""
    ratio = np.asarray(ratio, np.float64)
    if not (ratio > 0).all():
        raise CheckInputError("usage ratio: a ratio that is not above 0 divides no energy")
    return np.asarray(actual_kwh, np.float64) / ratio

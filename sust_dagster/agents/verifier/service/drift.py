"""How far what was verified lies from what was estimated, in standard deviations of the plan's own interval.

Belongs here: divergence of single outcomes with its alerts, and whether outcomes of a scope keep diverging the same
way. Does not belong here: widening of intervals after drift, forecasts, credit.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats, to_arrow
from sust_dagster.agents.verifier.causal.inputs import Z90, CheckInputError, distinct, instants, keys, numbers, require
from sust_dagster.world.schemas import BOOL, FLOAT, INT, STRING, TIMESTAMP

#: Beyond this many standard deviations an outcome raises an alert.
ALERT_SIGMAS = 3.0

#: Two-sided cumulative sum of daily means (Page 1954): allowance and limit in standard deviations. It finds a shift of
#: one sd in about 10 days and gives a false alarm in about 465 days.
CUSUM_ALLOWANCE = 0.5
CUSUM_LIMIT = 5.0

DIVERGENCES = pa.schema(
    [
        ("outcome_id", STRING),
        ("scope", STRING),
        ("executed_on", TIMESTAMP),
        ("divergence_kg", FLOAT),
        ("sigma_kg", FLOAT),
        ("sigmas", FLOAT),
        ("alert", BOOL),
        ("reason", STRING),
    ]
)

ALERTS = pa.schema(
    [("outcome_id", STRING), ("scope", STRING), ("kind", STRING), ("sigmas", FLOAT), ("message", STRING)]
)

DRIFT = pa.schema(
    [
        ("scope", STRING),
        ("days", INT),
        ("outcomes", INT),
        ("mean_sigmas", FLOAT),
        ("drift_sigmas", FLOAT),
        ("cusum_high", FLOAT),
        ("cusum_low", FLOAT),
        ("drifting", BOOL),
        ("drifting_since", TIMESTAMP),
        ("reason", STRING),
    ]
)


def divergence(outcomes: pa.Table, *, alert_sigmas: float = ALERT_SIGMAS) -> pa.Table:
    """Divergence of each outcome: schema :data:`DIVERGENCES`, rows in order of ``outcomes``.

    ``outcomes``: outcome_id, scope (text, as action type or region), executed_on (UTC), estimated_kg (the plan's
    carbon delta), plan_ci_lower, plan_ci_upper (its ci90), measured_kg (the verified delta); numbers in kgCO2e, null
    where missing. divergence = measured - estimated. The standard deviation is that of the side the measured value
    lies on: (upper - estimated) / 1.645 above, (estimated - lower) / 1.645 below, for plan intervals are skewed.
    ``alert`` is true above ``alert_sigmas`` either way. ``reason``: 'not_verified', 'no_estimate', 'no_interval',
    'estimate_outside_interval', 'zero_width_interval'; alert is null then.
    """
    what = "outcomes of divergence"
    require(outcomes, ("outcome_id", "scope", "executed_on", "estimated_kg"), what)
    require(outcomes, ("plan_ci_lower", "plan_ci_upper", "measured_kg"), what)
    keys(outcomes, "outcome_id", what)
    estimated, measured = numbers(outcomes, "estimated_kg", what), numbers(outcomes, "measured_kg", what)
    lower, upper = numbers(outcomes, "plan_ci_lower", what), numbers(outcomes, "plan_ci_upper", what)
    moved = measured - estimated
    sigma = np.where(moved >= 0.0, upper - estimated, estimated - lower) / Z90
    reason = np.select(
        [
            np.isnan(measured),
            np.isnan(estimated),
            np.isnan(lower) | np.isnan(upper),
            (estimated < lower) | (estimated > upper),
            sigma == 0.0,
        ],
        ["not_verified", "no_estimate", "no_interval", "estimate_outside_interval", "zero_width_interval"],
        "",
    )
    good = reason == ""
    sigmas = np.where(good, moved / np.where(good, sigma, 1.0), np.nan)
    return pa.table(
        {
            "outcome_id": outcomes["outcome_id"].cast(STRING),
            "scope": outcomes["scope"].cast(STRING),
            "executed_on": outcomes["executed_on"].cast(TIMESTAMP),
            "divergence_kg": to_arrow(moved),
            "sigma_kg": to_arrow(np.where(good, sigma, np.nan)),
            "sigmas": to_arrow(sigmas),
            "alert": pa.array(np.abs(np.where(good, sigmas, 0.0)) > alert_sigmas, BOOL, mask=~good),
            "reason": pa.array(reason.astype(str), STRING, mask=good),
        },
        schema=DIVERGENCES,
    )


def alerts(divergences: pa.Table) -> pa.Table:
    """One row per outcome that raised an alert: schema :data:`ALERTS`. ``divergences`` as of :func:`divergence`.

    ``kind``: 'less_than_estimated' (the delta came out higher: less was saved) or 'more_than_estimated'.
    """
    raised = divergences.filter(divergences["alert"].fill_null(False))
    rows = [
        {
            "outcome_id": r["outcome_id"],
            "scope": r["scope"],
            "kind": "less_than_estimated" if r["sigmas"] > 0 else "more_than_estimated",
            "sigmas": r["sigmas"],
            "message": f"verified delta is {r['divergence_kg']:+.6g} kgCO2e from the estimate, "
            f"{abs(r['sigmas']):.1f} standard deviations of the plan interval",
        }
        for r in raised.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=ALERTS)


def drift(divergences: pa.Table, *, min_days: int = 5, alert_sigmas: float = ALERT_SIGMAS) -> pa.Table:
    """Whether outcomes of a scope keep diverging the same way: schema :data:`DRIFT`, one row per scope by name.

    ``divergences`` as of :func:`divergence`; rows without sigmas are left out. Outcomes of one day share its forecast
    errors, so a day counts once, by the mean of its sigmas, whose standard deviation is at most 1.
    ``drift_sigmas`` = sum of daily means / sqrt(days): a lasting small bias. ``cusum_high`` and ``cusum_low`` are the
    cumulative sums at the last day: a change. ``drifting`` where the first exceeds ``alert_sigmas`` or a sum ever
    exceeds :data:`CUSUM_LIMIT`; ``drifting_since`` is the first day a sum did. ``reason``: 'too_few_days: ...'.
    """
    what = "divergences of drift"
    require(divergences, ("scope", "executed_on", "sigmas"), what)
    when, known = instants(divergences, "executed_on", what)
    if not known.all():
        raise CheckInputError(
            f"{what}: column executed_on, row {int((~known).argmax())} is null; every outcome has a day"
        )
    scope, sigmas = keys(divergences, "scope", what), numbers(divergences, "sigmas", what)
    day, good = np.floor_divide(when, 86_400_000_000), ~np.isnan(sigmas)
    cells, inverse = distinct(scope.codes[good], day[good])
    means = np.bincount(inverse, sigmas[good], minlength=len(cells)) / np.maximum(
        np.bincount(inverse, minlength=len(cells)), 1
    )
    rows = []
    for code, name in enumerate(scope.values):
        mine = cells[:, 0] == code
        rows.append(
            _scope(name, cells[mine, 1], means[mine], int((scope.codes[good] == code).sum()), min_days, alert_sigmas)
        )
    return pa.Table.from_pylist(rows, schema=DRIFT)


def _scope(name: str, days: np.ndarray, means: Floats, outcomes: int, min_days: int, alert_sigmas: float) -> dict:
    row = dict.fromkeys(DRIFT.names) | {"scope": name, "days": len(days), "outcomes": outcomes}
    if len(days) < min_days:
        return row | {"reason": f"too_few_days: {len(days)}, needs {min_days}"}
    high, low = _cusum(means - CUSUM_ALLOWANCE), _cusum(-means - CUSUM_ALLOWANCE)
    total = float(means.sum() / np.sqrt(len(means)))
    over = np.flatnonzero(np.maximum(high, low) > CUSUM_LIMIT)
    return row | {
        "mean_sigmas": float(means.mean()),
        "drift_sigmas": total,
        "cusum_high": float(high[-1]),
        "cusum_low": float(low[-1]),
        "drifting": bool(abs(total) > alert_sigmas or len(over)),
        "drifting_since": int(days[over[0]]) * 86_400_000_000 if len(over) else None,
    }


def _cusum(steps: Floats) -> Floats:
    """S_t = max(0, S_{t-1} + step_t), without a loop: the walk less its lowest point so far."""
    walk = np.cumsum(steps)
    return walk - np.minimum(np.minimum.accumulate(walk), 0.0)

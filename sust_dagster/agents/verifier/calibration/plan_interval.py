"""Plan intervals, forecast to settled: how those that were promised did, and what executed outcomes would have them be.

Belongs here: split-conformal ratios by action type, the interval they give a new claim, and the share of settled
outcomes inside their own plan interval. Does not belong here: the accounting interval (factor errors against the
truth: own history can not calibrate it), forecasts, adaptation to drift.

**Executed outcomes only.** A plan picks what looks best, so what is executed errs more towards too much than all that
was forecast (winner's curse): an interval made of all forecasts is too narrow for what is picked.

Scores are ratios measured / claimed. Only their order counts, and it is that of their logarithms; a ratio gives a
saving that became a loss its place too, which a logarithm does not.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from sust_dagster.agents.accountant.columns import Floats, to_arrow
from sust_dagster.agents.verifier.calibration.bands import (
    ALPHA,
    NOMINAL,
    Band,
    conformal_ranks,
    fewest_outcomes,
    wilson,
)
from sust_dagster.agents.verifier.causal.inputs import CheckInputError, distinct, instants, keys, numbers, require
from sust_dagster.world.schemas import FLOAT, INT, STRING

#: One row per action type. A new claimed saving c is expected in ``[c ratio_lower, c ratio_upper]``.
PLAN_CALIBRATION = pa.schema(
    [
        ("action_type", STRING),
        ("outcomes", INT),
        ("not_verified", INT),
        ("no_saving_claimed", INT),
        ("level", FLOAT),
        ("ratio_lower", FLOAT),
        ("ratio_upper", FLOAT),
        ("reason", STRING),
    ]
)

#: One row per claim, in order.
CALIBRATED = pa.schema(
    [("claimed_delta_kg", FLOAT), ("delta_kg_lower", FLOAT), ("delta_kg_upper", FLOAT), ("reason", STRING)]
)

#: One row per action type, and ``all`` of them. ``share_lower``, ``share_upper``: see :func:`plan_interval_report`.
PLAN_REPORT = pa.schema(
    [
        ("action_type", STRING),
        ("outcomes", INT),
        ("settled", INT),
        ("days", INT),
        ("effective", FLOAT),
        ("inside_share", FLOAT),
        ("share_lower", FLOAT),
        ("share_upper", FLOAT),
        ("claimed_over_measured", FLOAT),
        ("passed", pa.bool_()),
        ("reason", STRING),
    ]
)

#: Name of the row over all action types.
ALL = "all"

#: Below so many days, how much outcomes of a day have in common is not estimated: a day counts as one outcome.
MIN_DAYS = 10
#: Below so many effective outcomes there is no verdict.
MIN_EFFECTIVE = 20

_DAY_US = 86_400_000_000


def plan_interval_calibration(outcomes: pa.Table, *, level: float = NOMINAL) -> pa.Table:
    """Signed conformal quantiles of measured / claimed by action type: schema :data:`PLAN_CALIBRATION`.

    ``outcomes``: executed ones, with action_type (text), claimed_delta_kg and measured_carbon_delta_kg (after -
    before). Those without a measured or with no saving claimed (null, or a delta not below 0) are counted and left
    out. With ``n`` of a type left, the ratios are its order statistics of rank ``n + 1 - k`` and ``k``,
    ``k = ceil((n + 1)(1 - (1 - level) / 2))``: a new outcome of the type, exchangeable with them, lies between with
    at least ``level``. ``reason``: 'too_few_outcomes: n, needs m' where ``k > n``; the ratios are null then, for the
    side is infinite. Raises :class:`CheckInputError` for a missing or unreadable column, ``ValueError`` for a level
    outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, not at {level}")
    what = "outcomes of a plan-interval calibration"
    require(outcomes, ("action_type", "claimed_delta_kg", "measured_carbon_delta_kg"), what)
    kind = keys(outcomes, "action_type", what)
    claimed, measured = numbers(outcomes, "claimed_delta_kg", what), numbers(outcomes, "measured_carbon_delta_kg", what)
    verified, saving = ~np.isnan(measured), claimed < 0
    used = verified & saving
    rows = []
    for code, name in enumerate(kind.values):
        mine = kind.codes == code
        ratio = np.sort(measured[mine & used] / claimed[mine & used])
        ranks = conformal_ranks(len(ratio), level)
        rows.append(
            {
                "action_type": name,
                "outcomes": len(ratio),
                "not_verified": int((mine & ~verified).sum()),
                "no_saving_claimed": int((mine & verified & ~saving).sum()),
                "level": level,
                "ratio_lower": float(ratio[ranks[0] - 1]) if ranks else None,
                "ratio_upper": float(ratio[ranks[1] - 1]) if ranks else None,
                "reason": None if ranks else f"too_few_outcomes: {len(ratio)}, needs {fewest_outcomes(level)}",
            }
        )
    return pa.Table.from_pylist(rows, schema=PLAN_CALIBRATION)


def calibrated_intervals(claims: pa.Table, calibration: pa.Table) -> pa.Table:
    """The plan interval of each claim: schema :data:`CALIBRATED`, rows in order of ``claims``.

    ``claims``: action_type and claimed_delta_kg (after - before); ``calibration``: :data:`PLAN_CALIBRATION`.
    ``reason`` says why there is none: 'no_claim', 'no_saving_claimed', 'no_outcomes' (of this action type), or the
    calibration's own.
    """
    what = "claims of a plan interval"
    require(claims, ("action_type", "claimed_delta_kg"), what)
    kind, claimed = keys(claims, "action_type", what), numbers(claims, "claimed_delta_kg", what)
    known = {r["action_type"]: r for r in calibration.to_pylist()}
    rows = [
        known.get(name, {"ratio_lower": None, "ratio_upper": None, "reason": "no_outcomes"}) for name in kind.values
    ]

    def of_type(column: str) -> Floats:
        return np.array([np.nan if r[column] is None else r[column] for r in rows])[kind.codes]

    why = np.array([r["reason"] or "" for r in rows], dtype=object)[kind.codes]
    reason = np.where(np.isnan(claimed), "no_claim", np.where(claimed >= 0, "no_saving_claimed", why)).astype(object)
    good = reason == ""
    # A claimed delta is below zero: the larger ratio is the lower end.
    ends = [np.where(good, claimed * of_type(column), np.nan) for column in ("ratio_upper", "ratio_lower")]
    return pa.table(
        {
            "claimed_delta_kg": to_arrow(claimed),
            "delta_kg_lower": to_arrow(ends[0]),
            "delta_kg_upper": to_arrow(ends[1]),
            "reason": pa.array(reason, STRING, mask=good),
        },
        schema=CALIBRATED,
    )


def plan_interval_report(outcomes: pa.Table, *, alpha: float = ALPHA) -> pa.Table:
    """How plan intervals did by action type: schema :data:`PLAN_REPORT`, types by name, then :data:`ALL`.

    ``outcomes``: action_type, executed_on (UTC), claimed_delta_kg, plan_ci_lower, plan_ci_upper,
    measured_carbon_delta_kg, all but the first two null where there is none. ``settled``: with a measured delta and an
    interval. ``inside_share``: of those, whose delta lies inside, ends included. ``claimed_over_measured``: mean
    claimed over mean measured delta of the same outcomes; above 1 less came than was promised; null where no saving
    was measured.

    Outcomes of a day share its forecast errors. ``effective`` is the number of independent outcomes that would leave
    the share as uncertain as days leave it (between the number of days and of outcomes; the number of days below
    :data:`MIN_DAYS`, and where all or none are inside), ``share_lower`` to ``share_upper`` the Wilson interval of
    1 - alpha for that number. ``passed``: whether that interval holds 0.90; ``reason`` names why it does not, or why
    there is no verdict: 'not_settled', 'too_few: ...', 'a_mixture' (one type may make up for another).
    """
    what = "outcomes of a plan-interval report"
    columns = ("claimed_delta_kg", "plan_ci_lower", "plan_ci_upper", "measured_carbon_delta_kg")
    require(outcomes, ("action_type", "executed_on", *columns), what)
    kind = keys(outcomes, "action_type", what)
    when, dated = instants(outcomes, "executed_on", what)
    if not dated.all():
        raise CheckInputError(
            f"{what}: column executed_on, row {int((~dated).argmax())} is null; every outcome has a day"
        )
    claimed, lower, upper, measured = (numbers(outcomes, c, what) for c in columns)
    settled = ~np.isnan(lower + upper + measured)
    inside = (lower <= measured) & (measured <= upper)
    day = np.floor_divide(when, _DAY_US)
    rows = []
    for code, name in [*enumerate(kind.values), (-1, ALL)]:
        mine = kind.codes == code if code >= 0 else np.ones(len(kind.codes), bool)
        rows.append(
            {"action_type": name, "outcomes": int(mine.sum())}
            | _reported(inside[mine & settled], day[mine & settled], alpha, mixture=code < 0)
            | {"claimed_over_measured": _over(claimed[mine & settled], measured[mine & settled])}
        )
    return pa.Table.from_pylist(rows, schema=PLAN_REPORT)


def _over(claimed: Floats, measured: Floats) -> float | None:
    known = ~np.isnan(claimed)
    total = float(measured[known].sum())
    return float(claimed[known].sum()) / total if total < 0 else None


def _reported(inside: np.ndarray, day: np.ndarray, alpha: float, *, mixture: bool) -> dict[str, object]:
    n = len(inside)
    if not n:
        return {"settled": 0, "days": 0, "passed": None, "reason": "not_settled"}
    cells, of_day = distinct(day)
    days = len(cells)
    share = float(inside.mean())
    effective = _effective(inside, of_day, days)
    held = wilson(share, effective, alpha=alpha)
    passed, reason = _verdict(held, effective)
    return {
        "settled": n,
        "days": days,
        "effective": effective,
        "inside_share": share,
        "share_lower": held.lower,
        "share_upper": held.upper,
        "passed": None if mixture else passed,
        "reason": "a_mixture" if mixture else reason,
    }


def _effective(inside: np.ndarray, of_day: np.ndarray, days: int) -> float:
    """``p (1 - p)`` over the variance of the share, which is estimated from whole days (ratio of sums, clustered)."""
    n, share = len(inside), float(inside.mean())
    if days < MIN_DAYS or share in (0.0, 1.0):
        return float(days)
    residual = np.bincount(of_day, inside - share, days)
    variance = days / (days - 1) * float((residual**2).sum()) / n**2
    return float(np.clip(share * (1 - share) / variance, days, n)) if variance > 0 else float(n)


def _verdict(held: Band, effective: float) -> tuple[bool | None, str | None]:
    if effective < MIN_EFFECTIVE:
        return None, f"too_few: {effective:.0f} effective outcomes, needs {MIN_EFFECTIVE}"
    if held.holds(NOMINAL):
        return True, None
    return False, "too_narrow" if held.upper < NOMINAL else "too_wide"

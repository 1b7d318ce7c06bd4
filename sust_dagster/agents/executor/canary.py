"""Production work goes first in part: how large that part is, and what its health says about the rest.

Belongs here: the split of a change into canary and rest, and the verdict from health before and after. Does not belong
here: measuring health (a connector), undoing (the execution desk).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

PRODUCTION = "production"

Word = Literal["proceed", "roll_back", "wait"]


@dataclass(frozen=True)
class CanaryRules:
    """How much goes first, how long it is watched, and how much worse it may do."""

    tiers: frozenset[str] = frozenset({PRODUCTION})
    """Service tiers that go first in part; None, an unknown tier, is one of them."""
    share: float = 0.1
    watch_hours: float = 1.0
    """Least time between the canary and the verdict."""
    patience_hours: float = 6.0
    """Without enough health figures after this time it is rolled back: silence is no proof of health."""
    max_p99_ratio: float = 1.2
    max_p99_ms: float | None = None
    """The workload's own limit, where it has one."""
    max_error_rate_rise: float = 0.005
    min_samples: int = 30


@dataclass(frozen=True)
class Health:
    """What monitoring saw of a workload in a span of time."""

    p99_ms: float
    error_rate: float
    samples: int


@dataclass(frozen=True)
class Verdict:
    """What to do about the rest, and why."""

    word: Word
    why: str


def has_canary(service_tier: str | None, rules: CanaryRules) -> bool:
    """Whether work of a tier goes first in part; work of unknown tier may be production."""
    return service_tier is None or service_tier in rules.tiers


def split(
    placements: Sequence[Mapping[str, Any]], rules: CanaryRules
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The groups that go first (the earliest, at least one) and the others."""
    ordered = sorted(placements, key=lambda p: (p["requested_start"], p["job_id"]))
    first = min(len(ordered), max(1, math.ceil(rules.share * len(ordered))))
    return ordered[:first], ordered[first:]


def verdict(
    before: Health | None,
    after: Health | None,
    applied_at: datetime,
    now: datetime,
    rules: CanaryRules,
    approved_ms: float = 0.0,
) -> Verdict:
    """What the health of a canary, ``applied_at`` until ``now``, says against the health before it.

    ``approved_ms``: latency that the approved change was said to add; it is no fault of the canary.
    """
    hours = (now - applied_at).total_seconds() / 3600
    enough = [h is not None and _sound(h) and h.samples >= rules.min_samples for h in (before, after)]
    if after is not None and enough[1]:
        if rules.max_p99_ms is not None and after.p99_ms > rules.max_p99_ms:
            return Verdict("roll_back", f"p99_latency: {after.p99_ms:g} ms, the limit is {rules.max_p99_ms:g} ms")
        if before is not None and enough[0]:
            return _compared(before, after, hours, rules, max(approved_ms, 0.0))
    if hours >= rules.patience_hours:
        return Verdict("roll_back", f"health_unknown: no sufficient figures after {hours:g} h")
    return Verdict("wait", f"health figures are missing or too few after {hours:g} h")


def _sound(health: Health) -> bool:
    return math.isfinite(health.p99_ms) and math.isfinite(health.error_rate)


def _compared(before: Health, after: Health, hours: float, rules: CanaryRules, approved_ms: float) -> Verdict:
    most = (before.p99_ms + approved_ms) * rules.max_p99_ratio
    if after.p99_ms > most:
        approved = f" and {approved_ms:g} ms approved" if approved_ms else ""
        return Verdict("roll_back", f"p99_latency: {after.p99_ms:g} ms after {before.p99_ms:g} ms{approved}")
    rise = after.error_rate - before.error_rate
    if rise > rules.max_error_rate_rise:
        return Verdict("roll_back", f"error_rate: {after.error_rate:g} after {before.error_rate:g}")
    if hours < rules.watch_hours:
        return Verdict("wait", f"watched for {hours:g} h of {rules.watch_hours:g} h")
    return Verdict("proceed", f"p99 {after.p99_ms:g} ms after {before.p99_ms:g} ms, errors {after.error_rate:g}")

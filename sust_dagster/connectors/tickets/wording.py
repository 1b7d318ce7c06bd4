"""What people read about one change, in tickets and in messages: the same words everywhere.

Belongs here: the title, the sentence with the figures, the lines below it, and the fingerprint by which a later look
tells whether somebody edited them. Does not belong here: how any one place marks up text (``jira``, ``linear``,
``chat``). A figure that was not estimated is said to be so, never shown as nought.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sust_dagster.connectors.targets import Order


@dataclass(frozen=True)
class Words:
    """Plain text; who writes it somewhere escapes it as that place needs."""

    title: str
    headline: str
    """One sentence: carbon with its range, cost, risk. Written in bold."""
    lines: tuple[tuple[str, str], ...]
    """Label and text."""
    command: str
    """How to approve."""
    why: str

    @classmethod
    def of(cls, order: Order) -> Words:
        facts = order.facts
        headline = f"{order.workload_id}: {_carbon(facts)}, {_cost(facts)}, {_risk(facts)}."
        risk = facts.get("risk_level")
        who = facts.get("may_approve") or f"whom the policy names for {risk or 'unknown'} risk in team {order.team_id}"
        lines = (
            ("Change", change_of(order)),
            ("For", f"{order.planned_for:%Y-%m-%d} (UTC), {order.action_type}"),
            ("May approve", str(who)),
            ("Plan", order.plan_hash[:12]),
            ("Intent", order.intent_id),
        )
        title = f"{order.workload_id}: {change_of(order)}"
        return cls(
            title if len(title) <= 150 else title[:149] + "…", headline, lines,
            f"sust approve {order.recommendation_id}", str(facts.get("rationale_text") or ""),
        )  # fmt: skip


def change_of(order: Order) -> str:
    """The change in a few words."""
    proposed, places = order.proposed, order.proposed["placements"]
    delays = sorted({float(p["delay_hours"]) for p in places})
    words: list[str] = []
    if delays[-1] > 0:
        span = f"{delays[0]:g}" if len(delays) == 1 else f"{delays[0]:g} to {delays[-1]:g}"
        words.append(f"start {span} h later")
    regions = sorted({str(p["region"]) for p in places})
    if regions != sorted(order.current.get("regions") or regions):
        words.append(f"run in {', '.join(regions)}")
    if str(proposed.get("vcpus_scale", "1")) != "1":
        words.append(f"vCPUs × {proposed['vcpus_scale']}")
    if proposed.get("spot") and not order.current.get("spot"):
        words.append("on spot")
    return ", ".join(words) or "no change"


def fingerprint(*texts: str) -> str:
    """Of the words alone: spaces, list marks, emphasis and brackets, which places rewrite, do not count."""
    words = " ".join("".join(c for c in text if c not in "*_`•\\<>") for text in texts).split()
    return hashlib.sha256(" ".join(w for w in words if w != "-").encode()).hexdigest()[:16]


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    value = facts.get(name)
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _amount(value: float, digits: int = 3) -> str:
    """As people write it: three digits that count, no exponent."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}".replace("-", "−")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _amount(value)


def _carbon(facts: Mapping[str, Any]) -> str:
    kg, low, high = (_number(facts, "est_carbon_delta_kg" + end) for end in ("", "_lower", "_upper"))
    if kg is None:
        return "carbon not estimated"
    span = "range not estimated" if low is None or high is None else f"likely {_signed(low)} to {_signed(high)}"
    return f"{_signed(kg)} kg CO₂e ({span})"


def _cost(facts: Mapping[str, Any]) -> str:
    usd = _number(facts, "est_cost_delta_usd")
    if usd is None:
        return "cost not estimated"
    return f"cost {'+' if usd > 0 else '−' if usd < 0 else ''}{abs(usd):,.2f} USD"


def _risk(facts: Mapping[str, Any]) -> str:
    return f"risk {facts['risk_level']}" if facts.get("risk_level") else "risk not assessed"

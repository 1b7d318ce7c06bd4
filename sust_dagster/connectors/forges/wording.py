"""What a pull request says: its title, its body, the message of its commit.

Belongs here: texts from an order, its figures and the edits, in a fixed order: the number with its range, the table,
why, plan and rollback, receipt. Does not belong here: where they are sent.

A figure that nobody estimated is said to be so, never shown as 0. Names that came from elsewhere are made harmless:
they can neither close a comment, nor open a tag, nor call anybody.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sust_dagster.connectors.forges.changes import Changes
from sust_dagster.connectors.forges.git_repo import INTENT_TRAILER
from sust_dagster.connectors.targets import Order
from sust_dagster.world.canonical import content_hash

WITHDRAWN = "<!-- sust:withdrawn -->"
PROPOSE_AGAIN = "sust-propose-again"

_MOST_ROWS = 50
_MOST_TEXT = 2000
_MOST_BODY = 60_000
_DASH, _MINUS = "–", "−"


def marker(intent_id: str) -> str:
    """The mark by which a pull request of an intent is found again."""
    return f"<!-- sust:pr:v1 intent={intent_id} -->"


def title_of(order: Order) -> str:
    """What changes, in one line."""
    return f"{plain(order.workload_id)}: {_what(order)}"


def message_of(order: Order) -> str:
    """Commit message with the intent as a trailer."""
    reason = plain(str(order.facts.get("rationale_text") or ""))
    why = f"{reason}\n\n" if reason else ""
    return (
        f"{title_of(order)}\n\n{why}Recommendation: {order.recommendation_id}\nPlan: sha256:{order.plan_hash}\n\n"
        f"{INTENT_TRAILER}: {order.intent_id}\n"
    )


def body_of(order: Order, changes: Changes, terraform: str | None) -> str:
    """The body of the pull request."""
    facts = order.facts
    rows = [
        f"| `{_code(e.file)}` line {e.line} | `{_code(e.old) or '(none)'}` | `{_code(e.new)}` |"
        for e in changes.edits[:_MOST_ROWS]
    ]
    if len(changes.edits) > _MOST_ROWS:
        rows.append(f"| and {len(changes.edits) - _MOST_ROWS} more | | |")
    rationale = _cut(plain(str(facts.get("rationale_text") or "No explanation was given.")))
    if terraform is None and changes.terraform:
        terraform = "terraform: not planned here; read the plan of your own pipeline before merging"
    plan = terraform or f"{len(changes.edits)} value(s) in {len(changes.files())} file(s); nothing else changes"
    parts = [
        marker(order.intent_id),
        f"**{_sentence(order)}**",
        "\n".join(["| Where | Now | After |", "|---|---|---|", *rows]),
        f"**Why** {rationale}",
        f"**Plan** {plain(plan)}. **Rollback** revert this pull request.",
    ]
    if changes.stale:
        looks = "\n".join(f"- {plain(s)}" for s in changes.stale[:_MOST_ROWS])
        parts.append(f"**Comments to look at** (left as they are; they may no longer be true)\n\n{looks}")
    parts += [_receipt(order), _CONTROLS]
    body = "\n\n".join(parts)
    return body if len(body) <= _MOST_BODY else f"{body[:_MOST_BODY]}\n\n(cut)"


_CONTROLS = (
    "Close this pull request and the change is not proposed again for this workload "
    f"(the label `{PROPOSE_AGAIN}` on it takes that back). Commit to its branch and it is left to you."
)


def withdrawn(body: str) -> str:
    """The body of a pull request that we took back: its closing is nobody's rejection."""
    return body if WITHDRAWN in body else f"{body}\n\n{WITHDRAWN}\n\nTaken back by the control loop, not by a person."


def _sentence(order: Order) -> str:
    facts = order.facts
    carbon = _number(facts, "est_carbon_delta_kg")
    day = order.planned_for.date().isoformat()
    if carbon is None:
        text = f"Carbon not estimated, for {day}"
    else:
        low, high = _number(facts, "est_carbon_delta_kg_lower"), _number(facts, "est_carbon_delta_kg_upper")
        before = _number(facts, "kg_before")
        share = f"{_signed(100 * carbon / before, 0)} %, " if before else ""
        known = low is not None and high is not None
        likely = f"likely {_signed(low)} to {_signed(high)}" if known else "range unknown"
        text = f"{_signed(carbon)} kgCO₂e for {day} ({share}{likely})"
    cost = _number(facts, "est_cost_delta_usd")
    money = "cost not estimated" if cost is None else f"cost {_signed(cost, 2)} USD"
    return f"{text} · {money} · risk: {plain(str(facts.get('risk_level') or 'unknown'))}"


def _receipt(order: Order) -> str:
    facts = {k: v for k, v in sorted(order.facts.items()) if k != "rationale_text" and _tellable(v)}
    lines = [
        f"- recommendation `{_code(order.recommendation_id)}`, plan `sha256:{_code(order.plan_hash)}`",
        f"- approved change `{content_hash(dict(order.proposed))}`",
        f"- team {plain(order.team_id)}, tier {plain(order.service_tier or 'unknown')}",
        f"- planned for {order.planned_for.isoformat()}",
        *(f"- {plain(str(k))}: {plain(str(v))}" for k, v in list(facts.items())[:_MOST_ROWS]),
    ]
    return "<details><summary>Receipt</summary>\n\n" + "\n".join(_cut(line) for line in lines) + "\n\n</details>"


def _what(order: Order) -> str:
    groups: Sequence[Mapping[str, Any]] = order.proposed.get("placements") or [{}]
    delay = f"{float(groups[0].get('delay_hours') or 0):g} h later"
    region = plain(str(groups[0].get("region", "")))
    if order.action_type == "time_shift":
        return f"start {delay}"
    if order.action_type == "region_shift":
        home = ", ".join(order.current.get("regions") or ["elsewhere"])
        later = f", {delay}" if float(groups[0].get("delay_hours") or 0) else ""
        return f"run in {region} instead of {plain(home)}{later}"
    if order.action_type == "right_size":
        return f"{float(order.proposed.get('vcpus_scale') or 1):.0%} of the vCPUs"
    return "run on spot capacity"


def plain(text: str) -> str:
    """Text on one line that markdown shows as it is and that addresses nobody."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]|])", r"\\\1", line) if re.search(r"[`\[\]|]", line) else line
    return re.sub(r"@(?=\w)", "@\u200b", line)


def _code(text: str) -> str:
    """Text for between backticks in a table."""
    return " ".join(text.split()).replace("`", "'").replace("|", "¦")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} (cut)"


def _tellable(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _signed(value: float, digits: int | None = None) -> str:
    """With its sign; three significant digits unless told otherwise."""
    size = abs(value)
    form = f",.{digits}f" if digits is not None else ",.3g" if size < 1000 else ",.0f"
    text = format(size, form)
    if not re.search(r"[1-9]", text):
        return text
    return f"{_MINUS if value < 0 else '+'}{text}"

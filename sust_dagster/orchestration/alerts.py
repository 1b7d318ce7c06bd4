"""Alerts in the books: raised once, acknowledged by a person in a later event.

Belongs here: writing those two events. Does not belong here: what deserves an alert.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sust_dagster.world.access import AgentTransaction
from sust_dagster.world.decisions import is_human
from sust_dagster.world.ids import uuid5
from sust_dagster.world.schemas import Agent

RAISED, ACKNOWLEDGED = 0, 1


def raise_alert(
    transaction: AgentTransaction, agent: Agent, kind: str, subject: str, text: str, *, actor: str | None, now: datetime
) -> str:
    """Raise an alert of an agent, once for a kind and a subject; returns its id."""
    alert_id = uuid5("alert", agent, kind, subject)
    if not transaction.read_books("alerts", {"alert_id": alert_id}).num_rows:
        row = {"alert_id": alert_id, "sequence": RAISED, "event": "raised", "kind": kind, "subject": subject}
        transaction.append(
            "alerts", [row | {"text": text, "agent": agent, "actor": actor or agent, "occurred_at": now}]
        )
    return alert_id


def acknowledge(
    transaction: AgentTransaction, agent: Agent, alert_id: str, *, actor: str, text: str, now: datetime
) -> bool:
    """Note that a person has seen an alert; whether this call is the one that noted it. The alert itself stays.

    Raises ``ValueError`` for an unknown alert or an actor that is no person.
    """
    if not is_human(actor):
        raise ValueError(f"'{actor}' is an agent; an alert is acknowledged by a person")
    events: list[dict[str, Any]] = transaction.read_books("alerts", {"alert_id": alert_id}).to_pylist()
    if not events:
        raise ValueError(f"there is no alert {alert_id}; `sust alerts` lists them")
    if len(events) > 1:
        return False
    row = {k: events[0][k] for k in ("alert_id", "kind", "subject")}
    row |= {"sequence": ACKNOWLEDGED, "event": "acknowledged", "agent": agent, "actor": actor}
    transaction.append("alerts", [row | {"text": text, "occurred_at": now}])
    return True

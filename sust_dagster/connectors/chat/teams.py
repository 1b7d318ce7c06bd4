"""Teams: a card per approved change, through a channel's workflow webhook. At least once, not exactly once.

Belongs here: the card. Does not belong here: the words (``connectors.tickets.wording``), calls (``http``).

A webhook takes messages and gives nothing back: no id, no search, no edit. So when an answer is lost nobody can tell
whether the card is there. This target then posts it again. What that means, call by call:

* ``find`` is always None. It means "cannot be told", not "it is not there".
* ``apply`` posts a card each time it is called. Every card carries the intent, and says that two cards with the same
  intent are one change.
* ``read_back`` cannot look and so finds no difference; ``Applied.detail`` says ``verifiable: False``.
* ``rollback`` posts a card that withdraws the intent, each time it is called and whether or not a first card was
  posted, for that is not known either. It never refuses ``changed_since``: cards cannot be edited by others.

Where exactly one message matters, use Slack, Jira or Linear. The webhook's address is the credential.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sust_dagster.connectors.http import Api, Secret
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused
from sust_dagster.connectors.tickets.wording import Words

#: What Teams takes at most.
MAX_CARD_BYTES = 28 * 1024


@dataclass(frozen=True)
class TeamsTarget:
    """One channel's workflow webhook."""

    webhook: Secret = field(default_factory=lambda: Secret("SUST_TEAMS_WEBHOOK"))
    name: str = "teams"

    def preview(self, order: Order) -> Preview:
        """The card. Asks nothing outside: a webhook answers no questions."""
        words = Words.of(order)
        facts = [{"title": label, "value": _escaped(text)} for label, text in words.lines]
        body: list[dict[str, Any]] = [
            _text(_escaped(words.headline), weight="Bolder"),
            {"type": "FactSet", "facts": facts},
        ]
        if words.why:
            body.append(_text(_escaped(words.why)))
        body += [_text("Approve with:"), _text(words.command, fontType="Monospace"),
                 _text("If this card comes twice with the same intent, it is one change.", isSubtle=True)]  # fmt: skip
        change = _card(body)
        size = len(json.dumps(change, ensure_ascii=False).encode())
        if size > MAX_CARD_BYTES:
            raise TargetRefused(
                "too_large", f"the card has {size} bytes, Teams takes {MAX_CARD_BYTES}; shorten the rationale"
            )
        text = f"POST (the webhook)\n{json.dumps(change, indent=2, ensure_ascii=False)}"
        return Preview(self.name, text, change, {})

    def find(self, order: Order, preview: Preview) -> Applied | None:  # noqa: ARG002 - see above
        """Always None: cannot be told."""
        return None

    def apply(self, order: Order, preview: Preview) -> Applied:
        self._post(preview.change)
        return Applied(f"teams: card with intent {order.intent_id}", {"verifiable": False, "delivery": "at least once"})

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:  # noqa: ARG002
        """Always empty: cannot be looked at."""
        return ()

    def rollback(self, order: Order, preview: Preview) -> None:  # noqa: ARG002
        body = [
            _text(f"Withdrawn: {_escaped(order.workload_id)}. Nothing is to be done.", weight="Bolder"),
            {"type": "FactSet", "facts": [{"title": "Intent", "value": order.intent_id}]},
            _text("If there was no card with this intent before, there is nothing to withdraw.", isSubtle=True),
        ]
        self._post(_card(body))

    def _post(self, card: Mapping[str, Any]) -> None:
        url = self.webhook.read()
        try:
            api = Api("Teams", url, url_is_secret=True)
        except ValueError:
            api = None
        if api is None:  # outside the handler: the address is a secret
            raise TargetRefused(
                "no_credentials", f"{self.webhook.variable} is no https address; copy it from the workflow"
            )
        api.call("POST", body=card, reasons={404: "unknown_webhook", 410: "unknown_webhook"})


def _card(body: list[dict[str, Any]]) -> dict[str, Any]:
    card = {"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
            "body": body}  # fmt: skip
    kind = "application/vnd.microsoft.card.adaptive"
    return {"type": "message", "attachments": [{"contentType": kind, "contentUrl": None, "content": card}]}


def _text(text: str, **style: Any) -> dict[str, Any]:
    return {"type": "TextBlock", "text": text, "wrap": True, **style}


def _escaped(text: str) -> str:
    """Cards read a little markdown."""
    for mark in "\\*_[]":
        text = text.replace(mark, f"\\{mark}")
    return text

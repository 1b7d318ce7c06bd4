"""Slack: one message per approved change, found again by its metadata.

Belongs here: the message's blocks, its marker, and how it is withdrawn. Does not belong here: the words
(``connectors.tickets.wording``), calls (``http``), who is told about what.

A message carries metadata of the event ``sust_change`` with the intent and the fingerprint of what we wrote; people do
not see it and cannot change it. ``find`` reads the channel's history since the preview, which noted the newest
message it saw, so an old channel is not read through. The app needs ``chat:write`` and ``channels:history`` (or
``groups:history``) and must be in the channel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sust_dagster.connectors.http import Answer, Api, Secret, bearer
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable
from sust_dagster.connectors.tickets.wording import Words, fingerprint

EVENT = "sust_change"
_PAGE, _PAGES = 200, 50
_SECTION = 3000

_TRY_LATER = frozenset({"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable",
                        "request_timeout", "team_added_to_org"})  # fmt: skip
_REFUSALS = {
    **dict.fromkeys(("invalid_auth", "not_authed", "token_revoked", "token_expired", "account_inactive"),
                    "unauthorized"),
    **dict.fromkeys(("missing_scope", "no_permission", "restricted_action", "ekm_access_denied", "not_in_channel",
                     "cant_update_message", "edit_window_closed", "access_denied"), "forbidden"),
    "channel_not_found": "unknown_channel", "is_archived": "unknown_channel", "msg_too_long": "too_large",
    "message_not_found": "gone",
}  # fmt: skip


@dataclass(frozen=True)
class SlackTarget:
    """Messages in one channel, by its id (``C…``, ``G…``): the history has no names."""

    channel: str
    base_url: str = "https://slack.com"
    token: Secret = field(default_factory=lambda: Secret("SUST_SLACK_TOKEN"))
    look_back_pages: int = 5
    """How far ``preview`` looks for a message an earlier preview of the same intent led to, 200 messages a page."""
    name: str = "slack"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[CGD][A-Z0-9]{5,}", self.channel):
            raise ValueError(f"Slack: {self.channel!r} is no channel id; copy it from the channel's details")

    # The protocol

    def preview(self, order: Order) -> Preview:
        newest, earlier = "0", None
        for at, message in enumerate(self._history("0", self.look_back_pages, strict=False)):
            newest = message["ts"] if at == 0 else newest
            earlier = message["ts"] if _payload(message).get("intent") == order.intent_id else earlier
        words = Words.of(order)
        change = self._message(order, words.headline, _blocks(words), "posted")
        text = f"chat.postMessage\n{json.dumps(change, indent=2, ensure_ascii=False)}"
        return Preview(self.name, text, change, {"since": earlier or newest})

    def find(self, order: Order, preview: Preview) -> Applied | None:
        message = self._posted(order, preview)
        return None if message is None or _is_withdrawn(message) else self._applied(message["ts"])

    def apply(self, order: Order, preview: Preview) -> Applied:
        message = self._posted(order, preview)
        if message is None:
            return self._applied(self._call("chat.postMessage", preview.change)["ts"])
        if _is_withdrawn(message):
            raise TargetRefused("withdrawn", f"message {message['ts']} was withdrawn; a new approval makes a new one")
        if _content(message) != _content(preview.change):
            self._check_ours(message)
            self._call("chat.update", {**preview.change, "ts": message["ts"]})
        return self._applied(message["ts"])

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        message = self._posted(order, preview)
        if message is None:
            return (f"{applied.ref} is gone",)
        if _is_withdrawn(message):
            return (f"{applied.ref} was withdrawn",)
        return () if _content(message) == _content(preview.change) else (f"{applied.ref} was edited",)

    def rollback(self, order: Order, preview: Preview) -> None:
        message = self._posted(order, preview)
        if message is None or _is_withdrawn(message):
            return
        self._check_ours(message)
        text = f"Withdrawn: {order.workload_id}, intent {order.intent_id}. Nothing is to be done."
        blocks = [_section(f"*Withdrawn*: {_escaped(order.workload_id)}. Nothing is to be done."),
                  _section(f"Intent: {order.intent_id}")]  # fmt: skip
        self._call("chat.update", {**self._message(order, text, blocks, "withdrawn"), "ts": message["ts"]})

    # Reading and writing

    def _message(self, order: Order, text: str, blocks: list[dict[str, Any]], state: str) -> dict[str, Any]:
        payload = {"intent": order.intent_id, "plan": order.plan_hash, "state": state,
                   "content": _content({"blocks": blocks})}  # fmt: skip
        return {"channel": self.channel, "text": _escaped(text), "blocks": blocks, "unfurl_links": False,
                "metadata": {"event_type": EVENT, "event_payload": payload}}  # fmt: skip

    def _posted(self, order: Order, preview: Preview) -> dict[str, Any] | None:
        found = [m for m in self._history(preview.before["since"], _PAGES)
                 if _payload(m).get("intent") == order.intent_id]  # fmt: skip
        return min(found, key=lambda m: float(m["ts"])) if found else None

    def _history(self, since: str, pages: int, *, strict: bool = True) -> Iterator[dict[str, Any]]:
        """Messages since ``since``, newest first. Strict: refuses to stop before the end."""
        params = {"channel": self.channel, "oldest": since, "inclusive": "true", "limit": str(_PAGE),
                  "include_all_metadata": "true"}  # fmt: skip
        for _ in range(pages):
            body = self._call("conversations.history", params, method="GET")
            yield from body.get("messages") or ()
            cursor = (body.get("response_metadata") or {}).get("next_cursor")
            if not cursor:
                return
            params["cursor"] = cursor
        if strict:
            raise TargetRefused(
                "history_too_long", f"more than {pages * _PAGE} messages since the preview; look for the intent by hand"
            )

    def _check_ours(self, message: Mapping[str, Any]) -> None:
        if _content(message) != _payload(message).get("content"):
            raise TargetRefused("changed_since", f"message {message['ts']} was edited by somebody; delete it there")

    def _call(self, what: str, sent: Mapping[str, Any], method: str = "POST") -> dict[str, Any]:
        api = Api("Slack", self.base_url.rstrip("/"), bearer(self.token))
        answer = (
            api.call("GET", f"/api/{what}", params=sent)
            if method == "GET"
            else api.call("POST", f"/api/{what}", body=sent, content_type="application/json; charset=utf-8")
        )
        if not isinstance(answer.body, dict):
            raise TargetUnavailable(f"Slack: {what}: an answer that is not Slack's")
        if answer.body.get("ok") is not True:
            self._fail(what, answer)
        return answer.body

    def _fail(self, what: str, answer: Answer) -> None:
        error = str(answer.body.get("error") or "no reason given")
        text = f"Slack: {what}: {error}"
        if answer.body.get("needed"):
            text += f"; give the app the scope {answer.body['needed']}"
        elif error == "not_in_channel":
            text += "; invite the app to the channel"
        text = Api.clean(text, (self.token.read(),))
        if error in _TRY_LATER:
            raise TargetUnavailable(text, retry_after_seconds=answer.retry_after())
        raise TargetRefused(_REFUSALS.get(error, "invalid"), text)

    def _applied(self, ts: str) -> Applied:
        return Applied(f"slack:{self.channel}/{ts}", {"channel": self.channel, "ts": ts})


def _payload(message: Mapping[str, Any]) -> Mapping[str, Any]:
    said = message.get("metadata") or {}
    return (said.get("event_payload") or {}) if said.get("event_type") == EVENT else {}


def _is_withdrawn(message: Mapping[str, Any]) -> bool:
    return _payload(message).get("state") == "withdrawn"


def _content(message: Mapping[str, Any]) -> str:
    """Of the words in the blocks; Slack adds ids to blocks and links to words."""
    return fingerprint(*(str((b.get("text") or {}).get("text", "")) for b in message.get("blocks") or ()))


def _blocks(words: Words) -> list[dict[str, Any]]:
    lines = "\n".join(f"• {label}: {_escaped(text)}" for label, text in words.lines)
    blocks = [_section(f"*{_escaped(words.headline)}*"), _section(lines)]
    if words.why:
        blocks.append(_section(_escaped(words.why)))
    return [*blocks, _section(f"Approve with `{words.command}`")]


def _section(text: str) -> dict[str, Any]:
    cut = text if len(text) <= _SECTION else text[: _SECTION - 1] + "…"
    return {"type": "section", "text": {"type": "mrkdwn", "text": cut}}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

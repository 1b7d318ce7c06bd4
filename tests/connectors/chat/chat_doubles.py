"""Slack's three methods (errors are ``ok: false`` with status 200) and a Teams workflow (202, nothing else)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from target_doubles import Call, Double, Reply


def no(error: str, **more: Any) -> Reply:
    return 200, {"ok": False, "error": error, **more}, {}


@dataclass
class Slack(Double):
    token: str = "xoxb-slack-31c"
    channel: str = "C0123456"
    messages: list[dict[str, Any]] = field(default_factory=list)
    page: int = 2
    clock: int = 1_767_780_000

    def state(self) -> Any:
        return self.messages

    def is_write(self, call: Call) -> bool:
        return "chat." in call.path

    def chatter(self, count: int) -> None:
        for n in range(count):
            self._add({"text": f"hello {n}", "user": "U1"})

    def _add(self, message: dict[str, Any]) -> dict[str, Any]:
        self.clock += 1
        self.messages.append({"type": "message", "ts": f"{self.clock}.000{self.clock % 7}00", **message})
        return self.messages[-1]

    def answer(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return no("invalid_auth")
        given = call.query if call.method == "GET" else call.body
        if given.get("channel") != self.channel:
            return no("channel_not_found")
        if call.method == "POST" and (fault := self._fault(given)):
            return fault
        match call.path:
            case "/api/conversations.history":
                return self._history(given)
            case "/api/chat.postMessage":
                made = self._add(self._stored(given))
                return 200, {"ok": True, "channel": self.channel, "ts": made["ts"]}, {}
            case "/api/chat.update":
                found = next((m for m in self.messages if m["ts"] == given["ts"]), None)
                if found is None:
                    return no("message_not_found")
                found.update(self._stored(given))
                return 200, {"ok": True, "channel": self.channel, "ts": found["ts"]}, {}
        return no("unknown_method")

    def _fault(self, given: dict[str, Any]) -> Reply | None:
        texts = [b["text"]["text"] for b in given["blocks"]]
        if len(given["blocks"]) > 50 or any(
            b["type"] == "section" and not 1 <= len(b["text"]["text"]) <= 3000 for b in given["blocks"]
        ):
            return no("invalid_blocks")
        return no("invalid_metadata_format") if not given["metadata"]["event_payload"] or not texts else None

    def _stored(self, given: dict[str, Any]) -> dict[str, Any]:
        blocks = [b | {"block_id": f"b{n}"} for n, b in enumerate(given["blocks"])]
        return {"bot_id": "B1", "text": given["text"], "blocks": blocks, "metadata": given["metadata"]}

    def _history(self, given: dict[str, Any]) -> Reply:
        newest = [m for m in reversed(self.messages) if float(m["ts"]) >= float(given.get("oldest") or 0)]
        start = int(given.get("cursor") or 0)
        size = min(self.page, int(given["limit"]))
        shown = [m if given.get("include_all_metadata") == "true" else {k: v for k, v in m.items() if k != "metadata"}
                 for m in newest[start : start + size]]  # fmt: skip
        cursor = str(start + size) if start + size < len(newest) else ""
        return (
            200,
            {"ok": True, "messages": shown, "has_more": bool(cursor), "response_metadata": {"next_cursor": cursor}},
            {},
        )


@dataclass
class Teams(Double):
    path: str = "/workflows/triggers/manual/paths/invoke?sig=teams-signature-9d"
    cards: list[dict[str, Any]] = field(default_factory=list)

    def state(self) -> Any:
        return self.cards

    def answer(self, call: Call) -> Reply:
        if call.query.get("sig") != "teams-signature-9d":
            return 404, {"error": {"code": "WorkflowNotFound", "message": "The workflow could not be found."}}, {}
        (attachment,) = call.body["attachments"]
        if (
            attachment["contentType"] != "application/vnd.microsoft.card.adaptive"
            or attachment["content"]["type"] != "AdaptiveCard"
        ):
            return 400, {"error": {"message": "no card"}}, {}
        self.cards.append(attachment["content"])
        return 202, None, {}

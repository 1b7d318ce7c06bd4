"""Linear: one issue per approved change, under an id we choose.

Belongs here: the issue's fields and how it is withdrawn. Does not belong here: the words (``wording``), calls
(``http``).

Linear takes the id of a new issue from its maker, and takes each id once: that makes the creation exactly-once,
whatever answers are lost. It wants ids of version 4, intents have version 5; so the id is derived from the intent,
and the intent itself stands in the text. A comment with a derived id marks an issue as withdrawn.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from sust_dagster.connectors.http import Answer, Api, Secret, message_of
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable
from sust_dagster.connectors.tickets.wording import Words, fingerprint

_ISSUE = """query($id: ID!) { issues(filter: {id: {eq: $id}}, includeArchived: true) { nodes {
  id identifier url title description archivedAt state { type } labels { nodes { id } } } } }"""
_COMMENT = "query($id: ID!) { comments(filter: {id: {eq: $id}}, includeArchived: true) { nodes { id } } }"
_TEAM = "query($id: String!) { team(id: $id) { id name } }"
_CANCELED = """query($team: ID!) { workflowStates(filter: {team: {id: {eq: $team}}, type: {eq: "canceled"}}) {
  nodes { id position } } }"""
_CREATE = """mutation($input: IssueCreateInput!) { issueCreate(input: $input) { success issue {
  id identifier url } } }"""
_UPDATE = "mutation($id: String!, $input: IssueUpdateInput!) { issueUpdate(id: $id, input: $input) { success } }"
_ADD_COMMENT = "mutation($input: CommentCreateInput!) { commentCreate(input: $input) { success } }"

_STAMP = re.compile(r"^\W*sust-content \W*([0-9a-f]{16})\W*$", re.MULTILINE)
_REFUSALS = {"authentication_error": "unauthorized", "authentication error": "unauthorized", "forbidden": "forbidden",
             "feature_not_accessible": "forbidden"}  # fmt: skip
_TRY_LATER = ("ratelimited", "internal", "lock timeout", "lock_timeout", "network", "bootstrap", "unknown")


@dataclass(frozen=True)
class LinearTarget:
    """Issues of one team. ``withdrawn_state_id``: the state of withdrawn ones; else the first of kind canceled."""

    team_id: str
    label_ids: tuple[str, ...] = ()
    withdrawn_state_id: str | None = None
    base_url: str = "https://api.linear.app"
    key: Secret = field(default_factory=lambda: Secret("SUST_LINEAR_KEY"))
    name: str = "linear"

    def _credentials(self) -> tuple[Mapping[str, str], Collection[str]]:
        key = self.key.read()
        return {"Authorization": key if key.startswith("lin_api_") else f"Bearer {key}"}, (key,)

    # The protocol

    def preview(self, order: Order) -> Preview:
        """The request that makes the issue. Asks Linear whether the team is there."""
        self._ask(_TEAM, {"id": self.team_id})
        words = Words.of(order)
        body = _markdown(words)
        stamped = f"{body}\n\nsust-content {fingerprint(words.title, body)}"
        change: dict[str, Any] = {
            "id": _id(order.intent_id), "teamId": self.team_id, "title": words.title, "description": stamped,
        }  # fmt: skip
        if self.label_ids:
            change["labelIds"] = list(self.label_ids)
        text = f"issueCreate\n{json.dumps(change, indent=2, ensure_ascii=False)}"
        return Preview(self.name, text, change, {})

    def find(self, order: Order, preview: Preview) -> Applied | None:  # noqa: ARG002
        issue = self._issue(order)
        return None if issue is None or self._withdrawn(order) else _applied(issue)

    def apply(self, order: Order, preview: Preview) -> Applied:
        issue = self._issue(order)
        if issue is None:
            try:
                return _applied(self._ask(_CREATE, {"input": dict(preview.change)})["issueCreate"]["issue"])
            except TargetRefused as refused:
                # Another worker, or a call of ours believed lost, may have been first with the id.
                issue = self._issue(order) if refused.reason == "invalid" else None
                if issue is None:
                    raise
        if self._withdrawn(order):
            raise TargetRefused("withdrawn", f"{issue['identifier']} was withdrawn; a new approval makes a new issue")
        if _content(issue) != _content(preview.change):
            _check_ours(issue)
            fields = {k: preview.change[k] for k in ("title", "description")}
            self._ask(_UPDATE, {"id": issue["id"], "input": fields})
        return _applied(issue)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        issue = self._issue(order)
        if issue is None:
            return (f"{applied.ref} is gone",)
        wrong: list[str] = []
        if issue["title"] != preview.change["title"]:
            wrong.append(f"title is {issue['title']!r}, not {preview.change['title']!r}")
        if fingerprint(issue["description"] or "") != fingerprint(preview.change["description"]):
            wrong.append("description was edited")
        there = {node["id"] for node in issue["labels"]["nodes"]}
        wrong += [f"label {label} is missing" for label in preview.change.get("labelIds", ()) if label not in there]
        if issue["archivedAt"]:
            wrong.append(f"{issue['identifier']} was archived")
        if self._withdrawn(order):
            wrong.append(f"{issue['identifier']} was withdrawn")
        return tuple(wrong)

    def rollback(self, order: Order, preview: Preview) -> None:  # noqa: ARG002 - what we wrote last is in the issue
        issue = self._issue(order)
        if issue is None or self._withdrawn(order):
            return
        _check_ours(issue)
        if issue["state"]["type"] != "canceled":
            self._ask(_UPDATE, {"id": issue["id"], "input": {"stateId": self._canceled()}})
        self._ask(_ADD_COMMENT, {"input": {"id": _id(f"{order.intent_id} withdrawn"), "issueId": issue["id"],
                                           "body": "This change was withdrawn; nothing is to be done."}})  # fmt: skip

    # Reading and writing

    def _issue(self, order: Order) -> dict[str, Any] | None:
        nodes = self._ask(_ISSUE, {"id": _id(order.intent_id)})["issues"]["nodes"]
        return nodes[0] if nodes else None

    def _withdrawn(self, order: Order) -> bool:
        return bool(self._ask(_COMMENT, {"id": _id(f"{order.intent_id} withdrawn")})["comments"]["nodes"])

    def _canceled(self) -> str:
        if self.withdrawn_state_id is not None:
            return self.withdrawn_state_id
        nodes = self._ask(_CANCELED, {"team": self.team_id})["workflowStates"]["nodes"]
        if not nodes:
            raise TargetRefused("no_transition", "the team has no state of kind canceled; set withdrawn_state_id")
        return min(nodes, key=lambda n: n["position"])["id"]

    def _ask(self, query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        api = Api("Linear", self.base_url.rstrip("/"), self._credentials)
        answer = api.call("POST", "/graphql", body={"query": query, "variables": variables}, allow=(400,))
        errors = (answer.body or {}).get("errors")
        data = (answer.body or {}).get("data")
        if errors or answer.status != 200:
            self._fail(query, answer, errors or [])
        if not isinstance(data, dict):
            raise TargetUnavailable(f"Linear: {_name(query)}: an answer without data")
        refused = [k for k, v in data.items() if isinstance(v, dict) and v.get("success") is False]
        if refused:
            raise TargetRefused("refused", f"Linear: {refused[0]} was not done")
        return data

    def _fail(self, query: str, answer: Answer, errors: list[dict[str, Any]]) -> None:
        """Linear answers errors with 200 or 400 and says the kind in ``extensions``."""
        extensions = [e.get("extensions") or {} for e in errors]
        kinds = [str(e.get(k, "")).lower() for e in extensions for k in ("code", "type")]
        said = [str(e.get("userPresentableMessage") or "") for e in extensions] + [message_of(answer.body)]
        text = f"Linear: {_name(query)}: {Api.clean('; '.join(s for s in said if s), self._credentials()[1])}"
        if any(kind.startswith(later) for kind in kinds for later in _TRY_LATER):
            raise TargetUnavailable(text, retry_after_seconds=_reset(answer))
        raise TargetRefused(next((_REFUSALS[k] for k in kinds if k in _REFUSALS), "invalid"), text)


def _id(text: str) -> str:
    return str(UUID(bytes=hashlib.sha256(f"sust linear {text}".encode()).digest()[:16], version=4))


def _name(query: str) -> str:
    found = re.search(r"\{ (\w+)", query)
    return found[1] if found else "query"


def _reset(answer: Answer) -> float | None:
    """Seconds until the limit that was hit is open again, against the answer's own clock."""
    wait = answer.retry_after()
    if wait is not None:
        return wait
    try:
        now = parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        left = {k: answer.headers.get(f"X-RateLimit-{k}-Remaining") for k in ("Requests", "Complexity")}
        resets = [float(answer.headers[f"X-RateLimit-{k}-Reset"]) / 1000 for k, v in left.items() if v == "0"]
        return max(0.0, max(resets) - now)
    except (TypeError, ValueError, KeyError):
        return None


def _markdown(words: Words) -> str:
    lines = "\n".join(f"* {label}: {_escaped(text)}" for label, text in words.lines)
    why = f"\n\n{_escaped(words.why)}" if words.why else ""
    return f"**{_escaped(words.headline)}**\n\n{lines}{why}\n\nApprove with `{words.command}`"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#~|!])", r"\\\1", text)


def _content(issue: Mapping[str, Any]) -> str:
    return fingerprint(issue["title"], _STAMP.sub("", issue["description"] or ""))


def _check_ours(issue: Mapping[str, Any]) -> None:
    stamp = _STAMP.search(issue["description"] or "")
    if stamp is None or stamp[1] != _content(issue):
        raise TargetRefused("changed_since", f"{issue['identifier']} was edited by somebody; close or correct it there")


def _applied(issue: Mapping[str, Any]) -> Applied:
    return Applied(issue["url"], {"key": issue["identifier"]})

"""Jira Cloud: one ticket per approved change, found again by its label.

Belongs here: the ticket's fields, its marker, and how it is withdrawn. Does not belong here: the words
(``wording``), calls (``http``).

The label ``sust-<first twelve of the intent>`` is searched for before a ticket is made; the issue property ``sust``
holds the whole intent and the fingerprint of what we wrote, so that a clone (it copies labels, not properties) is not
taken for ours and an edit by a person is told from an older text of our own.

Jira's search index is some seconds behind. So ``apply`` waits until the search shows what it made, and ``read_back``
goes to the ticket itself. What is left: when an answer is lost and the call is made again within those seconds, a
second ticket is made. ``read_back`` names it, the next ``apply`` withdraws it, ``rollback`` withdraws both.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from sust_dagster.connectors.http import Api, Secret
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable
from sust_dagster.connectors.tickets.wording import Words, fingerprint

WITHDRAWN = "sust-withdrawn"
PROPERTY = "sust"


@dataclass(frozen=True)
class JiraTarget:
    """Tickets of one project. ``withdrawn_status``: the status a withdrawn ticket goes to; None leaves it."""

    base_url: str
    project: str
    issue_type: str = "Task"
    labels: tuple[str, ...] = ("sust",)
    withdrawn_status: str | None = None
    waits: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 4.0)
    """Seconds between looks whether the search index has a new ticket."""
    user: Secret = field(default_factory=lambda: Secret("SUST_JIRA_USER"))
    token: Secret = field(default_factory=lambda: Secret("SUST_JIRA_TOKEN"))
    name: str = "jira"

    def __post_init__(self) -> None:
        if not self.project.replace("_", "").isalnum():
            raise ValueError(f"Jira: {self.project!r} is no project key; give the key before the ticket numbers")

    @property
    def _api(self) -> Api:
        def credentials() -> tuple[Mapping[str, str], Collection[str]]:
            token = self.token.read()
            basic = base64.b64encode(f"{self.user.read()}:{token}".encode()).decode()
            return {"Authorization": f"Basic {basic}"}, (token, basic)

        return Api("Jira", self.base_url.rstrip("/"), credentials)

    # The protocol

    def preview(self, order: Order) -> Preview:
        """The request that makes the ticket. Asks Jira whether the project is there and may be read."""
        self._api.call("GET", f"/rest/api/3/project/{self.project}", reasons={404: "unknown_project"})
        words = Words.of(order)
        document = _document(words)
        content = fingerprint(words.title, _text(document))
        change = {
            "fields": {
                "project": {"key": self.project},
                "issuetype": {"name": self.issue_type},
                "summary": words.title,
                "description": document,
                "labels": [*self.labels, _label(order)],
            },
            "properties": [{"key": PROPERTY, "value": {"intent": order.intent_id, "plan": order.plan_hash,
                                                       "content": content}}],
        }  # fmt: skip
        return Preview(
            self.name, f"POST /rest/api/3/issue\n{json.dumps(change, indent=2, ensure_ascii=False)}", change, {}
        )

    def find(self, order: Order, preview: Preview) -> Applied | None:  # noqa: ARG002
        there = [i for i in self._issues(order) if WITHDRAWN not in i["fields"]["labels"]]
        return self._applied(there[0]) if there else None

    def apply(self, order: Order, preview: Preview) -> Applied:
        there = self._issues(order)
        if not there:
            made = self._api.call("POST", "/rest/api/3/issue", body=preview.change).body
            self._wait_for_index(order)
            return self._applied(made)
        first = there[0]
        if WITHDRAWN in first["fields"]["labels"]:
            raise TargetRefused("withdrawn", f"{first['key']} was withdrawn; a new approval makes a new ticket")
        if _content(first) != _wanted(preview):
            self._check_ours(first)
            fields = {k: preview.change["fields"][k] for k in ("summary", "description")}
            self._edit(first, {"fields": fields, "properties": preview.change["properties"]})
        for double in there[1:]:
            self._withdraw(double, f"The same as {first['key']}, which stays.")
        return self._applied(first)

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:
        issue = self._issue(str(applied.detail["key"]))
        if issue is None:
            return (f"{applied.ref} is gone",)
        fields, wanted = issue["fields"], preview.change["fields"]
        wrong: list[str] = [f"{issue['key']} was withdrawn"] if WITHDRAWN in fields["labels"] else []
        if fields["summary"] != wanted["summary"]:
            wrong.append(f"title is {fields['summary']!r}, not {wanted['summary']!r}")
        if fingerprint(_text(fields["description"])) != fingerprint(_text(wanted["description"])):
            wrong.append("description was edited")
        wrong += [f"label {label} is missing" for label in wanted["labels"] if label not in fields["labels"]]
        wrong += [f"{other['key']} is a second ticket of it" for other in self._issues(order)
                  if other["key"] != issue["key"] and WITHDRAWN not in other["fields"]["labels"]]  # fmt: skip
        return tuple(wrong)

    def rollback(self, order: Order, preview: Preview) -> None:  # noqa: ARG002 - what we wrote last is in the ticket
        there = self._issues(order)
        for issue in there:
            self._check_ours(issue)
        for issue in there:
            self._withdraw(issue, "This change was withdrawn; nothing is to be done.")

    # Reading and writing

    def _issues(self, order: Order) -> list[dict[str, Any]]:
        """Tickets of an intent, oldest first, as they are and not as the search index has them."""
        query = f'project = "{self.project}" AND labels = "{_label(order)}"'
        body: dict[str, Any] = {"jql": query, "fields": ["summary"], "maxResults": 50}
        keys: list[str] = []
        while True:
            page = self._api.call("POST", "/rest/api/3/search/jql", body=body).body
            keys += [i["key"] for i in page.get("issues") or ()]
            if not page.get("nextPageToken"):
                break
            body["nextPageToken"] = page["nextPageToken"]
        found = [self._issue(key) for key in keys]
        ours = [i for i in found if i and _marker(i).get("intent") == order.intent_id]
        return sorted(ours, key=lambda i: int(i["id"]))

    def _wait_for_index(self, order: Order) -> None:
        """So that a ``find`` or ``rollback`` right after sees what was made; gives up quietly, the ticket is there."""
        for wait in self.waits:
            try:
                if self._issues(order):
                    return
            except TargetUnavailable:
                pass
            time.sleep(wait)

    def _issue(self, key: str) -> dict[str, Any] | None:
        params = {"fields": "summary,description,labels,status", "properties": PROPERTY}
        answer = self._api.call("GET", f"/rest/api/3/issue/{quote(key, safe='')}", params=params, allow=(404,))
        return answer.body if answer.status == 200 else None

    def _edit(self, issue: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        self._api.call("PUT", f"/rest/api/3/issue/{quote(issue['key'], safe='')}", body=body)

    def _check_ours(self, issue: Mapping[str, Any]) -> None:
        if _content(issue) != _marker(issue).get("content"):
            raise TargetRefused("changed_since", f"{issue['key']} was edited by somebody; withdraw or correct it there")

    def _withdraw(self, issue: Mapping[str, Any], why: str) -> None:
        """Label and comment in one edit, so that neither is there without the other; then the status."""
        if WITHDRAWN not in issue["fields"]["labels"]:
            comment = {"add": {"body": _doc([_paragraph(_plain(why))])}}
            self._edit(issue, {"update": {"labels": [{"add": WITHDRAWN}], "comment": [comment]}})
        status = issue["fields"]["status"]["name"]
        if self.withdrawn_status is None or status.lower() == self.withdrawn_status.lower():
            return
        path = f"/rest/api/3/issue/{quote(issue['key'], safe='')}/transitions"
        ways = self._api.call("GET", path).body["transitions"]
        way = next((t for t in ways if t["to"]["name"].lower() == self.withdrawn_status.lower()), None)
        if way is None:
            names = ", ".join(t["to"]["name"] for t in ways) or "none"
            raise TargetRefused(
                "no_transition",
                f"{issue['key']} cannot go from {status} to {self.withdrawn_status} (only to: {names}); correct "
                "withdrawn_status or the workflow",
            )
        self._api.call("POST", path, body={"transition": {"id": way["id"]}})

    def _applied(self, issue: Mapping[str, Any]) -> Applied:
        return Applied(f"{self.base_url.rstrip('/')}/browse/{issue['key']}", {"key": issue["key"]})


def _label(order: Order) -> str:
    return f"sust-{order.intent_id.replace('-', '')[:12]}"


def _marker(issue: Mapping[str, Any]) -> Mapping[str, Any]:
    return (issue.get("properties") or {}).get(PROPERTY) or {}


def _content(issue: Mapping[str, Any]) -> str:
    return fingerprint(issue["fields"]["summary"], _text(issue["fields"]["description"]))


def _wanted(preview: Preview) -> str:
    return preview.change["properties"][0]["value"]["content"]


# The Atlassian Document Format


def _document(words: Words) -> dict[str, Any]:
    items = [
        {"type": "listItem", "content": [_paragraph(_plain(f"{label}: "), _plain(text))]} for label, text in words.lines
    ]
    blocks = [_paragraph(_plain(words.headline, "strong")), {"type": "bulletList", "content": items}]
    if words.why:
        blocks.append(_paragraph(_plain(words.why)))
    return _doc([*blocks, _paragraph(_plain("Approve with "), _plain(words.command, "code"))])


def _doc(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "doc", "version": 1, "content": blocks}


def _paragraph(*texts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "paragraph", "content": list(texts)}


def _plain(text: str, mark: str | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({"marks": [{"type": mark}]} if mark else {})


def _text(node: Any) -> str:
    """The words of a document, whatever attributes Jira has put on its nodes."""
    if not isinstance(node, Mapping):
        return ""
    inner = "".join(_text(child) for child in node.get("content") or ())
    return str(node.get("text", "")) + inner + ("\n" if node.get("type") in ("paragraph", "listItem") else "")

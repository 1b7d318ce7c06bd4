"""Jira Cloud's few routes: the old search is gone (410), the new one gives keys and only the fields asked for."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field
from typing import Any

from target_doubles import Call, Double, Reply

JQL = re.compile(r'^project = "(\w+)" AND labels = "([\w-]+)"$')
NODES = {"doc", "paragraph", "bulletList", "listItem", "text"}
MARKS = {"strong", "code"}
GOOD = {"type": "doc", "version": 1, "content": [{"type": "paragraph", "content": [{"type": "text", "text": "x"}]}]}


def bad(code: int, *messages: str, **errors: str) -> Reply:
    return code, {"errorMessages": list(messages), "errors": errors}, {}


def adf_fault(node: Any, kind: str = "doc") -> str | None:
    """What the schema of the document format would say about the nodes we use."""
    if not isinstance(node, dict) or node.get("type") not in NODES:
        return f"{node!r} is no node"
    if kind == "doc" and (node["type"] != "doc" or node.get("version") != 1):
        return "not a document of version 1"
    if node["type"] == "text":
        marks = {m["type"] for m in node.get("marks", [])}
        return None if node.get("text") and marks <= MARKS else "text is empty or marked unknown"
    inner = {"doc": {"paragraph", "bulletList"}, "bulletList": {"listItem"}, "listItem": {"paragraph"},
             "paragraph": {"text"}}[node["type"]]  # fmt: skip
    content = node.get("content")
    if not content or any(c.get("type") not in inner for c in content):
        return f"{node['type']} holds what it may not"
    return next((f for c in content if (f := adf_fault(c, c["type"]))), None)


@dataclass
class Jira(Double):
    basic: str = "Basic ZGFuYUBleGFtcGxlLm9yZzpqaXJhLXRva2VuLTc3"
    issues: dict[str, dict[str, Any]] = field(default_factory=dict)
    comments: dict[str, list[str]] = field(default_factory=dict)
    lag: int = 0
    """Searches after which a new ticket shows."""
    young: dict[str, int] = field(default_factory=dict)
    statuses: tuple[str, ...] = ("To Do", "Done", "Declined")
    page: int = 1

    def state(self) -> Any:
        return {"issues": self.issues, "comments": self.comments}

    def is_write(self, call: Call) -> bool:
        return call.method != "GET" and not call.path.endswith("/search/jql")

    def answer(self, call: Call) -> Reply:
        if call.headers.get("authorization") != self.basic:
            return bad(401, "Client must be authenticated to access this resource.")
        path = call.path.removeprefix("/rest/api/3/")
        if path == "search":
            return bad(410, "The requested API has been removed. Please use the newer /rest/api/3/search/jql.")
        if path.startswith("project/"):
            return (200, {"key": "OPS"}, {}) if path == "project/OPS" else bad(404, "No project could be found.")
        if path == "search/jql":
            return self._search(call.body)
        if path == "issue" and call.method == "POST":
            return self._create(call.body)
        _, key, *rest = path.split("/")
        if key not in self.issues:
            return bad(404, "Issue does not exist or you do not have permission to see it.")
        if rest == ["transitions"]:
            return self._transitions(key, call)
        return self._shown(key, call) if call.method == "GET" else self._edit(key, call.body)

    def _search(self, body: dict[str, Any]) -> Reply:
        found = JQL.match(body.get("jql", ""))
        if found is None:
            return bad(400, "Error in the JQL Query")
        keys = sorted(k for k, i in self.issues.items()
                      if found[2] in i["fields"]["labels"] and k.startswith(found[1] + "-"))  # fmt: skip
        keys = [k for k in keys if self.young.get(k, 0) <= 0]
        self.young = {k: n - 1 for k, n in self.young.items()}
        start = int(body.get("nextPageToken") or 0)
        rows = []
        for key in keys[start : start + self.page]:
            fields = {f: self.issues[key]["fields"][f] for f in body.get("fields", ())}
            rows.append({"id": self.issues[key]["id"]} | ({"key": key, "fields": fields} if fields else {}))
        further = {"nextPageToken": str(start + self.page)} if start + self.page < len(keys) else {}
        return 200, {"issues": rows, **further}, {}

    def _create(self, body: dict[str, Any]) -> Reply:
        fields = body["fields"]
        if fields["issuetype"]["name"] != "Task":
            return bad(400, issuetype="Specify a valid issue type")
        if fault := adf_fault(fields["description"]):
            return bad(400, description=f"Operation value must be an Atlassian Document ({fault})")
        if len(fields["summary"]) > 255 or "\n" in fields["summary"] or any(" " in label for label in fields["labels"]):
            return bad(400, summary="The summary is invalid")
        number = str(10000 + len(self.issues))
        key = f"OPS-{len(self.issues) + 1}"
        self.issues[key] = {
            "id": number, "key": key, "properties": {p["key"]: p["value"] for p in body.get("properties", ())},
            "fields": copy.deepcopy(fields) | {"status": {"name": "To Do"}},
        }  # fmt: skip
        self.young[key] = self.lag
        for block in self.issues[key]["fields"]["description"]["content"]:
            block.setdefault("attrs", {"localId": f"id-{number}"})  # as the editor does
        return 201, {"id": number, "key": key, "self": f"https://x/rest/api/3/issue/{number}"}, {}

    def _shown(self, key: str, call: Call) -> Reply:
        issue = self.issues[key]
        names = call.query["fields"].split(",")
        shown = {p: v for p, v in issue["properties"].items() if p in call.query.get("properties", "").split(",")}
        return 200, issue | {"fields": {n: issue["fields"][n] for n in names}, "properties": shown}, {}

    def _edit(self, key: str, body: dict[str, Any]) -> Reply:
        issue = self.issues[key]
        if "description" in body.get("fields", {}) and (fault := adf_fault(body["fields"]["description"])):
            return bad(400, description=fault)
        issue["fields"] |= body.get("fields", {})
        issue["properties"] |= {p["key"]: p["value"] for p in body.get("properties", ())}
        for operation in body.get("update", {}).get("labels", ()):
            if operation["add"] not in issue["fields"]["labels"]:
                issue["fields"]["labels"] = [*issue["fields"]["labels"], operation["add"]]
        for operation in body.get("update", {}).get("comment", ()):
            if fault := adf_fault(operation["add"]["body"]):
                return bad(400, comment=fault)
            self.comments.setdefault(key, []).append(json.dumps(operation["add"]["body"]))
        return 204, None, {}

    def _transitions(self, key: str, call: Call) -> Reply:
        now = self.issues[key]["fields"]["status"]["name"]
        ways = [{"id": str(n), "name": f"to {s}", "to": {"name": s}} for n, s in enumerate(self.statuses) if s != now]
        if call.method == "GET":
            return 200, {"transitions": ways}, {}
        way = next((w for w in ways if w["id"] == call.body["transition"]["id"]), None)
        if way is None:
            return bad(400, "It seems that you have tried to perform an illegal workflow operation.")
        self.issues[key]["fields"]["status"] = {"name": way["to"]["name"]}
        return 204, None, {}

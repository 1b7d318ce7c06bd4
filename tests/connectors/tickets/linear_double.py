"""Linear's GraphQL: ids from the maker, taken once and of version 4 only; errors in ``extensions`` with 200 or 400."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from target_doubles import Call, Double, Reply


def fault(code: str, kind: str, message: str, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    extensions = {"code": code, "type": kind, "userPresentableMessage": message}
    return status, {"errors": [{"message": message, "extensions": extensions}], "data": None}, headers or {}


def is_v4(text: str) -> bool:
    try:
        return UUID(text).version == 4
    except ValueError:
        return False


@dataclass
class Linear(Double):
    authorization: str = "lin_api_3f9a"
    team: str = "team-1"
    issues: dict[str, dict[str, Any]] = field(default_factory=dict)
    comments: dict[str, dict[str, Any]] = field(default_factory=dict)
    states: tuple[tuple[str, str, float], ...] = (
        ("s-todo", "unstarted", 1), ("s-dup", "canceled", 9), ("s-no", "canceled", 5), ("s-done", "completed", 3),
    )  # fmt: skip

    def state(self) -> Any:
        return {"issues": self.issues, "comments": self.comments}

    def is_write(self, call: Call) -> bool:
        return call.body["query"].startswith("mutation")

    def answer(self, call: Call) -> Reply:
        if call.headers.get("authorization") != self.authorization:
            return fault("AUTHENTICATION_ERROR", "authentication error", "You need to authenticate.", 400)
        variables = call.body["variables"]
        field_name = re.search(r"\{ (\w+)", call.body["query"])
        assert field_name is not None
        return getattr(self, f"on_{field_name[1]}")(**{f"{k}_": v for k, v in variables.items()})

    def on_team(self, id_: str) -> Reply:
        if id_ != self.team:
            return fault("INPUT_ERROR", "invalid input", "Entity not found: Team")
        return 200, {"data": {"team": {"id": id_, "name": "ML"}}}, {}

    def on_issues(self, id_: str) -> Reply:
        found = [self.issues[id_]] if id_ in self.issues else []
        kinds = {i: kind for i, kind, _ in self.states}
        nodes = [
            {k: v for k, v in i.items() if k != "stateId"} | {"state": {"type": kinds[i["stateId"]]}} for i in found
        ]
        return 200, {"data": {"issues": {"nodes": nodes}}}, {}

    def on_comments(self, id_: str) -> Reply:
        return 200, {"data": {"comments": {"nodes": [{"id": id_}] if id_ in self.comments else []}}}, {}

    def on_workflowStates(self, team_: str) -> Reply:
        nodes = [{"id": i, "position": p} for i, kind, p in self.states if kind == "canceled"]
        return 200, {"data": {"workflowStates": {"nodes": nodes}}}, {}

    def on_issueCreate(self, input_: dict[str, Any]) -> Reply:
        if not is_v4(input_["id"]):
            return fault("INPUT_ERROR", "invalid input", "id must be a UUID of version 4", 400)
        if input_["id"] in self.issues:
            return fault("INPUT_ERROR", "invalid input", "conflict on insert of Issue: entity already exists", 400)
        if input_["teamId"] != self.team:
            return fault("INPUT_ERROR", "invalid input", "Entity not found: Team")
        number = len(self.issues) + 1
        # The editor writes lists its own way.
        description = input_["description"].replace("\n* ", "\n- ")
        self.issues[input_["id"]] = {
            "id": input_["id"], "identifier": f"ML-{number}", "url": f"https://linear.app/x/issue/ML-{number}",
            "title": input_["title"], "description": description, "archivedAt": None, "stateId": "s-todo",
            "labels": {"nodes": [{"id": i} for i in input_.get("labelIds", ())]},
        }  # fmt: skip
        made = {k: self.issues[input_["id"]][k] for k in ("id", "identifier", "url")}
        return 200, {"data": {"issueCreate": {"success": True, "issue": made}}}, {}

    def on_issueUpdate(self, id_: str, input_: dict[str, Any]) -> Reply:
        if id_ not in self.issues:
            return fault("INPUT_ERROR", "invalid input", "Entity not found: Issue")
        self.issues[id_] |= input_
        return 200, {"data": {"issueUpdate": {"success": True}}}, {}

    def on_commentCreate(self, input_: dict[str, Any]) -> Reply:
        if not is_v4(input_["id"]) or input_["id"] in self.comments:
            return fault("INPUT_ERROR", "invalid input", "conflict on insert of Comment", 400)
        self.comments[input_["id"]] = input_
        return 200, {"data": {"commentCreate": {"success": True}}}, {}

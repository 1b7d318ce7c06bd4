"""An API server that knows CronJobs: server-side apply with field managers, conflicts, dry runs, stale versions.

As measured on a real one: an apply that changes a value another manager owns is answered 409 with one cause per field;
equal values are shared; what the applier leaves out and alone owned is removed; ``dryRun=All`` stores nothing; a
resourceVersion that is not the current one is answered 409 without causes; an apply to a name that is not there
creates, unless it carries a resource version or a uid.
"""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from target_doubles import Call, Double, Reply

ATOMIC = {"nodeSelectorTerms", "command", "args", "schedule"}


def status(code: int, reason: str, message: str, causes: list[dict[str, str]] | None = None) -> Reply:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return code, body | ({"details": {"causes": causes}} if causes else {}), {}


def leaves(node: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Fields as ``managedFields`` names them, with their values."""
    out: dict[tuple[str, ...], Any] = {}
    if isinstance(node, dict) and node:
        for key, value in node.items():
            out |= leaves(value, (*at, f"f:{key}"))
    elif isinstance(node, list) and node and all(isinstance(i, dict) and "name" in i for i in node):
        for item in node:
            key = "k:" + json.dumps({"name": item["name"]}, separators=(",", ":"))
            out |= leaves(item, (*at, key))
    else:
        out[at] = node
    return out


def own(obj: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    meta = {k: v for k, v in obj.get("metadata", {}).items() if k in ("labels", "annotations")}
    return leaves({k: v for k, v in (("metadata", meta), ("spec", obj.get("spec", {}))) if v})


def put(obj: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    at: Any = obj
    for n, step in enumerate(path):
        if step.startswith("k:"):
            name = json.loads(step[2:])["name"]
            found = next((i for i in at if i["name"] == name), None)
            if found is None:
                found = {"name": name}
                at.append(found)
            at = found
        elif n == len(path) - 1:
            at[step[2:]] = value
        else:
            at = at.setdefault(step[2:], [] if path[n + 1].startswith("k:") else {})


def drop(obj: dict[str, Any], path: tuple[str, ...]) -> None:
    trail: list[Any] = [obj]
    for step in path[:-1]:
        at = trail[-1]
        if step.startswith("k:"):
            at = next((i for i in at if i["name"] == json.loads(step[2:])["name"]), None)
        else:
            at = at.get(step[2:])
        if at is None:
            return
        trail.append(at)
    trail[-1].pop(path[-1][2:], None)
    for step, at, parent in zip(reversed(path[:-1]), reversed(trail[1:]), reversed(trail[:-1]), strict=True):
        if at == {} and isinstance(parent, dict):
            parent.pop(step[2:])


def nested(paths: set[tuple[str, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in paths:
        at = tree
        for step in path:
            at = at.setdefault(step, {".": {}} if step.startswith("k:") else {})
    return tree


@dataclass
class Cluster(Double):
    namespace: str = "batch"
    token: str = "kube-token-5e1f"
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    managers: dict[str, dict[str, set[tuple[str, ...]]]] = field(default_factory=dict)
    forbidden: bool = False
    races: int = 0
    """How many writes find that a controller has just written the object's status."""
    versions: Any = field(default_factory=lambda: itertools.count(100))

    def state(self) -> Any:
        return {n: self.shown(n) for n in self.objects}

    def is_write(self, call: Call) -> bool:
        return call.method == "PATCH" and "dryRun" not in call.query

    def add(
        self, name: str, spec: dict[str, Any], manager: str | None = "kubectl", handed_over: bool = True, **meta: Any
    ) -> None:
        """A CronJob ``manager`` made. Handed over: it gave up everything a plan may touch."""
        obj = {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name, "namespace": self.namespace,
               "uid": f"uid-{name}-{next(self.versions)}", **meta}, "spec": spec}  # fmt: skip
        self.objects[name] = obj
        paths = set(own(obj))
        theirs = {p for p in paths if not handed_over or not _ours(p)}
        self.managers[name] = {manager or "kubectl": theirs}
        if handed_over:
            self.managers[name]["sust-ai-naible"] = {("f:spec", "f:schedule")}
        self.touch(name)

    def touch(self, name: str) -> None:
        self.objects[name]["metadata"]["resourceVersion"] = str(next(self.versions))

    def edit(self, name: str, path: tuple[str, ...], value: Any, manager: str = "kubectl-edit") -> None:
        """Somebody's plain update: takes the ownership, as any update does."""
        with self.lock:
            put(self.objects[name], path, value) if value is not None else drop(self.objects[name], path)
            for fields in self.managers[name].values():
                fields.discard(path)
            if value is not None:
                self.managers[name].setdefault(manager, set()).add(path)
            self.touch(name)

    def shown(self, name: str) -> dict[str, Any]:
        obj = copy.deepcopy(self.objects[name])
        obj["metadata"]["managedFields"] = [
            {"manager": m, "operation": "Apply" if m == "sust-ai-naible" else "Update", "apiVersion": "batch/v1",
             "fieldsType": "FieldsV1", "fieldsV1": nested(paths)}
            for m, paths in sorted(self.managers[name].items()) if paths
        ]  # fmt: skip
        return obj

    def answer(self, call: Call) -> Reply:
        if call.headers.get("authorization") != f"Bearer {self.token}":
            return status(401, "Unauthorized", "Unauthorized")
        folder = f"/apis/batch/v1/namespaces/{self.namespace}/cronjobs"
        if not call.path.startswith(folder):
            return status(404, "NotFound", "the server could not find the requested resource")
        if self.forbidden and call.method != "GET":
            return status(403, "Forbidden", 'cronjobs.batch is forbidden: User "sust" cannot patch resource "cronjobs"')
        name = call.path[len(folder) :].strip("/")
        if call.method == "GET":
            return self._list(call) if not name else self._get(name)
        return self._apply(name, call)

    def _get(self, name: str) -> Reply:
        if name not in self.objects:
            return status(404, "NotFound", f'cronjobs.batch "{name}" not found')
        return 200, self.shown(name), {}

    def _list(self, call: Call) -> Reply:
        names = sorted(self.objects)
        if selector := call.query.get("labelSelector"):
            key, _, value = selector.partition("=")
            names = [n for n in names if self.objects[n]["metadata"].get("labels", {}).get(key) == value]
        start = int(call.query.get("continue") or 0)
        page = names[start : start + 2]  # small pages on purpose
        further = {"continue": str(start + 2)} if start + 2 < len(names) else {}
        return 200, {"kind": "CronJobList", "metadata": further, "items": [self.shown(n) for n in page]}, {}

    def _merge(self, made: dict[str, Any], name: str, manager: str, wanted: dict[tuple[str, ...], Any]) -> None:
        others = set().union(*(paths for m, paths in self.managers[name].items() if m != manager))
        for path in self.managers[name].get(manager, set()) - set(wanted) - others:
            drop(made, path)
        for path, value in wanted.items():
            put(made, path, value)

    def _conflicts(self, name: str, manager: str, wanted: dict[tuple[str, ...], Any]) -> list[dict[str, str]]:
        now = own(self.objects[name])
        return [
            {
                "reason": "FieldManagerConflict",
                "message": f'conflict with "{other}" using batch/v1',
                "field": _dotted(p),
            }
            for p, v in wanted.items()
            for other, paths in self.managers[name].items()
            if other != manager and p in paths and now.get(p) != v
        ]

    def _apply(self, name: str, call: Call) -> Reply:
        if call.headers.get("content-type") != "application/apply-patch+yaml":
            return status(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
        manager, body, meta = call.query.get("fieldManager"), call.body, call.body["metadata"]
        if not manager:
            return status(400, "BadRequest", "fieldManager is required for apply patch")
        if self.races:
            self.races -= 1
            self.touch(name)
        if name not in self.objects:
            return status(409, "Conflict", "uid mismatch: the provided object specified uid")
        live = self.objects[name]
        if any(meta.get(k, live["metadata"][k]) != live["metadata"][k] for k in ("uid", "resourceVersion")):
            text = f'Operation cannot be fulfilled on cronjobs.batch "{name}": the object has been modified'
            return status(409, "Conflict", f"{text}; please apply your changes to the latest version and try again")
        wanted = own(body)
        causes = self._conflicts(name, manager, wanted)
        if causes and call.query.get("force") != "true":
            return status(409, "Conflict", f"Apply failed with {len(causes)} conflict(s)", causes)
        made = copy.deepcopy(live)
        self._merge(made, name, manager, wanted)
        if wrong := invalid(made):
            return status(422, "Invalid", f'CronJob.batch "{name}" is invalid: {wrong}')
        managers = self.managers[name] | {manager: set(wanted)}
        if "dryRun" in call.query:
            held = (self.objects[name], self.managers[name])
            self.objects[name], self.managers[name] = made, managers
            shown = self.shown(name)
            self.objects[name], self.managers[name] = held
            return 200, shown, {}
        changed = own(made) != own(live) or managers != self.managers[name]
        self.objects[name], self.managers[name] = made, managers
        if changed:
            self.touch(name)
        return 200, self.shown(name), {}


def _ours(path: tuple[str, ...]) -> bool:
    return (
        path in (("f:spec", "f:schedule"), ("f:spec", "f:timeZone")) or path[-1] == "f:cpu" or "f:nodeSelector" in path
    )


def _dotted(path: tuple[str, ...]) -> str:
    return "".join(
        f".{p[2:]}" if p.startswith("f:") else f"[name={json.dumps(json.loads(p[2:])['name'])}]" for p in path
    )


def invalid(obj: dict[str, Any]) -> str | None:
    spec = obj["spec"]
    parts = str(spec.get("schedule", "")).split()
    if len(parts) != 5:
        return f"spec.schedule: Invalid value: {spec.get('schedule')!r}: expected exactly 5 fields"
    if "24" in parts[1].split(","):
        return "spec.schedule: Invalid value: end of range (24) above maximum (23)"
    if "/" in (zone := spec.get("timeZone") or "") and zone.split("/")[0] not in ("Etc", "Europe", "America", "Asia"):
        return f'spec.timeZone: Invalid value: "{zone}": unknown time zone'
    for container in spec["jobTemplate"]["spec"]["template"]["spec"].get("containers", []):
        if "image" not in container:
            return "spec.jobTemplate.spec.template.spec.containers[0].image: Required value"
    return None

"""Kubernetes: a CronJob starts later, in another zone, on spot nodes or with fewer cores.

Belongs here: which CronJob a workload is, which of its fields a plan changes, and how they are written. Does not
belong here: cron arithmetic (``kubernetes_cron``), JSON of the API (``kubernetes_objects``), calls (``http``).

Everything is written by server-side apply under our own manager's name and never forced. A field that another manager
owns (``kubectl``, Argo CD, Helm) is refused with that manager's name: it must be handed over to ``sust-ai-naible``
first, or be changed where its owner takes it from. A field we own and leave out is removed by the API, so each write
repeats every field we own. Writes carry the resource version they are based on.

One cluster is in one region. Its CronJobs are not moved to another: pods would wait there for ever.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sust_dagster.connectors.http import Answer, Api, Secret, bearer
from sust_dagster.connectors.schedulers.kubernetes_cron import Cron, CronError
from sust_dagster.connectors.schedulers.kubernetes_objects import Path, build, cores, get, millicores, owned, text_of
from sust_dagster.connectors.targets import Applied, Order, Preview, TargetRefused, TargetUnavailable

MANAGER = "sust-ai-naible"
WORKLOAD, INTENT, BEFORE = "sust.ai/workload", "sust.ai/intent", "sust.ai/before"
WINDOW, OPT_OUT = "sust.ai/window", "sust.ai/opt-out"
ZONE_LABEL = "topology.kubernetes.io/zone"
TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a place, not a token

_SCHEDULE: Path = ("spec", "schedule")
_TIME_ZONE: Path = ("spec", "timeZone")
_POD: Path = ("spec", "jobTemplate", "spec", "template", "spec")
_ATTEMPTS = 3
_LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_DURATION = re.compile(r"^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?$")


@dataclass(frozen=True)
class KubernetesTarget:
    """CronJobs of one namespace of one cluster."""

    base_url: str
    namespace: str
    region: str
    """The region the cluster is in, by the name plans have for it."""
    zones: tuple[str, ...] = ()
    """Zones its nodes are in; a plan may name one of them as ``zone`` of a placement."""
    cronjobs: Mapping[str, str] = field(default_factory=dict)
    """Workload → CronJob, where neither label nor annotation ``sust.ai/workload`` says it."""
    time_zone: str | None = None
    """The zone the cluster's controller reads schedules in; written as ``spec.timeZone`` where a CronJob has none."""
    spot_label: tuple[str, str] | None = None
    """Label and value of spot nodes, such as ``("karpenter.sh/capacity-type", "spot")``."""
    token: Secret = field(default_factory=lambda: Secret("SUST_KUBERNETES_TOKEN", TOKEN_FILE))
    ca_file: str | None = None
    name: str = "kubernetes"

    @property
    def _api(self) -> Api:
        return Api("Kubernetes", self.base_url.rstrip("/"), bearer(self.token), verify=self.ca_file or True)

    @property
    def _folder(self) -> str:
        return f"/apis/batch/v1/namespaces/{quote(self.namespace, safe='')}/cronjobs"

    # The protocol

    def preview(self, order: Order) -> Preview:
        """The diff of the touched fields, before and after, as the API itself would have it (``dryRun=All``)."""
        live = self._live(order)
        before, change = self._planned(order, live)
        done = self._write(live, change["apply"], dry_run=True)
        fields = [_path(p) for p in change["fields"]]
        now, then = _lines(live, fields), _lines(done, fields)
        title = f"{self.namespace}/{before['name']}"
        diff = "\n".join(difflib.unified_diff(now, then, f"{title} before", f"{title} after", lineterm="", n=0))
        notes = "".join(f"\n# {n}" for n in change["notes"])
        return Preview(self.name, (diff or "# nothing to change") + notes, change, before)

    def find(self, order: Order, preview: Preview) -> Applied | None:
        """The CronJob, if it carries this intent, alone or under a later one."""
        live = self._there(preview)
        return self._applied(live) if live and order.intent_id in _history(live) else None

    def apply(self, order: Order, preview: Preview) -> Applied:
        for _ in range(_ATTEMPTS):
            live = self._named(preview.before["name"])
            if _intent(live) == order.intent_id:
                wrong = _differences(live, preview.change)
                if wrong:
                    raise TargetRefused(
                        "changed_since", f"{self._title(live)} was changed after it: {'; '.join(wrong)}"
                    )
                return self._applied(live)
            self._check_untouched(live, preview)
            try:
                return self._applied(self._write(live, preview.change["apply"]))
            except _StaleError:
                continue
        raise TargetUnavailable(f"Kubernetes: {preview.before['name']} changed at every attempt; nothing was written")

    def read_back(self, order: Order, preview: Preview, applied: Applied) -> tuple[str, ...]:  # noqa: ARG002
        live = self._named(preview.before["name"])
        wrong = _differences(live, preview.change)
        if _intent(live) != order.intent_id:
            wrong.append(f"annotation {INTENT} is {_intent(live) or 'gone'}")
        return tuple(wrong)

    def rollback(self, order: Order, preview: Preview) -> None:
        for _ in range(_ATTEMPTS):
            live = self._there(preview)
            if live is None:
                return
            if _intent(live) != order.intent_id:
                self._check_not_under(live, order, preview)
                return
            wrong = _differences(live, preview.change)
            if wrong:
                raise TargetRefused("changed_since", f"{self._title(live)} was changed after it: {'; '.join(wrong)}")
            try:
                self._write(live, preview.before["apply"])
            except _StaleError:
                continue
            return
        raise TargetUnavailable(f"Kubernetes: {preview.before['name']} changed at every attempt; nothing was written")

    # What a plan changes

    def _planned(self, order: Order, live: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        notes = get(live, ("metadata", "annotations")) or {}
        title = self._title(live)
        if str(notes.get(OPT_OUT, "false")).lower() not in ("false", ""):
            raise TargetRefused("opted_out", f"{title} carries {OPT_OUT}; its owner does not want it changed")
        self._check_region(order)
        wanted: dict[Path, Any] = {}
        remarks: list[str] = []
        shift = self._start(order, live, wanted, remarks)
        self._placement(order, live, wanted)
        self._cores(order, live, wanted)
        if not wanted:
            raise TargetRefused("nothing_to_change", f"the plan changes nothing of {title}")
        ours = _marks(live)
        kept = [p for p in owned(live, MANAGER) if p[:2] != ("metadata", "annotations") and p not in wanted]
        prior = [(p, get(live, p)) for p in (*wanted, *kept)]
        stamp = {"values": [[_say(p), get(live, p)] for p in wanted], "over": _history(live),
                 "moved": (_stamp(live).get("moved") or 0) + shift}  # fmt: skip
        marks = {INTENT: order.intent_id, BEFORE: json.dumps(stamp, separators=(",", ":"), sort_keys=True)}
        meta = live["metadata"]
        before = {"name": meta["name"], "uid": meta["uid"], "marks": ours, "values": [[_say(p), v] for p, v in prior],
                  "apply": self._body(meta["name"], prior, ours)}  # fmt: skip
        change = {"apply": self._body(meta["name"], [(p, wanted.get(p, v)) for p, v in prior], marks),
                  "fields": [_say(p) for p in wanted], "notes": remarks}  # fmt: skip
        return before, change

    def _body(self, name: str, values: list[tuple[Path, Any]], marks: Mapping[str, str]) -> dict[str, Any]:
        meta: dict[str, Any] = {"name": name, "namespace": self.namespace}
        if marks:
            meta["annotations"] = dict(marks)
        return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": meta, **build(values)}

    def _check_region(self, order: Order) -> None:
        others = sorted({p["region"] for p in order.proposed["placements"]} - {self.region})
        if others:
            raise TargetRefused(
                "other_cluster",
                f"the plan goes to {', '.join(others)}; this cluster is in {self.region} and its pods would wait for "
                "ever; move the workload to a cluster there through its repository or a ticket",
            )

    def _start(self, order: Order, live: Mapping[str, Any], wanted: dict[Path, Any], remarks: list[str]) -> int:
        delays = {Decimal(str(p["delay_hours"])) * 60 for p in order.proposed["placements"]}
        title, old = self._title(live), str(get(live, _SCHEDULE))
        if len(delays) > 1:
            hours = ", ".join(f"{d / 60:f}" for d in sorted(delays))
            raise TargetRefused("mixed_delays", f"{title} has one schedule; the plan delays its runs by {hours} h")
        minutes = delays.pop()
        if minutes != int(minutes):
            raise TargetRefused("not_whole_minutes", f"{title}: a delay of {minutes} min; cron knows whole minutes")
        shift = int(minutes)
        if shift == 0:
            return 0
        self._check_window(live, shift)
        zone = get(live, _TIME_ZONE) or self.time_zone
        try:
            was = Cron.parse(old)
            new = was.shifted(shift)
        except CronError as error:
            raise TargetRefused(error.reason, f"{title}: {error}") from error
        wanted[_SCHEDULE] = str(new)
        if zone is None:
            remarks.append(
                "no spec.timeZone: the controller's own zone holds, as before; name it as time_zone to set it"
            )
            return shift
        wanted[_TIME_ZONE] = zone
        if _changes_clock(zone, new.times - was.times, order.planned_for, title):
            remarks.append(f"{zone} changes its clock: on those days the delay is by the clock, an hour more or less")
        return shift

    def _check_window(self, live: Mapping[str, Any], shift: int) -> None:
        said = get(live, ("metadata", "annotations", WINDOW))
        if said is None:
            return
        before, slash, after = str(said).strip("[] ").partition("/")
        limits = [_DURATION.match(d.strip()) for d in (before, after)]
        if not slash or not all(m is not None and any(m.groups()) for m in limits):
            raise TargetRefused("unreadable_window", f"{self._title(live)}: {WINDOW} {said!r}; write it as PT3H/PT3H")
        latest = sum(int(n or 0) * k for n, k in zip(limits[1].groups(), (1440, 60, 1), strict=True))  # ty: ignore
        moved = _stamp(live).get("moved") or 0
        if moved + shift > latest:
            raise TargetRefused(
                "outside_window",
                f"{self._title(live)} may start {latest} min later ({WINDOW}: {said}), not {moved + shift} min",
            )

    def _placement(self, order: Order, live: Mapping[str, Any], wanted: dict[Path, Any]) -> None:
        zones = {p["zone"] for p in order.proposed["placements"] if p.get("zone")}
        title = self._title(live)
        if len(zones) > 1:
            raise TargetRefused("mixed_zones", f"{title} runs in one zone; the plan names {', '.join(sorted(zones))}")
        for zone in zones:
            if zone not in self.zones:
                raise TargetRefused(
                    "unknown_zone", f"no zone {zone} in this cluster ({', '.join(self.zones) or 'none'})"
                )
            self._select(live, wanted, ZONE_LABEL, zone)
        if bool(order.proposed.get("spot")) != bool(order.current.get("spot")):
            if self.spot_label is None:
                raise TargetRefused("no_spot_label", "which nodes are spot is not known here; set spot_label")
            if not order.proposed.get("spot"):
                raise TargetRefused("not_supported", f"{title}: back from spot is done by rolling the conversion back")
            self._select(live, wanted, *self.spot_label)

    def _select(self, live: Mapping[str, Any], wanted: dict[Path, Any], label: str, value: str) -> None:
        """Choose nodes by one key of ``nodeSelector``: it adds to an affinity that is there; terms would replace it."""
        terms = get(live, (*_POD, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution",
                           "nodeSelectorTerms")) or []  # fmt: skip
        said = [[e for e in t.get("matchExpressions") or () if e.get("key") == label] for t in terms]
        if said and not any(all(_allows(e, value) for e in term) for term in said):
            raise TargetRefused("conflict", f"{self._title(live)}: its node affinity does not allow {label}={value}")
        wanted[(*_POD, "nodeSelector", label)] = value

    def _cores(self, order: Order, live: Mapping[str, Any], wanted: dict[Path, Any]) -> None:
        scale = Decimal(str(order.proposed.get("vcpus_scale", "1")))
        if scale == 1:
            return
        title, any_cpu = self._title(live), False
        for container in get(live, (*_POD, "containers")) or ():
            for kind in ("requests", "limits"):
                path: Path = (*_POD, "containers", ("name", container["name"]), "resources", kind, "cpu")
                old = get(live, path)
                if old is None:
                    continue
                any_cpu = True
                try:
                    wanted[path] = millicores(cores(old) * scale)
                except ValueError as error:
                    raise TargetRefused("unreadable_quantity", f"{title}: {text_of(path)}: {error}") from error
        if not any_cpu:
            raise TargetRefused(
                "no_cpu_request", f"{title}: no container names its cores, so there is nothing to scale"
            )

    # Reading and writing

    def _live(self, order: Order) -> dict[str, Any]:
        """The CronJob of a workload: by configuration, label or annotation."""
        workload = order.workload_id
        if workload in self.cronjobs:
            return self._named(self.cronjobs[workload])
        found: list[dict[str, Any]] = []
        if _LABEL_VALUE.match(workload):
            found = self._list({"labelSelector": f"{WORKLOAD}={workload}"})
        found = found or [c for c in self._list({}) if get(c, ("metadata", "annotations", WORKLOAD)) == workload]
        if not found:
            raise TargetRefused(
                "unknown_workload",
                f"no CronJob in {self.namespace} is workload {workload}; give it the label or annotation {WORKLOAD}",
            )
        if len(found) > 1:
            names = ", ".join(sorted(c["metadata"]["name"] for c in found))
            raise TargetRefused("ambiguous_workload", f"{names} in {self.namespace} all say they are {workload}")
        return self._named(found[0]["metadata"]["name"])

    def _list(self, params: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        page: dict[str, str] = {**params, "limit": "500"}
        while True:
            body = self._api.call("GET", self._folder, params=page).body
            found += body.get("items") or ()
            further = (body.get("metadata") or {}).get("continue")
            if not further:
                return found
            page["continue"] = further

    def _named(self, name: str) -> dict[str, Any]:
        path = f"{self._folder}/{quote(name, safe='')}"
        return self._api.call("GET", path, reasons={404: "unknown_workload"}).body

    def _there(self, preview: Preview) -> dict[str, Any] | None:
        """The CronJob the preview is of; None when it was deleted since, with all that was written to it."""
        try:
            live = self._named(preview.before["name"])
        except TargetRefused as refused:
            if refused.reason == "unknown_workload":
                return None
            raise
        return live if live["metadata"]["uid"] == preview.before["uid"] else None

    def _write(self, live: Mapping[str, Any], body: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Server-side apply over ``live`` as it was read, and over nothing else."""
        meta = live["metadata"]
        based = {
            **body,
            "metadata": {**body["metadata"], "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        }
        answer = self._api.call(
            "PATCH", f"{self._folder}/{quote(meta['name'], safe='')}", body=based,
            params={"fieldManager": MANAGER, "force": "false", "fieldValidation": "Strict",
                    **({"dryRun": "All"} if dry_run else {})},
            content_type="application/apply-patch+yaml", allow=(409,), reasons={404: "unknown_workload"},
        )  # fmt: skip
        if answer.status == 409:
            self._conflict(answer, live, dry_run)
        return answer.body

    def _conflict(self, answer: Answer, live: Mapping[str, Any], dry_run: bool) -> None:
        causes = ((answer.body or {}).get("details") or {}).get("causes") or []
        said = [c for c in causes if c.get("reason") == "FieldManagerConflict"]
        if not said:
            if not dry_run:
                raise _StaleError
            raise TargetUnavailable(f"Kubernetes: {self._title(live)} changed while it was read; try again")
        managers = sorted({m for c in said for m in re.findall(r'conflict with "([^"]+)"', c.get("message", ""))})
        fields = ", ".join(sorted(str(c.get("field", "")).lstrip(".") for c in said))
        raise TargetRefused(
            "conflict",
            f"{fields} of {self._title(live)} belong to {' and '.join(managers) or 'another manager'}; hand them over "
            f"to {MANAGER}, or change them where {'its' if len(managers) == 1 else 'their'} owner takes them from",
        )

    def _applied(self, live: Mapping[str, Any]) -> Applied:
        meta = live["metadata"]
        return Applied(
            f"{self._folder}/{meta['name']}", {"uid": meta.get("uid"), "version": meta.get("resourceVersion")}
        )

    def _title(self, live: Mapping[str, Any]) -> str:
        return f"CronJob {self.namespace}/{live['metadata']['name']}"

    def _check_untouched(self, live: Mapping[str, Any], preview: Preview) -> None:
        wrong = _others(live, preview.before["values"], "was")
        if live["metadata"].get("uid") != preview.before["uid"]:
            wrong.append("it was deleted and made anew")
        if _marks(live) != preview.before["marks"]:
            wrong.append(f"{INTENT} is {_intent(live) or 'gone'}")
        if wrong:
            raise TargetRefused("changed_since", f"{self._title(live)} since the preview: {'; '.join(wrong)}")

    def _check_not_under(self, live: Mapping[str, Any], order: Order, preview: Preview) -> None:
        """Refuse to say that nothing of the intent is there when something is."""
        if order.intent_id in _history(live):
            raise TargetRefused("changed_since", f"{self._title(live)} was changed again by {_intent(live)}")
        changed = _others(live, preview.before["values"], "was")
        if changed and not _differences(live, preview.change) and _intent(live) is None:
            raise TargetRefused("changed_since", f"{self._title(live)} is as this change made it, but {INTENT} is gone")


class _StaleError(Exception):
    """The object changed between reading and writing."""


def _marks(live: Mapping[str, Any]) -> dict[str, Any]:
    notes = get(live, ("metadata", "annotations")) or {}
    return {k: notes[k] for k in (INTENT, BEFORE) if k in notes}


def _intent(live: Mapping[str, Any]) -> str | None:
    return get(live, ("metadata", "annotations", INTENT))


def _stamp(live: Mapping[str, Any]) -> dict[str, Any]:
    try:
        said = json.loads(_marks(live).get(BEFORE) or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _history(live: Mapping[str, Any]) -> list[str]:
    """The intents whose changes are in force, oldest first."""
    intent = _intent(live)
    return [] if intent is None else [*_stamp(live).get("over", ()), intent]


def _say(path: Path) -> list[Any]:
    """A path as JSON."""
    return [[*s] if isinstance(s, tuple) else s for s in path]


def _path(said: list[Any]) -> Path:
    return tuple((s[0], s[1]) if isinstance(s, list | tuple) else s for s in said)


def _lines(node: Mapping[str, Any], paths: list[Path]) -> list[str]:
    return [f"{text_of(p)}: {'(none)' if (v := get(node, p)) is None else v}" for p in paths]


def _differences(live: Mapping[str, Any], change: Mapping[str, Any]) -> list[str]:
    """Where the fields of a change are not as it wants them."""
    return _others(live, [[said, get(change["apply"], _path(said))] for said in change["fields"]], "not")


def _others(live: Mapping[str, Any], values: list[list[Any]], word: str) -> list[str]:
    return [f"{text_of(_path(said))} is {now!r}, {word} {then!r}"
            for said, then in values if (now := get(live, _path(said))) != then]  # fmt: skip


def _allows(expression: Mapping[str, Any], value: str) -> bool:
    listed = value in (expression.get("values") or ())
    return {"In": listed, "NotIn": not listed, "Exists": True}.get(str(expression.get("operator")), False)


def _changes_clock(zone: str, new: frozenset[int], planned_for: datetime, title: str) -> bool:
    """Whether the zone's clock changes within a year; refuses when a new time falls into an hour that does not exist.

    Such a run would not take place, and one in the hour that comes twice is told apart by nobody.
    """
    try:
        there = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise TargetRefused("unknown_time_zone", f"{title}: {zone!r} is no time zone; correct spec.timeZone") from error
    hour = (planned_for if planned_for.tzinfo else planned_for.replace(tzinfo=UTC)).astimezone(UTC)
    hour = hour.replace(minute=0, second=0, microsecond=0)
    changes = False
    last = hour.astimezone(there).utcoffset()
    for _ in range(366 * 24):
        hour += timedelta(hours=1)
        offset = hour.astimezone(there).utcoffset()
        if offset != last and offset is not None and last is not None:
            changes = True
            lower, upper = sorted((hour + last, hour + offset))
            odd = [t for m in range(int((upper - lower).total_seconds() // 60))
                   if (t := (lower + timedelta(minutes=m))).hour * 60 + t.minute in new]  # fmt: skip
            if odd:
                raise TargetRefused(
                    "clock_change",
                    f"{title}: {odd[0]:%H:%M} in {zone} is missing or comes twice on {odd[0]:%Y-%m-%d}",
                )
        last = offset
    return changes

"""From an approved change to the edits of a repository's files.

Belongs here: which values of the mapped places become what, for each kind of change, and when that cannot be done
with what was approved. Does not belong here: how a value is replaced in a text (``yaml_edits``, ``hcl_edits``),
branches and pull requests.

What a repository says must be what the plan was made for: a schedule whose starts are not those of the plan, or a
region that is not the planned one, is refused (``differs_from_plan``), never moved by the same amount.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sust_dagster.connectors.forges.cron import Cron, CronError
from sust_dagster.connectors.forges.edits import Edit, refused, text_of
from sust_dagster.connectors.forges.hcl_edits import HclFile, resolve
from sust_dagster.connectors.forges.workloads_file import (
    MAPPING_PATH,
    Capacity,
    Region,
    Schedule,
    Size,
    Workload,
    read_workloads,
)
from sust_dagster.connectors.forges.yaml_edits import Found, YamlFile, parse_path
from sust_dagster.connectors.targets import Order, TargetRefused

_P = TypeVar("_P")

_CRONJOB_CONTAINERS = "spec.jobTemplate.spec.template.spec.containers"
#: Attributes that place a resource: changing one makes a new resource and forgets the old one, or destroys it first.
_PLACES = frozenset({"region", "location", "zone", "availability_zone", "availability_zones"})


class Files:
    """A repository's files at one commit, with the edits made so far."""

    def __init__(self, read: Callable[[str], bytes | None], listing: Callable[[str], Iterable[str]]) -> None:
        self._read, self._listing = read, listing
        self._now: dict[str, str] = {}

    def text(self, file: str) -> str:
        """The file's text as edited so far."""
        if file not in self._now:
            raw = self._read(file)
            if raw is None:
                raise refused(
                    "missing_file", file, None, "the file is not in the repository", f"correct {MAPPING_PATH}"
                )
            self._now[file] = text_of(raw, file)
        return self._now[file]

    def has(self, file: str) -> bool:
        return file in self._now or self._read(file) is not None

    def put(self, edit: Edit) -> None:
        self._now[edit.file] = edit.after

    def folder(self, folder: str) -> tuple[str, ...]:
        """Files directly in a folder."""
        return tuple(sorted(f for f in self._listing(folder) if posixpath.dirname(f) == folder))


@dataclass(frozen=True)
class Changes:
    """The edits of one change, in the order they were made."""

    edits: tuple[Edit, ...]
    terraform: tuple[str, ...] = ()
    """Folders whose Terraform configuration changes."""
    stale: tuple[str, ...] = field(default=())
    """Comments that people should look at, with their file and line."""

    def files(self) -> Mapping[str, str]:
        """The new text of every file."""
        return {edit.file: edit.after for edit in self.edits}


def plan_changes(order: Order, files: Files) -> Changes:
    """The edits that carry out ``order``. Refused with a named reason where it cannot be done exactly."""
    if not files.has(MAPPING_PATH):
        raise refused(
            "no_mapping", MAPPING_PATH, None, "the file is not in the repository", "see docs/targets-forge.md"
        )
    workload = read_workloads(files.text(MAPPING_PATH)).get(order.workload_id)
    if workload is None:
        raise refused("unknown_workload", MAPPING_PATH, None, f"{order.workload_id} is not in it", "add its places")
    maker = _Maker(order, files)
    maker.make(workload)
    edits = tuple(e for e in maker.edits if e.before != e.after)
    if not edits:
        raise TargetRefused("nothing_to_change", f"the repository already has {order.workload_id} as proposed")
    stale = tuple(f"{e.file} line {e.line}: {comment}" for e in edits for comment in e.stale)
    return Changes(edits, tuple(sorted(maker.terraform)), stale)


@dataclass(frozen=True)
class _Move:
    """What all groups of a change have in common."""

    region: str
    delay_minutes: int
    starts: tuple[datetime, ...]


class _Maker:
    def __init__(self, order: Order, files: Files) -> None:
        self.order, self.files = order, files
        self.edits: list[Edit] = []
        self.terraform: set[str] = set()

    def make(self, workload: Workload) -> None:
        action = self.order.action_type
        if action != self.order.proposed.get("action_type", action):
            raise TargetRefused("unsupported_change", "the order's action is not that of its plan")
        move = _common(self.order)
        if action == "time_shift":
            self._moved_in_time(workload, move)
        elif action == "region_shift":
            self._moved_in_space(workload, move)
        elif action == "right_size":
            self._resized(workload)
        elif action == "spot_convert":
            for capacity in self._places(workload.capacity, "capacity"):
                self._capacity(capacity)
        else:
            raise TargetRefused("unsupported_change", f"{action} cannot be written to a repository")

    def _places(self, places: Sequence[_P], name: str) -> Sequence[_P]:
        if not places:
            raise refused("no_location", MAPPING_PATH, None, f"{self.order.workload_id} has no {name}", "add its place")
        return places

    # Time

    def _moved_in_time(self, workload: Workload, move: _Move) -> None:
        home = self.order.current.get("regions")
        if home and list(home) != [move.region]:
            raise TargetRefused("groups_disagree", f"a shift in time that also moves from {home} to {move.region}")
        if move.delay_minutes:
            for schedule in self._places(workload.schedule, "schedule"):
                self._schedule(schedule, move)

    def _schedule(self, place: Schedule, move: _Move) -> None:
        source = YamlFile.read(self.files.text(place.file), place.file)
        if place.kind == "actions":
            found, zone_name = self._workflow_cron(source)
        else:
            steps = parse_path(place.path)
            maybe = source.find(steps, place.document or None)
            if maybe is None:
                raise refused("missing_value", place.file, None, f"there is no {place.path}", f"correct {MAPPING_PATH}")
            zone = source.find((*steps[:-1], "timeZone"), place.document or None)
            found, zone_name = maybe, zone.value if zone is not None else None
        try:
            cron = Cron.read(found.value)
            later = cron.later(move.delay_minutes)
        except CronError as error:
            raise refused(error.reason, place.file, found.line, str(error), "change it by hand") from None
        self._same_starts(place, found, cron, zone_name or place.time_zone or "UTC", move)
        words = dict(zip(cron.times(), later.times(), strict=False)) if len(cron.hours) == len(later.hours) == 1 else {}
        edit = source.replace(found, later.text, words)
        source.prove(edit, found, later.text)
        self._put(edit)

    def _workflow_cron(self, source: YamlFile) -> tuple[Found, str | None]:
        """The workflow's cron line: the marked one, or the only one."""
        crons = list(source.scalars(("on", "schedule", "cron")))
        marked = [c for c in crons if self.order.workload_id in source.markers(c)]
        if not marked and len(crons) == 1 and not source.markers(crons[0]):
            marked = crons
        if len(marked) != 1:
            raise refused(
                "ambiguous_schedule" if crons else "missing_value", source.file, crons[0].line if crons else None,
                f"{len(crons)} schedules, {len(marked)} marked as this workload's",
                f"add '# sust: {self.order.workload_id}' beside the right one",
            )  # fmt: skip
        timezone = next(
            (z.value for z in source.scalars(("on", "schedule", "timezone")) if _same_item(source, marked[0], z)), None
        )
        return marked[0], timezone

    def _same_starts(self, place: Schedule, found: Found, cron: Cron, zone: str, move: _Move) -> None:
        """The file's starts are the plan's."""
        try:
            local = ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise refused("unresolvable_value", place.file, found.line, f"time zone {zone!r} is not known",
                          "use a name of the IANA list") from None  # fmt: skip
        planned = [at.hour * 60 + at.minute for at in (start.astimezone(local) for start in move.starts)]
        written = [hour * 60 + cron.minute for hour in cron.hours]
        # A group is everything that is asked for within an hour.
        pairs = [(p, w) for p in planned for w in written if (w - p) % 1440 < 60]
        if {p for p, _ in pairs} != set(planned) or {w for _, w in pairs} != set(written):
            starts = sorted({f"{p // 60:02d}:{p % 60:02d}" for p in planned})
            raise refused(
                "differs_from_plan", place.file, found.line,
                f"starts at {', '.join(cron.times())} in {zone}, the plan is for the hours from {', '.join(starts)}",
                f"correct {MAPPING_PATH}, or wait for the next plan",
            )  # fmt: skip

    # Space

    def _moved_in_space(self, workload: Workload, move: _Move) -> None:
        home = list(self.order.current.get("regions") or [])
        if len(home) != 1:
            raise TargetRefused(
                "groups_disagree", f"the workload runs in {home or 'no known region'}, one was expected"
            )
        for place in self._places(workload.region, "region"):
            self._region(place, home[0], move.region)
        if move.delay_minutes:
            for schedule in self._places(workload.schedule, "schedule"):
                self._schedule(schedule, move)

    def _region(self, place: Region, home: str, to: str) -> None:
        if place.kind == "cronjob":
            raise refused("one_region_per_cluster", place.file, None, f"pods that ask for {to} would stay pending in a "
                          f"cluster of {home}", "map the destination of its deployment")  # fmt: skip
        if place.values and (home not in place.values or to not in place.values):
            known = ", ".join(place.values)
            raise refused("unknown_region", MAPPING_PATH, None, f"values are only given for {known}",
                          "add the region")  # fmt: skip
        old, new = place.values.get(home, home), place.values.get(to, to)
        if place.kind == "terraform":
            self._terraform_region(place, old, new)
            return
        source = YamlFile.read(self.files.text(place.file), place.file)
        steps = parse_path(str(place.path))
        found = source.find(steps, place.document or None)
        if found is None or found.value not in (old, new):
            line, value = (found.line, repr(found.value)) if found is not None else (None, "nothing")
            raise refused("differs_from_plan", place.file, line, f"{place.path} is {value}, the plan is for {old!r}",
                          f"correct {MAPPING_PATH}")  # fmt: skip
        self._put(source.set(steps, new, document=place.document or None))

    def _terraform_region(self, place: Region, old: str, new: str) -> None:
        """Only a list of regions that modules or resources are made from: then the old ones are destroyed too."""
        address = str(place.address)
        kind, _, name = address.partition(".")
        if kind != "var" or "." in name:
            raise refused(
                "orphans_resource", place.file, None,
                f"changing {address} makes a new resource and leaves the old one running, out of Terraform's sight"
                if kind == "provider" or address.rpartition(".")[2] in _PLACES
                else f"{address} is not a list of regions that resources are made from",
                "make the resources from a list with for_each, and map that variable",
            )  # fmt: skip
        folder = posixpath.dirname(place.file)
        files = self._hcl(folder)
        readers = [use for file in files for use in file.uses("var", name)]
        wrong = [u for u in readers if u.name not in ("for_each", "count") and not _harmless(u.address)]
        if wrong or not any(u.name in ("for_each", "count") for u in readers):
            use = wrong[0] if wrong else None
            where, line = (use.file, use.line) if use else (place.file, None)
            what = f"{use.address}.{use.name}" if use else "no for_each"
            raise refused("orphans_resource", where, line, f"var.{name} is read by {what}: the old one would not be "
                          "destroyed", "read it only in for_each of what is made by region")  # fmt: skip
        setting = _variable(files, name)
        file, at, attribute = setting
        self._put(file.set(at, attribute, new, words={}, element=old))
        self.terraform.add(folder)

    # Size and capacity

    def _resized(self, workload: Workload) -> None:
        try:
            scale = Decimal(str(self.order.proposed.get("vcpus_scale")))
        except InvalidOperation:
            raise TargetRefused("unsupported_change", "the plan names no share of the vCPUs") from None
        if not 0 < scale < 1:
            raise TargetRefused("unsupported_change", f"a share of {scale} of the vCPUs is no smaller size")
        for place in self._places(workload.size, "size"):
            if place.kind == "terraform":
                self._instance(place, scale)
            else:
                self._cpu(place, scale)

    def _cpu(self, place: Size, scale: Decimal) -> None:
        base = parse_path(place.path or f"{_CRONJOB_CONTAINERS}[name={place.container}].resources")
        document = place.document or None
        resized = False
        for part in ("requests", "limits"):
            source = YamlFile.read(self.files.text(place.file), place.file)
            try:
                found = source.find((*base, part, "cpu"), document)
            except TargetRefused as error:
                if error.reason != "missing_value":
                    raise
                found = None
            if found is None:
                continue
            new = _less_cpu(found.value, scale)
            if new is None:
                raise refused("unresolvable_value", place.file, found.line, f"{found.value!r} is not a CPU quantity",
                              "write it as 500m or 0.5")  # fmt: skip
            written: str | int = int(new) if found.tag == "int" and new.isdigit() else new
            self._put(source.set((*base, part, "cpu"), written, document=document))
            resized = True
        if not resized:
            raise refused("missing_value", place.file, None, "the container asks for no CPU", "write its request first")

    def _instance(self, place: Size, scale: Decimal) -> None:
        address, _, name = str(place.address).rpartition(".")
        folder = posixpath.dirname(place.file)
        files = self._hcl(folder)
        if address == "var":
            file, at, attribute = _variable(files, name)
        else:
            setting = resolve(files, address, name)
            file, at, attribute = setting.file, setting.address, setting.name
        found = file.find(at, attribute)
        if found is None:
            raise refused("missing_value", place.file, None, f"there is no {place.address}", f"correct {MAPPING_PATH}")
        now = found.text.strip('"')
        line = file.line_of(found)
        if now not in place.vcpus:
            raise refused("no_such_size", file.file, line, f"{found.text} is not among the sizes of the mapping",
                          f"add it to 'vcpus' in {MAPPING_PATH}")  # fmt: skip
        wanted = Decimal(str(place.vcpus[now])) * scale
        family = now.partition(".")[0]
        fits = [t for t, vcpus in place.vcpus.items() if Decimal(str(vcpus)) == wanted]
        fits = [t for t in fits if t.partition(".")[0] == family] or fits
        if len(fits) != 1:
            raise refused("no_such_size", file.file, line, f"{len(fits)} sizes have {wanted.normalize():f} vCPUs, "
                          f"which is {scale} of {now}", f"add one to 'vcpus' in {MAPPING_PATH}")  # fmt: skip
        self._put(file.set(at, attribute, fits[0], words={}))
        self.terraform.add(folder)

    def _capacity(self, place: Capacity) -> None:
        if place.kind == "manifest":
            source = YamlFile.read(self.files.text(place.file), place.file)
            self._put(source.set(parse_path(str(place.path)), place.spot, document=place.document or None))
            return
        address, _, name = str(place.address).rpartition(".")
        folder = posixpath.dirname(place.file)
        files = self._hcl(folder)
        if address == "var":
            file, at, attribute = _variable(files, name)
        else:
            setting = resolve(files, address, name)
            file, at, attribute = setting.file, setting.address, setting.name
        self._put(file.set(at, attribute, place.spot, words={}))
        self.terraform.add(folder)

    def _hcl(self, folder: str) -> list[HclFile]:
        """Every Terraform file of a folder: a value set in one may be read in another."""
        return [
            HclFile.read(self.files.text(f), f) for f in self.files.folder(folder) if f.endswith((".tf", ".tfvars"))
        ]

    def _put(self, edit: Edit) -> None:
        self.files.put(edit)
        self.edits.append(edit)


def _common(order: Order) -> _Move:
    """The one move all groups make. Refused where they differ: a repository holds one schedule and one place."""
    groups: Sequence[Mapping[str, Any]] = order.proposed.get("placements") or ()
    if not groups:
        raise TargetRefused("unsupported_change", "the plan places no group")
    moves = {(str(g["region"]), round(float(g["delay_hours"]) * 60)) for g in groups}
    if len(moves) > 1:
        shown = ", ".join(f"{region} +{minutes / 60:g} h" for region, minutes in sorted(moves)[:4])
        raise TargetRefused(
            "groups_disagree", f"{len(groups)} groups move differently ({shown}); files hold one schedule"
        )
    region, minutes = moves.pop()
    starts = tuple(datetime.fromisoformat(str(g["requested_start"])) for g in groups)
    return _Move(region, minutes, starts)


def _less_cpu(quantity: str, scale: Decimal) -> str | None:
    """A share of a CPU quantity, in the unit it is written in where that is exact, else in whole thousandths."""
    milli = quantity.endswith("m")
    try:
        cores = Decimal(quantity.removesuffix("m")) / (1000 if milli else 1)
    except InvalidOperation:
        return None
    if not cores.is_finite() or cores <= 0:
        return None
    thousandths = (cores * scale * 1000).to_integral_value(ROUND_CEILING)
    if milli or thousandths % 1000:
        return f"{thousandths:f}m"
    return f"{thousandths / 1000:f}"


def _variable(files: Sequence[HclFile], name: str) -> tuple[HclFile, str, str]:
    """Where a variable is set: in the last file of values, else its default."""
    values = sorted((f for f in files if f.file.endswith(".tfvars")), key=lambda f: (".auto." in f.file, f.file))
    for file in reversed(values):
        if file.find("", name) is not None:
            return file, "", name
    for file in files:
        if file.find(f"variable.{name}", "default") is not None:
            return file, f"variable.{name}", "default"
    names = ", ".join(f.file for f in files) or MAPPING_PATH
    raise refused(
        "unresolvable_value", names, None, f"var.{name} has no value in this folder", "map the file that sets it"
    )


def _harmless(address: str) -> bool:
    """Blocks that may read the list of regions beside what is made from it."""
    return address.split(".")[0] in ("variable", "output")


def _same_item(source: YamlFile, cron: Found, zone: Found) -> bool:
    """Whether a time zone stands in the same item of the list as a cron line."""
    low, high = sorted((cron.span[0], zone.span[0]))
    between = source.text[low:high]
    return not any(line.lstrip().startswith("- ") for line in between.split("\n")[1:])

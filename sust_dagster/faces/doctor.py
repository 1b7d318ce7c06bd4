"""`sust doctor`: is the environment whole, and is the project what it says it is?

Belongs here: checks a person can act on, each with its fix. It reads; it mends nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sust_dagster.settings import PROJECT_FILE, Project, load_project
from sust_dagster.world.lake import Lake, LakeError
from sust_dagster.world.schemas import TABLES, TableSpec

#: Packages whose pairing has been measured; another version may work, but nobody looked.
_PACKAGES = ("dagster", "dagster-dbt", "dbt-core", "dbt-duckdb", "duckdb", "pandas", "numpy", "pyarrow", "deltalake")


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it is well, what was seen, what would mend it."""

    subject: str
    ok: bool
    detail: str
    fix: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "fix": "" if self.ok else self.fix}


@dataclass(frozen=True)
class Examined:
    """Everything looked at, and each step of the loop by name where there is a project to look at."""

    findings: list[Finding]
    steps: dict[str, dict[str, Any]]

    @property
    def ok(self) -> bool:
        return all(f.ok for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {"findings": [f.as_dict() for f in self.findings], "steps": self.steps, "ok": self.ok}


def examine(root: Path | None) -> list[Finding]:
    """Everything worth knowing about this environment and, if ``root`` holds one, the project in it."""
    return examined(root).findings


def examined(root: Path | None) -> Examined:
    """What :func:`examine` finds, with the steps of the loop."""
    findings = list(_environment())
    folder = root or Path("demo")
    if root is None and not (folder / PROJECT_FILE).exists():
        return Examined(findings, {})
    try:
        project = load_project(folder)
    except ValueError as error:
        return Examined([*findings, Finding("project", False, str(error), "name the folder with --project")], {})
    findings.append(Finding("project", True, f"{project.root} ({project.source}, from {project.start:%Y-%m-%d %H:%M})"))
    books = list(_books(project))
    findings += [*books, *_lake(project), *_freshness(project)]
    steps: dict[str, dict[str, Any]] = {}
    if not all(f.ok for f in books):
        return Examined(findings, steps)
    findings += _steps(project, steps)
    return Examined([*findings, *_execution(project)], steps)


def _environment() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info >= (3, 11), version, "use Python 3.11 or later")
    for name in _PACKAGES:
        try:
            yield Finding(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed", "make install")
    dbt = Path(sys.executable).with_name("dbt")
    found = str(dbt) if dbt.exists() else shutil.which("dbt")
    yield Finding(
        "dbt command", found is not None, "beside this Python" if dbt.exists() else str(found), "make install"
    )


def _books(project: Project) -> Iterator[Finding]:
    from sqlalchemy.exc import SQLAlchemyError

    from sust_dagster.world.books import HEAD, Books, BooksError

    path = project.root / "books.db"
    if not project.books_url and not path.exists():
        yield Finding("books", False, f"{path} is not there", "run `sust backfill`")
        return
    try:
        with Books(project.books_address) as books:  # not Books.open: that would migrate them
            revision = books.revision()
            if revision != HEAD:
                detail = f"at revision {revision}, this release needs {HEAD}"
                yield Finding("books", False, detail, "run `sust backfill`, which brings them up to date")
                return
            factors = books.read("emission_factors")
    except (SQLAlchemyError, BooksError) as error:
        fix = "start their server, or mend books_url" if project.books_url else "restore books.db from a copy"
        yield Finding("books", False, str(error).splitlines()[0], fix)
        return
    fix = "materialise the asset emission_factors, or run `sust backfill`"
    yield Finding("emission factors", factors.num_rows > 0, f"{factors.num_rows} versions", fix)


def _lake(project: Project) -> Iterator[Finding]:
    from deltalake.exceptions import DeltaError

    lake = Lake(project.lake_root)
    for spec in (t for t in TABLES.values() if t.home == "lake"):
        subject = f"lake: {spec.name}"
        try:
            found = _table(lake, spec)
        except (DeltaError, LakeError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding(subject, False, f"cannot be read: {reason}", "restore the table's folder from a copy")
            continue
        if found is not None:
            yield found


def _table(lake: Lake, spec: TableSpec) -> Finding | None:
    """One table of the lake; None where it is not there yet."""
    version = lake.version(spec.name)
    if version is None:
        return None
    slots = lake.slots(spec.name)
    bad = _damaged(lake, spec.name) if lake.local else []
    detail = f"version {version}, {len(slots)} {spec.partition}s, {len(lake.restatements(spec.name))} restatements"
    if bad:
        detail = f"{len(bad)} files are missing or not what their name says, first: {bad[0]}"
    return Finding(f"lake: {spec.name}", not bad, detail, "restore the file from a copy; its name is its SHA-256")


def _damaged(lake: Lake, table: str) -> list[str]:
    """Active files whose bytes do not have the hash in their name."""
    paths = sorted(set(lake.inventory([table]).column("path").to_pylist()))
    damaged = []
    for path in paths:
        file = Path(lake.root, table, path)
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != file.stem[-64:]:
            damaged.append(f"{table}/{path}")
    return damaged


def _freshness(project: Project) -> Iterator[Finding]:
    if project.source == "simulated":
        return  # its clock is its own
    from sust_dagster.world.lake import slot_start

    slots = Lake(project.lake_root).slots("activity_ledger")
    end = project.last_hour_end(datetime.now(UTC))
    hours = (end - slot_start(max(slots))).total_seconds() / 3600 - 1 if slots else float("inf")
    ok = hours <= project.freshness_limit_hours
    yield Finding(
        "freshness", ok, f"newest activity is {hours:.0f} h old", "look at the billing source and its schedule"
    )


def _steps(project: Project, steps: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """The heartbeat of each step that ever ran; ``steps`` is filled with all of them."""
    from deltalake.exceptions import DeltaError
    from sqlalchemy.exc import SQLAlchemyError

    from sust_dagster.orchestration.heartbeats import loop_health

    now = project.present()
    try:
        with _instance(project) as instance:
            found = loop_health(project, now, instance)
    except (DeltaError, LakeError, SQLAlchemyError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding("heartbeats", False, f"cannot be read: {reason}", "mend what the other findings name first")
        return
    for step, state in found.items():
        steps[step] = state.as_dict(now)
        if state.mode != "not started":
            mode = "" if state.mode == "normal" else f"{state.mode}: "
            yield Finding(f"heartbeat: {step}", state.mode == "normal", f"{mode}{state.reason}", state.remedy)


@contextmanager
def _instance(project: Project) -> Generator[Any]:
    """The project's Dagster instance to look at, or None where it has none; nothing is made or mended."""
    import dagster as dg
    from dagster._core.instance.ref import InstanceRef

    from sust_dagster.faces.runs import variable

    folder = project.root / "dagster"
    if not (folder / "dagster.yaml").exists():
        yield None
        return
    # Its settings ask for the folder by this name.
    with (
        variable("DAGSTER_HOME", str(folder)),
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder))) as seen,
    ):
        yield seen


def _execution(project: Project) -> Iterator[Finding]:
    """Whether anything can be carried out, and what became of it; nothing where nothing was ever planned."""
    from sust_dagster.connectors.execution import closed_target
    from sust_dagster.orchestration.execution_desk import FAILED, STUCK
    from sust_dagster.world.books import Books

    lake = Lake(project.lake_root)
    if lake.version("recommendations") is None or not lake.slots("recommendations"):
        return
    closed = closed_target(project)
    yield Finding("execution target", closed is None, closed or project.execution_target, "set execution_target")
    state = "on" if project.execution_enabled else "off: nothing further is begun"
    yield Finding("execution", project.execution_enabled, state, "set execution_enabled = true in sust.toml")
    with Books(project.books_address) as books:
        log = books.read("decision_log", columns=["status", "approved_at"])
        alerts = books.read("alerts").to_pylist()
    states = log.column("status").to_pylist()
    shown = ("proposed", "approved", "executing", "executed", "verified", "failed")
    detail = ", ".join(f"{states.count(s)} {s}" for s in shown)
    yield Finding("decisions", True, detail)
    seen = {a["alert_id"] for a in alerts if a["event"] == "acknowledged"}
    open_alerts = [a for a in alerts if a["event"] == "raised" and a["alert_id"] not in seen]
    bad = [a for a in open_alerts if a["kind"] in (FAILED, STUCK)]
    first = f", first: {bad[0]['text']}" if bad else ""
    fix = "look at each with `sust alerts`, then acknowledge it"
    yield Finding("executions that failed", not bad, f"{len(bad)} not acknowledged{first}", fix)

"""Dagster runs without a server: the project's own instance, driven in this process.

Belongs here: opening the instance, running a range as one run, and clearing what a killed process left behind.
Which hours are done is said in ``hours``; the assets and what they do belong to the orchestration.
"""

from __future__ import annotations

import io
import logging
import os
import socket
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from sust_dagster.orchestration.event_log import SETTING as EVENT_LOG_SETTING
from sust_dagster.orchestration.partitions import day_key, key_range_tags, range_tags
from sust_dagster.orchestration.run_storage import SETTING as RUN_SETTING
from sust_dagster.settings import Project

_PROCESS_TAG = "sust/process"
_INSTANCE_CONFIG = f"""\
# The instance of this project: everything in this folder, nothing sent anywhere.
{RUN_SETTING}{EVENT_LOG_SETTING}telemetry:
  enabled: false
run_retries:
  enabled: false
retention:
  schedule:
    purge_after_days: 30
  sensor:
    purge_after_days: 7
"""

#: A range run stores an event per partition and asset; these make Dagster write them many at a time.
EVENT_SWITCHES = {
    "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS": "1",
    "DAGSTER_EVENT_BATCH_SIZE": "500",
    "DAGSTER_DISABLE_TELEMETRY": "yes",
}

Progress = Callable[[str, int], None]


class RunError(RuntimeError):
    """A Dagster run failed; the message names the steps and checks that did."""


def instance_folder(project: Project) -> Path:
    """Where the project's Dagster instance lives; made on first use."""
    folder = project.root / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "dagster.yaml"
    if not config.exists():
        config.write_text(_INSTANCE_CONFIG)
    return folder


@contextmanager
def open_instance(project: Project) -> Generator[dg.DagsterInstance]:
    """The project's instance; runs of processes that died are marked as failed first."""
    folder = str(instance_folder(project))
    for name, value in EVENT_SWITCHES.items():
        os.environ.setdefault(name, value)
    # A process of its own to catch what each step prints takes longer than most steps; the faces print nothing there.
    quiet = {
        "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    }
    with (
        variable("DAGSTER_HOME", folder),
        dg.DagsterInstance.from_ref(InstanceRef.from_dir(folder, overrides=quiet)) as instance,
    ):
        _bury_dead_runs(instance)
        yield instance


@contextmanager
def variable(name: str, value: str) -> Generator[None]:
    """An environment variable, set for a time."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _bury_dead_runs(instance: dg.DagsterInstance) -> None:
    statuses = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
        process = run.tags.get(_PROCESS_TAG)
        if process and _is_gone(process):
            instance.report_run_failed(run, "the process that ran it is gone; its range is run again")


def _this_process() -> str:
    """Host, process id and, where the system tells, when it started: ids are used again."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{_started(pid) or '-'}"


def _started(pid: int) -> str | None:
    """Start of a process in ticks since boot, from Linux's /proc; ``None`` for one that has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else fields[18]


def _is_gone(process: str) -> bool:
    """Whether a process of this host has ended; of another host's we cannot know."""
    host, pid, started = process.rsplit(":", 2)
    if host != socket.gethostname():
        return False
    if Path("/proc/self/stat").exists():
        return _started(int(pid)) != started
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def run_job(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    *,
    window: tuple[datetime, datetime] | None = None,
    days: tuple[datetime, datetime] | None = None,
    reason: str | None = None,
    progress: Progress | None = None,
    assets: Collection[str] = (),
    config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a job once in this process: over the hours of ``window``, or the first to the last of ``days``.

    ``assets``: of the job's assets these only. ``config``: run config of its ops.

    Raises :class:`RunError` naming what failed.
    """
    tags = {_PROCESS_TAG: _this_process()}
    if window is not None:
        tags.update(range_tags(*window))
    if days is not None:
        tags.update(key_range_tags(day_key(days[0]), day_key(days[1])))
    if reason:
        tags["sust/reason"] = reason
    # dbt writes its own log to stdout, which belongs to the command's data.
    with _watched(progress), redirect_stdout(io.StringIO()):
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance,
            tags=tags,
            raise_on_error=False,
            asset_selection=[dg.AssetKey(a) for a in assets] or None,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
        )
    if not result.success:
        raise RunError(_why(result))
    return result


def _why(result: dg.ExecuteInProcessResult) -> str:
    checks = [e for e in result.get_asset_check_evaluations() if not e.passed]
    lines = [f"check {e.check_name} on {e.asset_key.to_user_string()}: {e.description}" for e in checks]
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        root = error
        while root is not None and root.cause is not None:
            root = root.cause
        if root is not None:
            lines.append(f"step {event.step_key}: {root.message.strip()}")
    return "\n".join(lines) or f"run {result.run_id} failed"


@contextmanager
def _watched(progress: Progress | None) -> Generator[None]:
    """Report each stored partition while a run goes on: Dagster logs every event it stores."""
    if progress is None:
        yield
        return

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event = getattr(record, "dagster_event", None)
            if event is not None and event.event_type_value in {"ASSET_MATERIALIZATION", "STEP_START"}:
                progress(event.step_key or "", int(event.event_type_value == "ASSET_MATERIALIZATION"))

    handler = Watch()
    logger = logging.getLogger("dagster")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)

"""kill -9 in the middle of a backfill, then run it again: the lake is that of a run nobody interrupted."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg
import pytest
from loop_worlds import bars, lake_of

from sust_dagster.faces.backfill import run_backfill
from sust_dagster.faces.runs import open_instance
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.settings import Project, load_project, simulated_project

SEED = 20260101
DAYS = 4


def _backfill(root: Path) -> None:
    """What the killed process does: the whole of `sust backfill`."""
    run_backfill(load_project(root), None, None, "backfill", bars(), marts=False)


def started(root: Path) -> BaseProcess:
    """A backfill in a process of its own, which has Dagster loaded already: no time is spent on imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sust_dagster.faces.backfill", "sust_dagster.orchestration.resources"])
    process = context.Process(target=_backfill, args=(root,))
    process.start()
    return process


def empty(root: Path) -> Project:
    project = simulated_project(root, days=DAYS, seed=5)
    project.save()
    return project


def unread(project: Project) -> list[Path]:
    """Files of the lake that no commit names."""
    lake = lake_of(project)
    named = {f"{r['table_name']}/{r['path']}" for r in lake.inventory(HOURLY_ASSETS).to_pylist()}
    files = [p for p in Path(lake.root).rglob("*") if p.is_file() and "_delta_log" not in p.parts]
    return [p for p in files if str(p.relative_to(lake.root)) not in named]


def statuses(project: Project) -> list[dg.DagsterRunStatus]:
    with open_instance(project) as instance:
        return [r.status for r in instance.get_runs()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Digest of an uninterrupted backfill, and how long one takes once its process is warm."""
    folder = tmp_path_factory.mktemp("whole")
    seconds = 0.0
    for name in ("cold", "warm"):
        project = empty(folder / name)
        start = time.monotonic()
        process = started(project.root)
        process.join()
        seconds = time.monotonic() - start
        assert process.exitcode == 0
    assert not unread(project)
    return lake_of(project).digest(), seconds


@pytest.mark.slow
def test_a_backfill_killed_at_twenty_random_moments_ends_as_one_that_was_not(
    whole: tuple[str, float], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    digest, seconds = whole
    moments = random.Random(SEED)
    killed = committed = torn = dead = 0
    for number in range(20):
        project = empty(tmp_path / str(number))
        process = started(project.root)
        process.join(moments.uniform(0, seconds))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        lake = lake_of(project)
        versions = [lake.version(t) for t in HOURLY_ASSETS]
        committed += any(versions) and None in versions
        torn += bool(unread(project))
        whole_hours = {t: lake.slots(t) for t in HOURLY_ASSETS}
        if project.root.joinpath("dagster", "history").exists():
            ended = statuses(project)  # opening the instance marks what died
            assert dg.DagsterRunStatus.STARTED not in ended
            dead += dg.DagsterRunStatus.FAILURE in ended
        run_backfill(project, None, None, "run again", bars(), marts=False)
        assert lake.digest() == digest, f"moment {number}"
        assert all(slots.items() <= lake.slots(t).items() for t, slots in whole_hours.items())
        assert not [r for t in HOURLY_ASSETS for r in lake.restatements(t)]
        shutil.rmtree(project.root)
    # The moments were moments of a backfill: they fell before, between and after commits.
    assert killed >= 15, killed
    assert dead >= 5, dead
    record_property("moments", f"killed {killed}, between commits {committed}, orphans {torn}, marked failed {dead}")


def killed_when(project: Project, moment: Callable[[], bool]) -> None:
    """Start a backfill and kill it as soon as ``moment`` says."""
    process = started(project.root)
    limit = time.monotonic() + 120
    while not moment():
        assert process.is_alive() and time.monotonic() < limit, "the moment did not come"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_files_that_no_commit_names_are_not_read(whole: tuple[str, float], tmp_path: Path) -> None:
    """Killed while the ledger's files are being written, before the commit that names them."""
    project = empty(tmp_path / "torn")
    ledger = Path(project.lake_root, "activity_ledger")
    killed_when(project, lambda: len(list(ledger.rglob("*.parquet"))) > 10)
    lake = lake_of(project)
    orphans = unread(project)
    assert orphans
    assert lake.version("activity_ledger") is None
    assert lake.read("activity_ledger").num_rows == 0
    run_backfill(project, None, None, "run again", bars(), marts=False)
    assert lake.digest() == whole[0]
    # What was left half-written beside them stays out of every read.
    torn = ledger / "date=2026-01-01" / ".2026-01-01T00-torn.parquet.1.tmp"
    torn.write_bytes(b"PAR1 torn")
    assert lake.digest() == whole[0]
    assert torn in unread(project)


@pytest.mark.slow
def test_what_died_is_marked_failed_and_only_that(whole: tuple[str, float], tmp_path: Path) -> None:
    project = empty(tmp_path / "dead")
    ledger = Path(project.lake_root, "activity_ledger", "_delta_log")
    killed_when(project, lambda: ledger.is_dir())
    assert dg.DagsterRunStatus.FAILURE in statuses(project)
    with open_instance(project) as instance:
        (failed,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        said = [
            e.message
            for e in instance.all_logs(failed.run_id)
            if e.dagster_event_type == dg.DagsterEventType.RUN_FAILURE
        ]
        assert said == ["the process that ran it is gone; its range is run again"]
    run_backfill(project, None, None, "run again", bars(), only_missing=True, marts=False)
    assert lake_of(project).digest() == whole[0]
    other = empty(tmp_path / "alive")
    process = started(other.root)
    log = Path(other.lake_root, "activity_ledger", "_delta_log")
    while not log.is_dir():
        time.sleep(0.001)
    alive = statuses(other)  # another process looks on while it runs
    process.join()
    assert process.exitcode == 0
    assert dg.DagsterRunStatus.FAILURE not in alive + statuses(other)

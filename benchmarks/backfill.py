"""How long a month, or a year, of hours takes through Dagster as one run, and what of it is Dagster.

Run as ``python -m benchmarks.backfill [days ...]``; the default is 30 days (720 hours), ``365`` gives 8,760 hours.

The peer is the same work in the same process: the same domain functions called on the same range and the same five
tables written with ``Lake.write``, without assets, checks, metadata or an event log.
"""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from sust_dagster.settings import Project, simulated_project


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def project_in(folder: Path, days: int) -> Project:
    project = simulated_project(folder, days=days, seed=42)
    project.save()
    return project


def through_dagster(project: Project) -> dict[str, Any]:
    """`sust backfill` without marts."""
    from sust_dagster.faces.backfill import run_backfill

    bars = Progress(console=Console(file=io.StringIO()))
    return run_backfill(project, None, None, "benchmark", bars, marts=False)


def without_dagster(project: Project, spent: Counter[str]) -> None:
    """The same tables from the same functions, timed as domain work and as the lake's."""
    from sust_dagster.agents.accountant import account
    from sust_dagster.agents.ingestor import ingest_range
    from sust_dagster.connectors.grid import hourly
    from sust_dagster.orchestration.resources import ProjectResource

    window = (project.start, project.last_hour_end())
    world = ProjectResource(root=str(project.root))
    world.install_factors()
    took, sensed = seconds(
        lambda: ingest_range(world.billing.read(*window), *window, world.ingest_options, undated=project.start)
    )
    spent["domain"] += took
    took, grid = seconds(lambda: hourly(world.grid, *window, world.regions).table)
    spent["domain"] += took
    ((_, _, factors),) = world.factor_epochs(*window)
    took, emissions = seconds(
        lambda: account(sensed.ledger, grid, factors, method=project.method, instances=world.instances)
    )
    spent["domain"] += took
    tables = {
        "ingest_counts": ("ingestor", sensed.counts),
        "quarantine": ("ingestor", sensed.quarantine),
        "activity_ledger": ("ingestor", sensed.ledger),
        "grid_intensity": ("accountant", grid),
        "emissions": ("accountant", emissions),
    }
    for name, (writer, table) in tables.items():
        took, _ = seconds(lambda: world.world.lake.write(name, table, *window, writer=writer))  # noqa: B023
        spent["lake write"] += took


@contextmanager
def timed_lake(spent: Counter[str]) -> Iterator[None]:
    """Add up the time that a Dagster run spends in the lake and in its event log."""
    from sust_dagster.orchestration.event_log import BatchedSqliteEventLog
    from sust_dagster.world.lake import Lake

    watched = [
        (Lake, "write", "lake write"),
        (Lake, "read", "lake read"),
        (BatchedSqliteEventLog, "store_event", "Dagster events"),
        (BatchedSqliteEventLog, "store_event_batch", "Dagster events"),
    ]
    originals = [getattr(owner, name) for owner, name, _ in watched]

    def counted(original: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            depth[what] += 1
            try:
                return original(*args, **kwargs)
            finally:
                depth[what] -= 1
                if not depth[what]:
                    spent[what] += time.perf_counter() - start

        return call

    depth: Counter[str] = Counter()
    for (owner, name, what), original in zip(watched, originals, strict=True):
        setattr(owner, name, counted(original, what))
    try:
        yield
    finally:
        for (owner, name, _), original in zip(watched, originals, strict=True):
            setattr(owner, name, original)


def run(days: int) -> None:
    """One size: prints the figures."""
    # Loaded before anything is timed: a command pays for it once, whatever the size.
    import sust_dagster.orchestration.build  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        direct, ranged = project_in(Path(folder, "direct"), days), project_in(Path(folder, "dagster"), days)
        plain: Counter[str] = Counter()
        alone, _ = seconds(lambda: without_dagster(direct, plain))
        spent: Counter[str] = Counter()
        with timed_lake(spent):
            total, result = seconds(lambda: through_dagster(ranged))
        again, second = seconds(lambda: through_dagster(ranged))
        rest = total - sum(spent.values())
        log = sum(p.stat().st_size for p in Path(ranged.root, "dagster").rglob("*") if p.is_file()) / 1e6
        print(
            f"{result['hours']:,} hours in {result['runs']} Dagster run: {total:.1f} s "
            f"({1000 * total / result['hours']:.1f} ms an hour)\n"
            f"  Dagster events {spent['Dagster events']:.1f} s, lake write {spent['lake write']:.1f} s, "
            f"lake read {spent['lake read']:.1f} s, domain {plain['domain']:.1f} s (measured without Dagster), "
            f"checks and everything else {rest - plain['domain']:.1f} s\n"
            f"  without Dagster: {alone:.1f} s (domain {plain['domain']:.1f} s, "
            f"lake write {plain['lake write']:.1f} s)  ratio {total / alone:.2f}\n"
            f"  second backfill: {again:.1f} s, lake commits {sum(second['commits'].values())}\n"
            f"  event log {log:.0f} MB  peak {peak_gb():.2f} GB",
            flush=True,
        )


def main(sizes: tuple[int, ...] = (30,)) -> None:
    """Print seconds, their split, the ratio to the same work without Dagster, and peak memory, per size.

    Each size runs in a process of its own, or the peak of the largest would be that of all.
    """
    for days in sizes:
        subprocess.run([sys.executable, "-m", "benchmarks.backfill", "--here", str(days)], check=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] == ["--here"]:
        run(int(arguments[1]))
    else:
        main(tuple(int(a) for a in arguments) or (30,))

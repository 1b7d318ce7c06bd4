"""`sust simulate`: what the simulated cloud does, as plain files.

Belongs here: writing jobs, bill and grid signal where any other tool can read them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from rich.progress import Progress

from sust_dagster.settings import SIMULATION_START

#: Days taken at once: a year of bills does not fit where a fortnight does.
_STEP_DAYS = 14


def simulate_files(out: Path, days: int, seed: int, bars: Progress) -> dict[str, Any]:
    """Write ``jobs.csv``, ``bill.parquet`` (FOCUS 1.2) and ``grid.csv`` of ``days`` days; returns counts."""
    from sust_dagster.simulator.cloud import FakeCloud
    from sust_dagster.simulator.focus_schema import FOCUS_SCHEMA

    cloud = FakeCloud(seed)
    start = SIMULATION_START
    end = start + timedelta(days=days)
    out.mkdir(parents=True, exist_ok=True)
    task = bars.add_task("simulate", total=days)
    jobs, bill_rows = 0, 0
    spend = 0.0
    with (
        replaced(out / "jobs.csv") as jobs_file,
        replaced(out / "bill.parquet") as bill_file,
        replaced(out / "grid.csv") as grid_file,
        pq.ParquetWriter(bill_file, FOCUS_SCHEMA, compression="zstd") as bill,
    ):
        sinks: dict[Path, pcsv.CSVWriter] = {}
        for first, last in _steps(start, end):
            table = cloud.jobs(first, last)
            grid = cloud.grid_signal(first, last)
            for path, rows in ((jobs_file, table), (grid_file, grid)):
                if path not in sinks:
                    sinks[path] = pcsv.CSVWriter(path, rows.schema)
                sinks[path].write_table(rows)
            rows = cloud.focus_rows(first, last)
            bill.write_table(rows)
            jobs += table.num_rows
            bill_rows += rows.num_rows
            spend += float(pc.sum(table.column("cost_usd")).as_py())
            bars.advance(task, (last - first).days)
        for sink in sinks.values():
            sink.close()
    return {"out": str(out), "days": days, "seed": seed, "jobs": jobs, "bill_rows": bill_rows, "spend_usd": spend}


@contextmanager
def replaced(path: Path) -> Generator[Path]:
    """A file beside ``path`` to write to; it takes the place of ``path`` only when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _steps(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        following = min(start + timedelta(days=_STEP_DAYS), end)
        yield start, following
        start = following

"""Projects of the loop tests, and bars that nobody sees."""

from __future__ import annotations

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from sust_dagster.settings import SIMULATION_START, Project
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.world.lake import Lake

START = SIMULATION_START
HOUR = timedelta(hours=1)


def bars() -> Progress:
    """Progress bars that are drawn nowhere."""
    return Progress(console=Console(file=io.StringIO()))


def lake_of(project: Project) -> Lake:
    return Lake(project.lake_root)


def focus_bill(hours: int, seed: int = 42) -> pa.Table:
    """What the simulated cloud bills for the first hours."""
    return FakeCloud(seed).focus_rows(START, START + hours * HOUR)


def files_project(root: Path, bill: pa.Table, hours: int, name: str = "bill.parquet") -> Project:
    """A project of a bill on disk; called again with another bill, the bill changed."""
    root.mkdir(parents=True, exist_ok=True)
    if name.endswith(".csv"):
        pcsv.write_csv(bill, root / name)
    else:
        pq.write_table(bill, root / name)
    project = Project(
        root=root / "project", source="files", billing=[str(root / name)], grid="static", start=START,
        end=START + hours * HOUR,
    )  # fmt: skip
    project.save()
    return project


def replaced(table: pa.Table, column: str, rows: list[int], change: Any) -> pa.Table:
    """``table`` with the values of some rows changed."""
    values = table.column(column).to_pylist()
    for row in rows:
        values[row] = change(values[row])
    field = table.schema.field(column)
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))

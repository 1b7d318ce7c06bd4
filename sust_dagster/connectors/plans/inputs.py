"""The files of `sust plan` as typed tables.

Belongs here: which columns each file has, under which names, and of which type. Does not belong here: reading cells
(``table_file``), judging values (``agents.planner.jobs`` and ``tables``; :func:`told_of` names the file they speak of).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from sust_dagster.agents.planner.jobs import OPTIONAL, REQUIRED, InputError
from sust_dagster.connectors.plans.table_file import PlanFileError, TableFile
from sust_dagster.world.schemas import UPCOMING_JOBS

__all__ = [
    "FileTable", "PlanFileError", "read_capacity", "read_egress", "read_jobs_file", "read_latency", "read_prices",
    "told_of",
]  # fmt: skip

#: Other names a column may have; ``sust simulate`` writes jobs with the second ones.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "category": ("category", "workload_category"),
    "requested_start": ("requested_start", "requested_at"),
    "rtt_ms": ("rtt_ms", "latency_ms", "latency_ms_p50"),
    "from_region": ("from_region", "from"),
    "to_region": ("to_region", "to"),
}


@dataclass(frozen=True)
class FileTable:
    """A file's typed table, and how its rows are named."""

    table: pa.Table
    path: str
    first_row: int


@contextmanager
def told_of(source: FileTable) -> Generator[None]:
    """Errors about the table inside are told as errors of the file, with its row numbers."""
    try:
        yield
    except PlanFileError:
        raise
    except InputError as error:
        raise PlanFileError(
            error.message, row=error.row, column=error.column, fix=error.fix, other=error.other, file=source.path,
            first_row=source.first_row,
        ) from error  # fmt: skip


def read_jobs_file(path: str | Path) -> FileTable:
    """The table of jobs; columns as declared for ``upcoming_jobs``. A file of no rows is a day without jobs."""
    file = TableFile.read(path)
    types = {name: UPCOMING_JOBS.column(name).type for name in (*REQUIRED, *OPTIONAL)}
    columns = {}
    for name, kind in types.items():
        own = file.find(_ALIASES.get(name, (name,)))
        if own is not None:
            columns[name] = _typed(file, own, kind)
    return FileTable(pa.table(columns), str(file.path), file.first_row)


def read_prices(path: str | Path) -> FileTable:
    """``region, usd_per_vcpu_hour[, ts]``."""
    return _read(path, {"region": pa.string(), "usd_per_vcpu_hour": pa.float64()}, hourly=True)


def read_capacity(path: str | Path) -> FileTable:
    """``region, vcpus[, ts]``."""
    return _read(path, {"region": pa.string(), "vcpus": pa.float64()}, hourly=True)


def read_egress(path: str | Path) -> FileTable:
    """``from_region, to_region, usd_per_gb``."""
    return _read(path, {"from_region": pa.string(), "to_region": pa.string(), "usd_per_gb": pa.float64()})


def read_latency(path: str | Path) -> FileTable:
    """``from_region, to_region, rtt_ms``."""
    return _read(path, {"from_region": pa.string(), "to_region": pa.string(), "rtt_ms": pa.float64()})


def _read(path: str | Path, types: Mapping[str, pa.DataType], *, hourly: bool = False) -> FileTable:
    file = TableFile.read(path)
    columns = {name: _typed(file, file.need(_ALIASES.get(name, (name,))), kind) for name, kind in types.items()}
    time = file.find(("ts",)) if hourly else None
    if time is not None:
        columns["ts"] = file.times(time)
    return FileTable(pa.table(columns), str(file.path), file.first_row)


def _typed(file: TableFile, own: str, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_timestamp(kind):
        return file.times(own)
    return file.numbers(own) if pa.types.is_floating(kind) else file.text(own)

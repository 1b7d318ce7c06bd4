"""The placements that are in force in a project's fake cloud: one file, outside the books.

Belongs here: its columns, reading it, replacing it whole or not at all. Does not belong here: which placements the
cloud takes (``simulator.api``), orders (``simulated``).

Every row is a placement of one intent, with its position in the order they were made; of several about the same jobs
the last one counts. So an intent is undone by removing its rows: what was there before comes forward by itself.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sust_dagster.simulator.placements import PLACEMENT_SCHEMA, Placements

#: Columns of the file.
FILE_SCHEMA = pa.schema([*PLACEMENT_SCHEMA, pa.field("intent_id", pa.string()), pa.field("position", pa.int64())])


def placements_path(root: Path) -> Path:
    """Where a project keeps the placements of its fake cloud."""
    return root / "cloud" / "placements.parquet"


def read_content(path: Path) -> bytes:
    """The file as it is at one moment; empty where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


#: Contents that were read or written last, and their rows: a writer looks at once at what it wrote.
_known: dict[bytes, pa.Table] = {}
_KEPT = 8


def rows_of(content: bytes) -> pa.Table:
    """Rows of a file's content by position."""
    if not content:
        return FILE_SCHEMA.empty_table()
    if content not in _known:
        rows = pq.read_table(pa.BufferReader(content), use_threads=False).cast(FILE_SCHEMA).sort_by("position")
        _remember(content, rows)
    return _known[content]


def _remember(content: bytes, rows: pa.Table) -> None:
    _known[content] = rows
    while len(_known) > _KEPT:
        _known.pop(next(iter(_known)), None)


def read_rows(path: Path) -> pa.Table:
    """Rows of the file by position; none where there is no file."""
    return rows_of(read_content(path))


def in_force(rows: pa.Table) -> Placements:
    """The placements that count: of those about the same jobs the last."""
    return Placements.from_rows(rows.sort_by("position").select(PLACEMENT_SCHEMA.names))


def next_position(rows: pa.Table) -> int:
    """Position of the next row."""
    return 0 if rows.num_rows == 0 else pc.max(rows.column("position")).as_py() + 1


def replace_rows(path: Path, rows: pa.Table) -> None:
    """Make ``rows`` the file's content. Killed at any point, the file is the old one or the new one, whole."""
    rows = rows.cast(FILE_SCHEMA).sort_by("position")
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="none", write_statistics=False)
    content = buffer.getvalue()
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    _remember(content, rows)


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the file for a read and the write that rests on it; other processes and threads wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

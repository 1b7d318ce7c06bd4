"""The lake: bulk tables as Delta (Parquet files plus an ACID commit log), on a disk or an object store.

Belongs here: writing a partition or a range atomically, reading a range or an older version, restatements,
compaction and content digests. Does not belong here: what the tables mean (``schemas``), who may write
them (``access``), any formula.

How a table lies on disk, so that anyone can check it without this code::

    <root>/<table>/_delta_log/...                                     the Delta commit log
    <root>/<table>/date=2026-01-01/2026-01-01T05-<sha256>.parquet     one file per slot (hour, day, ...)
    <root>/<table>/date=2026-01-01/2026-01-01-<sha256>.parquet        a compacted day of an hourly table

The name of a file holds the SHA-256 of its bytes: ``sha256sum`` is the whole integrity check, and a slot
rewritten with the same content is the same file, hence no commit. Different content is a restatement: a
new version whose commit names the slots, both hashes and the reason; the old file stays. Nothing is ever
vacuumed. A slot without rows has no file.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction

from sust_dagster.world.schemas import TABLES, TableSpec

_SLOT_FORMAT = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m-%d"}
_COMPACTED_KEY = b"sust.slots"
#: Rows of a row group of a compacted file.
_FOLDED_ROWS = 131_072
#: Rows up to which a file is small.
_SMALL = 10_000
#: Rows up to which slots are encoded one after the other.
_FEW = 50_000
#: Slots that are encoded at once.
_AT_ONCE = 8
#: Files up to this size and number are read one after the other: for so little the scanner takes twice the time.
_SMALL_BYTES, _FEW_FILES = 1_000_000, 200
#: Tables a thread keeps open.
_MOST_OPEN = 64
_COMMITTED_KEY = b"sust.committed"
_TABLE_CONFIGURATION: dict[str, str | None] = {
    # Old versions are evidence: neither files nor log entries expire.
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    # Opening a table reads the log since the last checkpoint.
    "delta.checkpointInterval": "10",
}
_ATTEMPTS = 8

#: Writer of a commit that folded files.
COMPACTION = "compaction"

#: What each thread has open, by address: see :meth:`Lake._current`.
_opened = threading.local()


class LakeError(RuntimeError):
    """The lake refused: bad range, rows outside their slot, restatement without a reason."""


@dataclass(frozen=True)
class Restatement:
    """One slot whose content changed: file hashes before and after (``None`` where there were no rows)."""

    slot: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Commit:
    """One version of a table: the data files it added and removed, by path in the table, in order."""

    table: str
    version: int
    writer: str
    """Who wrote it; :data:`COMPACTION` where files were folded, empty where this product did not."""
    start: str = ""
    end: str = ""
    """The range that was written, as ISO instants; empty for a compaction."""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def compaction(self) -> bool:
        """Whether it folded files and changed no content."""
        return self.writer == COMPACTION


@dataclass(frozen=True)
class WriteResult:
    """What a write did. ``version`` is the table version that holds the data, committed now or before."""

    table: str
    version: int
    committed: bool
    rows: int
    slots_written: tuple[str, ...] = ()
    slots_unchanged: int = 0
    restated: tuple[Restatement, ...] = field(default=())
    commits: tuple[Commit, ...] = ()
    """The commits it took: one, or more where a concurrent writer of the same slots had to be settled with."""


@dataclass(frozen=True)
class _File:
    """An active data file: its path in the table and the slots it holds, each with its content hash and the time of
    the commit that wrote that content; folding and unfolding a day move neither.
    """

    path: str
    slots: Mapping[str, str]
    size: int
    rows: int
    committed_ms: Mapping[str, int]

    @property
    def compacted(self) -> bool:
        return _name_parts(self.path)[0] not in self.slots


@dataclass
class _Open:
    """A table as a thread has it open, and the active files of the version it was last looked at in."""

    identity: tuple[int, int]
    delta: DeltaTable
    version: int = -1
    files: Sequence[_File] = ()


def slot_name(partition: str, instant: datetime) -> str:
    """Name of the slot that starts at ``instant``."""
    return instant.astimezone(UTC).strftime(_SLOT_FORMAT[partition])


def slot_start(slot: str) -> datetime:
    """Start of a slot from its name."""
    text = slot if "T" in slot else f"{slot}T00"
    return datetime.strptime(text, "%Y-%m-%dT%H").replace(tzinfo=UTC)


class Lake:
    """Delta tables under one root, written slot by slot.

    ``root`` is a directory or an object-store URL (``s3://bucket/prefix``); credentials and an endpoint
    override come from the usual environment variables.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root) if "://" in str(root) else str(Path(root).absolute())
        self._footers: dict[str, Mapping[bytes, bytes]] = {}

    # -- where things are ---------------------------------------------------------------------------

    @property
    def local(self) -> bool:
        return "://" not in self.root

    @cached_property
    def storage_options(self) -> dict[str, str]:
        """What the Delta writer needs beside the environment (plain HTTP to a local S3 server)."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
        return {"AWS_ALLOW_HTTP": "true"} if self.root.startswith("s3://") and endpoint.startswith("http://") else {}

    @cached_property
    def _filesystem(self) -> tuple[pafs.FileSystem, str]:
        if self.local:
            return pafs.LocalFileSystem(), self.root
        endpoint = os.environ.get("AWS_ENDPOINT_URL")
        if self.root.startswith("s3://") and endpoint:
            scheme, _, host = endpoint.partition("://")
            return pafs.S3FileSystem(endpoint_override=host, scheme=scheme), self.root.removeprefix("s3://")
        return pafs.FileSystem.from_uri(self.root)

    def uri(self, table: str) -> str:
        """Address of a table, for any Delta reader."""
        return f"{self.root}/{table}"

    @staticmethod
    def spec(table: str) -> TableSpec:
        spec = TABLES.get(table)
        if spec is None or spec.home != "lake" or spec.time_column is None:
            known = sorted(t.name for t in TABLES.values() if t.home == "lake")
            raise LakeError(f"{table} is not a table of the lake; tables: {', '.join(known)}")
        return spec

    def _delta(self, table: str, as_of: int | datetime | None = None) -> DeltaTable | None:
        if self.local and not Path(self.root, table, "_delta_log").is_dir():
            return None
        try:
            delta = DeltaTable(self.uri(table), storage_options=self.storage_options or None)
        except TableNotFoundError:
            return None
        if as_of is not None:
            delta.load_as_version(as_of)
        return delta

    def _current(self, table: str) -> _Open | None:
        """The table as it is now: opened once per thread, and brought up to date each time."""
        tables: dict[str, _Open] = _opened.__dict__.setdefault("tables", {})
        address = self.uri(table) if self.local else f"{self.uri(table)} {os.environ.get('AWS_ENDPOINT_URL')}"
        held, identity = tables.pop(address, None), self._identity(table)
        if held is not None and held.identity == identity:
            try:
                held.delta.update_incremental()
            except DeltaError:
                held = None
        else:
            held = None
        if held is None:
            delta = self._delta(table)
            if delta is None:
                return None
            held = _Open(identity, delta)
        tables[address] = held  # last used, last thrown out
        while len(tables) > _MOST_OPEN:
            del tables[next(iter(tables))]
        return held

    def _identity(self, table: str) -> tuple[int, int]:
        """What tells a table from another one in its place; remote tables are taken to stay."""
        if not self.local:
            return 0, 0
        try:
            first = Path(self.root, table, "_delta_log", f"{0:020d}.json").stat()
        except FileNotFoundError:
            return -1, -1
        return first.st_ino, first.st_mtime_ns

    # -- what is in a table -------------------------------------------------------------------------

    def _active(self, table: str, as_of: int | datetime | None = None) -> Sequence[_File]:
        """Active files of a table, now or at ``as_of``."""
        if as_of is not None:
            return self._files(table, self._delta(table, as_of))
        return self._files_of(table, self._current(table))

    def _files_of(self, table: str, held: _Open | None) -> Sequence[_File]:
        """Active files of a table in the version it is open at."""
        if held is None:
            return ()
        version = held.delta.version()
        if held.version != version:
            held.files, held.version = self._files(table, held.delta), version
        return held.files

    def _files(self, table: str, delta: DeltaTable | None) -> Sequence[_File]:
        """Active files of one version of a table."""
        if delta is None:
            return ()
        actions = pa.table(delta.get_add_actions(flatten=True))
        # The log keeps paths URL-encoded where they hold special characters; ours hold none but '='.
        paths = [p.replace("%3D", "=") for p in actions.column("path").to_pylist()]
        sizes = actions.column("size_bytes").to_pylist()
        rows = actions.column("num_records").to_pylist()
        times = pc.cast(pc.cast(actions.column("modification_time"), pa.timestamp("ms")), pa.int64()).to_pylist()
        hourly = self.spec(table).partition == "hour"
        files = []
        for path, size, count, millis in zip(paths, sizes, rows, times, strict=True):
            slot, sha = _name_parts(path)
            slots, committed = {slot: sha}, {slot: millis}
            if hourly and "T" not in slot:
                footer = self._footer(table, path)
                slots = json.loads(footer[_COMPACTED_KEY])
                committed = dict.fromkeys(slots, millis) | json.loads(footer.get(_COMMITTED_KEY, b"{}"))
            files.append(_File(path, slots, size, count or 0, committed))
        return files

    def _footer(self, table: str, path: str) -> Mapping[bytes, bytes]:
        """What the footer of a compacted file says."""
        key = f"{table}/{path}"
        if key not in self._footers:
            fs, base = self._filesystem
            self._footers[key] = pq.read_metadata(fs.open_input_file(f"{base}/{key}")).metadata or {}
        return self._footers[key]

    def version(self, table: str) -> int | None:
        """Current version, or ``None`` before the first write."""
        held = self._current(table)
        return None if held is None else held.delta.version()

    def slots(self, table: str, as_of: int | datetime | None = None) -> dict[str, str]:
        """Slot name → SHA-256 of its content, in slot order."""
        merged: dict[str, str] = {}
        for f in self._active(table, as_of):
            merged.update(f.slots)
        return dict(sorted(merged.items()))

    def inventory(self, tables: Sequence[str] | None = None) -> pa.Table:
        """One row per table and slot: table_name, slot, sha256, path, bytes (of the file), committed_at."""
        names = sorted(tables or (t.name for t in TABLES.values() if t.home == "lake"))
        rows = [
            (t, slot, sha, f.path, f.size, f.committed_ms[slot])
            for t in names
            for f in self._active(t)
            for slot, sha in f.slots.items()
        ]
        kinds = (pa.string(), pa.string(), pa.string(), pa.string(), pa.int64(), pa.timestamp("ms", tz="UTC"))
        columns = list(zip(*sorted(rows), strict=True)) or [()] * len(kinds)
        names = ["table_name", "slot", "sha256", "path", "bytes", "committed_at"]
        return pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], names=names)

    def digest(self, tables: Sequence[str] | None = None) -> str:
        """SHA-256 over (table, slot, content hash) of everything current: equal lakes, equal digests.

        Independent of commits, their times and compaction.
        """
        names = sorted(tables or (t.name for t in TABLES.values() if t.home == "lake"))
        lines = (f"{t} {slot} {sha}\n" for t in names for slot, sha in self.slots(t).items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    # -- reading ------------------------------------------------------------------------------------

    def dataset(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        as_of: int | datetime | None = None,
    ) -> pads.Dataset:
        """The files that can hold rows of ``[start, end)`` as an Arrow dataset, to scan with push-down.

        Built on Arrow's own file systems: the dataset of ``DeltaTable.to_pyarrow_dataset`` (deltalake 1.6.6)
        reads through Python callbacks and aborts about half of the processes that used it as they exit.
        """
        spec = self.spec(table)
        return self._dataset(spec, self._chosen(spec, start, end, as_of))

    def _dataset(self, spec: TableSpec, files: Sequence[_File]) -> pads.Dataset:
        schema = spec.arrow.remove_metadata()
        if not files:
            return pads.dataset(schema.empty_table())
        fs, base = self._filesystem
        paths = [f"{base}/{spec.name}/{f.path}" for f in files]
        return pads.dataset(paths, schema=schema, format="parquet", filesystem=fs)

    def _chosen(
        self, spec: TableSpec, start: datetime | None, end: datetime | None, as_of: int | datetime | None
    ) -> list[_File]:
        """The files that can hold rows of ``[start, end)``, in the order of their slots."""
        first = "" if start is None else _floor(spec, start)
        last = "~" if end is None else _floor(spec, end)
        last = last if end is None or slot_start(last) == end else f"{last}~"  # the slot that ``end`` lies in, too
        chosen = [f for f in self._active(spec.name, as_of) if max(f.slots) >= first and min(f.slots) < last]
        return sorted(chosen, key=lambda f: f.path)

    def read(
        self,
        table: str,
        start: datetime | None = None,
        end: datetime | None = None,
        *,
        columns: Sequence[str] | None = None,
        as_of: int | datetime | None = None,
    ) -> pa.Table:
        """Rows whose time column lies in ``[start, end)``, ordered by slot and key.

        ``as_of`` is a version number or an instant; ``columns`` may name ``from_commit`` columns.
        """
        spec = self.spec(table)
        wanted = list(columns) if columns is not None else [c.name for c in spec.stored]
        stored = [c for c in wanted if not spec.column(c).from_commit]
        files = self._chosen(spec, start, end, as_of)
        result = self._read_each(spec, files, stored, start, end)
        if result is None:
            result = self._dataset(spec, files).to_table(columns=stored, filter=_range_filter(spec, start, end))
        for name in wanted:
            if name not in stored:
                result = result.append_column(name, self._commit_times(table, start, end, as_of, result.num_rows))
        return result.select(wanted)

    def rows_in(
        self, table: str, paths: Sequence[str], *, columns: Sequence[str], where: pc.Expression | None = None
    ) -> pa.Table:
        """Rows of these data files, of the current version or an older one, by their paths in the table.

        Raises ``FileNotFoundError`` where one is not there.
        """
        schema = self.spec(table).arrow.remove_metadata()
        if not paths:
            return pa.schema([schema.field(c) for c in columns]).empty_table()
        fs, base = self._filesystem
        files = [f"{base}/{table}/{p}" for p in paths]
        found = pads.dataset(files, schema=schema, format="parquet", filesystem=fs)
        return found.to_table(columns=list(columns), filter=where)

    def _read_each(
        self,
        spec: TableSpec,
        files: Sequence[_File],
        columns: Sequence[str],
        start: datetime | None,
        end: datetime | None,
    ) -> pa.Table | None:
        """A few small files, one after the other; ``None`` for any others, and where a file's columns are not ours."""
        if not (self.local and columns and 0 < len(files) <= _FEW_FILES and max(f.size for f in files) <= _SMALL_BYTES):
            return None
        time = str(spec.time_column)
        names = [*columns, *({time} - set(columns))]
        schema, parts = pa.schema([spec.arrow.field(n) for n in names]), []
        for f in files:
            body = pa.BufferReader(Path(self.root, spec.name, f.path).read_bytes())
            part = pq.ParquetFile(body).read(columns=names, use_threads=False)
            if not part.schema.equals(schema):
                return None
            parts.append(part)
        result = pa.concat_tables(parts).cast(schema)
        bounds = pc.min_max(result.column(time)).as_py()
        whole = (start is None or bounds["min"] >= start) and (end is None or bounds["max"] < end)
        inside = result if whole else result.filter(_range_filter(spec, start, end))
        return inside.select(columns)

    def _commit_times(
        self, table: str, start: datetime | None, end: datetime | None, as_of: int | datetime | None, rows: int
    ) -> pa.Array:
        spec = self.spec(table)
        time_column = str(spec.time_column)
        times = self.read(table, start, end, columns=[time_column], as_of=as_of)
        names = pc.strftime(
            pc.floor_temporal(times.column(0), unit=spec.partition), format=_SLOT_FORMAT[spec.partition]
        )
        by_slot = {s: ms for f in self._active(table, as_of) for s, ms in f.committed_ms.items()}
        if not by_slot or rows == 0:
            return pa.nulls(rows, pa.timestamp("us", tz="UTC"))
        keys = pa.array(list(by_slot), pa.string())
        values = pa.array(list(by_slot.values()), pa.timestamp("ms", tz="UTC")).cast(pa.timestamp("us", tz="UTC"))
        return values.take(pc.index_in(names.combine_chunks(), value_set=keys))

    # -- writing ------------------------------------------------------------------------------------

    def write(
        self,
        table: str,
        data: pa.Table,
        start: datetime,
        end: datetime,
        *,
        writer: str,
        reason: str | None = None,
        run_id: str | None = None,
    ) -> WriteResult:
        """Make ``data`` the whole content of ``[start, end)`` in one atomic commit.

        Slots whose content is identical to what is there are left alone; if all are, there is no commit.
        Raises :class:`LakeError` when the range does not fall on slot boundaries, when a row lies outside
        it, or when a slot would be restated and no ``reason`` is given.
        """
        spec = self.spec(table)
        payloads = self._payloads(spec, data, start, end)
        result: WriteResult | None = None
        for _ in range(_ATTEMPTS):
            try:
                outcome = self._commit(spec, payloads, start, end, writer, reason, run_id)
            except CommitFailedError:
                continue  # another writer removed a file we were replacing: look again
            result = _merge(result, outcome)
            if not self._doubled(table, payloads):
                return result
            reason = reason or "concurrent write of the same slot"
        raise LakeError(f"{table}: gave up after {_ATTEMPTS} attempts against concurrent writers of {start}..{end}")

    def _payloads(self, spec: TableSpec, data: pa.Table, start: datetime, end: datetime) -> dict[str, pa.Table]:
        """Rows by slot, conformed and ordered by key; a slot of the range without rows is an empty table."""
        for edge in (start, end):
            if edge.tzinfo is None or slot_start(_floor(spec, edge)) != edge:
                raise LakeError(f"{spec.name} is partitioned by {spec.partition}: {edge} is not a UTC boundary of it")
        if end <= start:
            raise LakeError(f"{spec.name}: empty range {start}..{end}")
        table = spec.conform(data).combine_chunks()
        names = [slot_name(spec.partition, s) for s in _slot_starts(spec.partition, start, end)]
        if table.num_rows == 0:
            return dict.fromkeys(names, table)
        times = table.column(str(spec.time_column))
        bounds = pc.min_max(times).as_py()
        if bounds["min"] < start or bounds["max"] >= end:
            raise LakeError(f"{spec.name}: rows from {bounds['min']} to {bounds['max']} lie outside {start}..{end}")
        slot = pc.cast(pc.floor_temporal(times, unit=spec.partition), pa.int64())
        order = pc.sort_indices(
            pa.table([slot, *(table.column(k) for k in spec.key)], names=["_slot", *spec.key]),
            sort_keys=[("_slot", "ascending"), *((k, "ascending") for k in spec.key)],
        )
        table, ordered = table.take(order), pc.take(slot, order).to_numpy()
        edges = [int(s.timestamp() * 1_000_000) for s in (*_slot_starts(spec.partition, start, end), end)]
        cuts = np.searchsorted(ordered, edges)
        return {n: table.slice(int(a), int(b - a)) for n, a, b in zip(names, cuts[:-1], cuts[1:], strict=True)}

    def _commit(
        self,
        spec: TableSpec,
        payloads: Mapping[str, pa.Table],
        start: datetime,
        end: datetime,
        writer: str,
        reason: str | None,
        run_id: str | None,
    ) -> WriteResult:
        current = self._current(spec.name)  # the version that the commit is checked against
        delta = None if current is None else current.delta
        held: dict[str, list[_File]] = {}
        for f in self._files_of(spec.name, current):
            for s in f.slots:
                held.setdefault(s, []).append(f)
        adds: dict[str, AddAction] = {}
        removed: dict[str, _File] = {}
        written: list[str] = []
        restated: list[Restatement] = []
        for (slot, rows), (path, body) in zip(payloads.items(), _encoded(payloads), strict=True):
            before = held.get(slot, [])
            after = _name_parts(path)[1] if path else None
            hashes = [f.slots[slot] for f in before]
            if hashes == ([after] if after else []) or self._same_content(spec, before, rows):
                continue
            if before:
                restated.append(Restatement(slot, hashes[-1], after))
            written.append(slot)
            removed.update((f.path, f) for f in before if f.path != path)
            if path:
                self._put(f"{spec.name}/{path}", body)
                adds[path] = _add_action(spec, path, slot, rows, len(body))
        total = sum(t.num_rows for t in payloads.values())
        if not written:
            version = delta.version() if delta is not None else -1
            return WriteResult(spec.name, version, False, total, (), len(payloads))
        if restated and not reason:
            raise LakeError(
                f"{spec.name}: {restated[0].slot} and {len(restated) - 1} more slots would change; "
                "a restatement needs a reason"
            )
        self._unfold(spec, removed, written, adds)
        metadata = {
            "sust.writer": writer,
            "sust.range": f"{start.isoformat()}/{end.isoformat()}",
            "sust.slots": json.dumps(written),
            "sust.restated": json.dumps([[r.slot, r.before, r.after] for r in restated]),
            "sust.reason": reason or "",
            "sust.run_id": run_id or "",
        }
        commit = self._transact(spec, delta, list(adds.values()), list(removed.values()), metadata, data_change=True)
        unchanged = len(payloads) - len(written)
        return WriteResult(
            spec.name, commit.version, True, total, tuple(written), unchanged, tuple(restated), (commit,)
        )

    def _same_content(self, spec: TableSpec, before: Sequence[_File], rows: pa.Table) -> bool:
        """Whether a slot written by another Parquet writer release holds the same rows under another hash."""
        if len(before) != 1 or rows.num_rows == 0 or before[0].compacted or before[0].rows != rows.num_rows:
            return False
        fs, base = self._filesystem
        found = pads.dataset(
            f"{base}/{spec.name}/{before[0].path}", schema=rows.schema, format="parquet", filesystem=fs
        ).to_table()
        return found.equals(rows)

    def _unfold(
        self, spec: TableSpec, removed: Mapping[str, _File], written: Sequence[str], adds: dict[str, AddAction]
    ) -> None:
        """Where a compacted day is replaced, give its untouched hours their own files again."""
        for f in [f for f in removed.values() if f.compacted]:
            fs, base = self._filesystem
            day = pads.dataset(
                f"{base}/{spec.name}/{f.path}", schema=spec.arrow.remove_metadata(), format="parquet", filesystem=fs
            )
            for slot in f.slots:
                if slot in written:
                    continue
                begin = slot_start(slot)
                rows = day.to_table(filter=_range_filter(spec, begin, begin + timedelta(hours=1)))
                path, body = _encode(slot, rows)
                self._put(f"{spec.name}/{path}", body)
                adds[path] = _add_action(spec, path, slot, rows, len(body), f.committed_ms[slot])

    def _put(self, path: str, body: bytes) -> None:
        """Store a file whole or not at all; the name holds its hash, so a file that is there is the file."""
        fs, base = self._filesystem
        target = f"{base}/{path}"
        if not self.local:
            with fs.open_output_stream(target) as stream:
                stream.write(body)
            return
        final = Path(target)
        if final.exists():
            return
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
        try:
            temporary.write_bytes(body)
        except FileNotFoundError:  # the first of its day
            final.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(body)
        temporary.replace(final)

    def _transact(
        self,
        spec: TableSpec,
        delta: DeltaTable | None,
        adds: list[AddAction],
        removes: list[_File],
        metadata: Mapping[str, str],
        *,
        data_change: bool,
    ) -> Commit:
        if self.local:
            os.sync()  # the files are on disk before the log names them
        if delta is None:
            DeltaTable.create(
                self.uri(spec.name),
                schema=_delta_schema(spec),
                mode="ignore",
                partition_by=["date"],
                name=spec.name,
                description=spec.doc,
                configuration=_TABLE_CONFIGURATION,
                storage_options=self.storage_options or None,
            )
            delta = DeltaTable(self.uri(spec.name), storage_options=self.storage_options or None)
        now_ms, changes = int(datetime.now(UTC).timestamp() * 1000), data_change
        actions: list[AddAction | RemoveAction] = [
            *(
                AddAction(a.path, a.size, a.partition_values, a.modification_time or now_ms, changes, a.stats)
                for a in adds
            ),
            *(RemoveAction(f.path, data_change, now_ms, f.size, {"date": f.path[5:15]}) for f in removes),
        ]
        before = delta.version()
        delta.create_write_transaction(
            actions,
            mode="append",
            schema=delta.schema(),
            partition_by=["date"],
            commit_properties=CommitProperties(custom_metadata=dict(metadata)),
        )
        delta.update_incremental()
        version = delta.version()
        made = _commit_of(spec.name, version, metadata, [a.path for a in adds], [f.path for f in removes])
        while version > before + 1 and self.commit(spec.name, version) != made:
            version -= 1  # another writer's commit came after ours
            made = replace(made, version=version)
        return made

    def _doubled(self, table: str, payloads: Mapping[str, pa.Table]) -> bool:
        """Whether two writers added the same slot at the same time."""
        seen: set[str] = set()
        for f in self._active(table):
            for s in f.slots:
                if s in payloads and s in seen:
                    return True
                seen.add(s)
        return False

    # -- history ------------------------------------------------------------------------------------

    def commit(self, table: str, version: int) -> Commit:
        """What the commit log says of one version; raises :class:`LakeError` when its entry is not there."""
        fs, base = self._filesystem
        path = f"{table}/_delta_log/{version:020d}.json"
        paths: dict[str, list[str]] = {"add": [], "remove": []}
        metadata: Mapping[str, Any] = {}
        try:
            with fs.open_input_stream(f"{base}/{path}") as stream:
                text = stream.read().decode()
            for action in (json.loads(line) for line in text.splitlines() if line.strip()):
                for kind, found in paths.items():
                    if kind in action:
                        found.append(action[kind]["path"].replace("%3D", "="))
                metadata = action.get("commitInfo", metadata)
            return _commit_of(table, version, metadata, paths["add"], paths["remove"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LakeError(f"{table}: version {version} cannot be read from {path}: {error}") from error

    def file_digest(self, table: str, path: str) -> str | None:
        """SHA-256 of the bytes of a data file, active or not; ``None`` when it is not there."""
        fs, base = self._filesystem
        try:
            with fs.open_input_stream(f"{base}/{table}/{path}") as stream:
                hashed = hashlib.sha256()
                while chunk := stream.read(1 << 20):
                    hashed.update(chunk)
        except FileNotFoundError:
            return None
        return hashed.hexdigest()

    def read_file(self, name: str) -> bytes:
        """The bytes of a file, named by its path under the root; raises ``FileNotFoundError`` when it is not there."""
        fs, base = self._filesystem
        with fs.open_input_file(f"{base}/{name}") as stream:
            return stream.read()

    def files(self, table: str, as_of: int | None = None) -> set[str]:
        """Paths of the active data files of a version (default: the current), as every Delta reader sees them."""
        held = self._current(table) if as_of is None else None
        delta = held.delta if held is not None else self._delta(table, as_of)
        actions = None if delta is None else pa.table(delta.get_add_actions(flatten=True))
        return set() if actions is None else {p.replace("%3D", "=") for p in actions.column("path").to_pylist()}

    def fold_fault(self, commit: Commit) -> str | None:
        """What a compaction changed though it must not: rows, or the hashes it keeps of them; ``None``: nothing."""
        fs, base = self._filesystem
        schema = self.spec(commit.table).arrow.remove_metadata()
        tables = []
        for paths in (commit.removed, commit.added):
            parts = [
                pads.dataset(f"{base}/{commit.table}/{p}", schema=schema, format="parquet", filesystem=fs).to_table()
                for p in paths
            ]
            tables.append(pa.concat_tables([schema.empty_table(), *parts]))
        if not tables[0].equals(tables[1]):
            return "the folded files hold other rows than the files they replace"
        kept: dict[str, str] = {}
        for path in commit.added:
            kept |= json.loads(self._footer(commit.table, path).get(_COMPACTED_KEY, b"{}"))
        if kept != dict(_name_parts(p) for p in commit.removed):
            return "the folded files name other hashes than those of the files they replace"
        return None

    def history(self, table: str) -> list[dict[str, Any]]:
        """Commits that wrote data, newest first: version, time, writer, reason, run, slots, restatements."""
        delta = self._delta(table)
        if delta is None:
            return []
        entries = []
        current = delta.version()
        for offset, commit in enumerate(delta.history()):
            if "sust.writer" not in commit:
                continue
            restated = [Restatement(*r) for r in json.loads(commit.get("sust.restated") or "[]")]
            entries.append(
                {
                    "version": commit.get("version", current - offset),
                    "committed_at": datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
                    "writer": commit["sust.writer"],
                    "reason": commit.get("sust.reason") or None,
                    "run_id": commit.get("sust.run_id") or None,
                    "slots": json.loads(commit.get("sust.slots") or "[]"),
                    "restated": restated,
                }
            )
        return entries

    def restatements(self, table: str) -> list[tuple[int, Restatement, str | None]]:
        """Every restatement of a table, newest first: (version, what changed, why)."""
        return [(e["version"], r, e["reason"]) for e in self.history(table) for r in e["restated"]]

    # -- compaction ---------------------------------------------------------------------------------

    def compact(self, table: str, before: datetime, *, writer: str = "platform") -> int:
        """Fold the hourly files of each day that ended by ``before`` into one file; returns days folded.

        Content, digests and old versions are untouched: the commit is marked as no data change.
        """
        spec = self.spec(table)
        if spec.partition != "hour":
            return 0
        delta = self._delta(table)
        by_day: dict[str, list[_File]] = {}
        for f in self._files(table, delta):
            if not f.compacted:
                by_day.setdefault(f.path[5:15], []).append(f)
        adds, removes = [], []
        for day, files in sorted(by_day.items()):
            if len(files) < 2 or slot_start(day) + timedelta(days=1) > before:
                continue
            files.sort(key=lambda f: min(f.slots))
            body, rows = self._fold(spec, files)
            path = f"date={day}/{day}-{hashlib.sha256(body).hexdigest()}.parquet"
            self._put(f"{table}/{path}", body)
            adds.append(_add_action(spec, path, day, rows, len(body)))
            removes.extend(files)
        if adds:
            metadata = {"sust.compaction": writer, "sust.days": str(len(adds))}
            self._transact(spec, delta, adds, removes, metadata, data_change=False)
        return len(adds)

    def _fold(self, spec: TableSpec, files: Sequence[_File]) -> tuple[bytes, pa.Table]:
        fs, base = self._filesystem
        schema = spec.arrow.remove_metadata()
        paths = [f"{base}/{spec.name}/{f.path}" for f in files]
        rows = pads.dataset(paths, schema=schema, format="parquet", filesystem=fs).to_table()
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
            # In order of the hours: a reader of one hour reads a group or two, a reader of a month not hundreds.
            writer.write_table(rows.combine_chunks(), row_group_size=_FOLDED_ROWS)
            for key, name in ((_COMPACTED_KEY, "slots"), (_COMMITTED_KEY, "committed_ms")):
                of_slot = {slot: value for f in files for slot, value in getattr(f, name).items()}
                writer.add_key_value_metadata({key: json.dumps(of_slot, sort_keys=True)})
        return sink.getvalue().to_pybytes(), rows


def _merge(first: WriteResult | None, second: WriteResult) -> WriteResult:
    """Result of a write that took a second commit to settle against a concurrent writer."""
    if first is None or not second.committed:
        return first or second
    return WriteResult(
        second.table,
        second.version,
        True,
        second.rows,
        tuple(dict.fromkeys((*first.slots_written, *second.slots_written))),
        first.slots_unchanged,
        (*first.restated, *second.restated),
        (*first.commits, *second.commits),
    )


def _commit_of(
    table: str, version: int, metadata: Mapping[str, Any], added: Iterable[str], removed: Iterable[str]
) -> Commit:
    start, _, end = metadata.get("sust.range", "").partition("/")
    writer = metadata.get("sust.writer") or (COMPACTION if "sust.compaction" in metadata else "")
    return Commit(table, version, writer, start, end, tuple(sorted(added)), tuple(sorted(removed)))


def _name_parts(path: str) -> tuple[str, str]:
    """Slot and SHA-256 from ``date=.../<slot>-<sha256>.parquet``."""
    stem = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    return stem[:-65], stem[-64:]


def _floor(spec: TableSpec, instant: datetime) -> str:
    scalar = pa.scalar(instant, pa.timestamp("us", tz="UTC"))
    return slot_name(spec.partition, pc.floor_temporal(scalar, unit=spec.partition).as_py())


def _slot_starts(partition: str, start: datetime, end: datetime) -> Iterator[datetime]:
    step = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}.get(partition)
    at = start
    while at < end:
        yield at
        at = at + step if step else (at.replace(day=1) + timedelta(days=32)).replace(day=1)


def _range_filter(spec: TableSpec, start: datetime | None, end: datetime | None) -> pc.Expression | None:
    time = pc.field(str(spec.time_column))
    kind = pa.timestamp("us", tz="UTC")
    after = None if start is None else time >= pa.scalar(start, kind)
    before = None if end is None else time < pa.scalar(end, kind)
    if after is not None and before is not None:
        return after & before
    return after if after is not None else before


def _encoded(payloads: Mapping[str, pa.Table]) -> Iterator[tuple[str | None, bytes]]:
    """Path and bytes of each slot's file, in order; none for a slot without rows. Many rows on two threads."""
    items = list(payloads.items())

    def encode(item: tuple[str, pa.Table]) -> tuple[str | None, bytes]:
        return _encode(*item) if item[1].num_rows else (None, b"")

    if sum(rows.num_rows for rows in payloads.values()) <= _FEW:
        yield from map(encode, items)
        return
    with ThreadPoolExecutor(max_workers=2) as pool:
        for at in range(0, len(items), _AT_ONCE):
            yield from pool.map(encode, items[at : at + _AT_ONCE])


def _encode(slot: str, rows: pa.Table) -> tuple[str, bytes]:
    """Path and bytes of a slot's file. Schema metadata (docs) stays out: a reworded doc is no restatement."""
    sink = pa.BufferOutputStream()
    # An hour's few rows gain little from the slower codec; folded into a day they get it.
    codec = "zstd" if rows.num_rows > _SMALL else "snappy"
    pq.write_table(rows.replace_schema_metadata(None), sink, compression=codec)
    body = sink.getvalue().to_pybytes()
    return f"date={slot[:10]}/{slot}-{hashlib.sha256(body).hexdigest()}.parquet", body


def _add_action(spec: TableSpec, path: str, slot: str, rows: pa.Table, size: int, committed_ms: int = 0) -> AddAction:
    """The log's entry of a file; committed now where no time is given."""
    bounds = pc.min_max(rows.column(str(spec.time_column))).as_py()
    text = {k: v.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for k, v in bounds.items()}
    stats = {
        "numRecords": rows.num_rows,
        "minValues": {spec.time_column: text["min"]},
        "maxValues": {spec.time_column: text["max"]},
        "nullCount": {spec.time_column: 0},
    }
    return AddAction(path, size, {"date": slot[:10]}, committed_ms, True, json.dumps(stats))


def _delta_schema(spec: TableSpec) -> DeltaSchema:
    """Delta schema with the partition column, each column's doc as its comment."""
    fields = [
        pa.field(c.name, c.type, c.nullable, {"comment": f"{c.doc} [{c.unit}]" if c.unit else c.doc})
        for c in spec.stored
    ]
    return DeltaSchema.from_arrow(pa.schema([*fields, pa.field("date", pa.date32(), nullable=True)]))

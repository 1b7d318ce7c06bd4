"""Dagster's SQLite event log, with a range run's events written many at a time.

Belongs here: one storage class, named in an instance's ``dagster.yaml``. A range run stores an event per partition
and asset; Dagster hands them over in batches, its PostgreSQL storage writes a batch as one statement, its SQLite
storage opens three connections for each event and compiles each statement anew. Files and tables are those of
Dagster's own SQLite storage: an instance can go back to it by deleting the setting.

A run's file begins as a copy of an empty one: making its tables takes longer than filling them. Commits do not wait
for the disk, which may cost a power cut the last events, never the file: what was stored is in the lake and the books,
and a step without its event is run again.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import dagster as dg
import sqlalchemy as sa
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.event import listen

_CHECK_PLANNED = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
_CHECK_EVALUATED = dg.DagsterEventType.ASSET_CHECK_EVALUATION
#: Kinds of events that are looked up across runs.
_INDEXED = ASSET_EVENTS | ASSET_CHECK_EVENTS | EVENT_TYPE_TO_PIPELINE_RUN_STATUS.keys()
_INSERT = SqlEventLogStorageTable.insert()
_INSERT_FOR_IDS = _INSERT.returning(SqlEventLogStorageTable.c.id, sort_by_parameter_order=True)
#: Files whose connections are kept: an index and the runs under way.
_KEPT = 6

#: What ``dagster.yaml`` says to use it; the folder moves with the instance.
SETTING = """\
event_log_storage:
  module: sust_dagster.orchestration.event_log
  class: BatchedSqliteEventLog
  config:
    instance_dir:
      env: DAGSTER_HOME
"""


def engine_at(address: str) -> Engine:
    """An engine of a SQLite file of Dagster's, whose commits do not wait for the disk."""
    engine = sa.create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
    listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=NORMAL"))
    return engine


def once_true(storage: object, what: str, ask: Callable[[], bool]) -> bool:
    """The answer to a question about a storage's tables whose yes is for good: asked until it is yes."""
    known: set[str] = storage.__dict__.setdefault("_once_true", set())
    if what not in known and ask():
        known.add(what)
    return what in known


class BatchedSqliteEventLog(SqliteEventLogStorage):
    """Writes a batch of asset events in one transaction per file."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"instance_dir": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(str(Path(config_value["instance_dir"], "history", "runs")), inst_data=inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Generator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection, connection.begin():
            yield connection

    def _engine(self, shard: str) -> Engine:
        """The engine of a file, kept: those of the last few runs, and the index's. A forked process makes its own."""
        engines = self.__dict__.setdefault("_engines", {}).setdefault(os.getpid(), {})
        engine = engines.pop(shard, None)
        if engine is None:
            new = shard not in self._initialized_dbs and self._begin_file(Path(self.path_for_shard(shard)))
            engine = engine_at(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                if not new:
                    self._initdb(engine)
                self._initialized_dbs.add(shard)
        engines[shard] = engine  # last used, last thrown out
        while len(engines) > _KEPT:
            engines.pop(next(iter(engines))).dispose()
        return engine

    def _begin_file(self, path: Path) -> bool:
        """Whether ``path`` was missing and is an empty event log now, whole."""
        if path.exists():
            return False
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        unfinished.write_bytes(self._empty_file())
        unfinished.replace(path)
        return True

    def _empty_file(self) -> bytes:
        """An event log of this Dagster release without events."""
        if "_empty" not in self.__dict__:
            with TemporaryDirectory() as folder:
                engine = engine_at(create_db_conn_string(folder, "empty"))
                self._initdb(engine)
                engine.dispose()
                self.__dict__["_empty"] = Path(folder, "empty.db").read_bytes()
        return self.__dict__["_empty"]

    def dispose(self) -> None:
        """Close what is kept open."""
        for engine in self.__dict__.pop("_engines", {}).get(os.getpid(), {}).values():
            engine.dispose()
        super().dispose()

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; one that was there stays. Dagster asks at each event of an asset or check."""
        return once_true(self, f"table {table_name}", partial(super().has_table, table_name))

    def has_secondary_index(self, name: str) -> bool:
        """Whether a migration of data was done; it is not undone."""
        return once_true(self, f"index {name}", partial(super().has_secondary_index, name))

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        ask = partial(super()._has_asset_key_col_on_connection, conn, column_name)
        return once_true(self, f"column {column_name}", ask)

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store one event."""
        self._store([event])

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store events in order, those of one run together; the asset's page shows the last of each asset."""
        for _, of_a_run in groupby(events, key=lambda e: e.run_id):
            self._store(list(of_a_run))

    def _store(self, events: Sequence[dg.EventLogEntry]) -> None:
        """One transaction in the file of their run, and one in the index for those that are looked up across runs."""
        rows = [self._event_to_row(e) for e in events]
        with self.run_connection(events[0].run_id) as connection:
            connection.execute(_INSERT, rows)
        indexed = [(e, row) for e, row in zip(events, rows, strict=True) if e.dagster_event_type in _INDEXED]
        if not indexed:
            return
        with self.index_transaction() as connection:
            ids = [row[0] for row in connection.execute(_INSERT_FOR_IDS, [row for _, row in indexed])]
            stored = [(event, row, id_) for (event, row), id_ in zip(indexed, ids, strict=True)]
            of_assets = [s for s in stored if s[0].dagster_event_type in ASSET_EVENTS]
            self._store_asset_event_tags(connection, [e for e, _, _ in of_assets], [i for _, _, i in of_assets])
            last = {(row["asset_key"], event.dagster_event_type): (event, id_) for event, row, id_ in of_assets}
            for event, id_ in last.values():
                self._store_asset_event(connection, event, id_)
            planned = [_planned_check(*s) for s in stored if s[0].dagster_event_type == _CHECK_PLANNED]
            if planned:
                connection.execute(AssetCheckExecutionsTable.insert(), [row for rows in planned for row in rows])
        for event, _, id_ in stored:
            if event.dagster_event_type == _CHECK_EVALUATED:
                self.store_asset_check_event(event, id_)


def _planned_check(event: dg.EventLogEntry, row: Mapping[str, Any], id_: int) -> list[dict[str, Any]]:
    """What Dagster's own storage writes for a check that is about to run, one row per partition."""
    assert event.dagster_event is not None
    planned: Any = event.dagster_event.event_specific_data
    subset = planned.partitions_subset
    return [
        {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "partition": partition,
            "run_id": row["run_id"],
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": row["event"],
            "evaluation_event_timestamp": row["timestamp"],
            "evaluation_event_storage_id": id_,
        }
        for partition in (subset.get_partition_keys() if subset else [None])
    ]

"""Dagster's SQLite storage of runs, with its connection kept.

Belongs here: one storage class, named in an instance's ``dagster.yaml``. Dagster's own opens the file anew for each
statement, some forty times a run, and looks again each time which columns its tables have. File and tables are those of
Dagster's own storage: an instance can go back to it by deleting the setting. As in the event log, commits do not wait
for the disk: a run whose end a power cut took away is run again, with the same result.
"""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy.engine import Connection, Engine

from sust_dagster.orchestration.event_log import engine_at, once_true

#: What ``dagster.yaml`` says to use it; the folder moves with the instance.
SETTING = """\
run_storage:
  module: sust_dagster.orchestration.run_storage
  class: KeptSqliteRunStorage
  config:
    instance_dir:
      env: DAGSTER_HOME
"""


class KeptSqliteRunStorage(SqliteRunStorage):
    """Runs in one file, over connections that stay open."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {"instance_dir": dg.StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls.from_local(str(Path(config_value["instance_dir"], "history")), inst_data=inst_data)

    @contextmanager
    def connect(self) -> Generator[Connection]:
        with self._engine().connect() as connection, connection.begin():
            yield connection

    def _engine(self) -> Engine:
        """The engine of this process: a forked one makes its own."""
        engines: dict[int, Engine] = self.__dict__.setdefault("_engines", {})
        if os.getpid() not in engines:
            engines[os.getpid()] = engine_at(self._conn_string)
        return engines[os.getpid()]

    def dispose(self) -> None:
        """Close what is kept open."""
        engine = self.__dict__.pop("_engines", {}).get(os.getpid())
        if engine is not None:
            engine.dispose()
        super().dispose()

    def has_run_stats_index_cols(self) -> bool:
        return once_true(self, "run_stats", super().has_run_stats_index_cols)

    def has_backfill_id_column(self) -> bool:
        return once_true(self, "backfill_id", super().has_backfill_id_column)

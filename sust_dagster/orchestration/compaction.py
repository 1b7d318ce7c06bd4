"""Compaction of the lake: the hourly files of closed days become one file a day.

Belongs here: which days and tables, and the job that does it each week. How a day is folded is the lake's.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from deltalake.exceptions import CommitFailedError

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake, LakeError, slot_start
from sust_dagster.world.schemas import TABLES


def closed_until(project: Project, reconcile_days: int) -> datetime:
    """Days that ended by then get no late data any more. A simulated cloud has none at all."""
    late = timedelta(days=0 if project.source == "simulated" else reconcile_days)
    return project.last_hour_end() - late


def compact_tables(lake: Lake, before: datetime, tables: Sequence[str] = ()) -> dict[str, dict[str, int]]:
    """Fold the days that ended by ``before`` of these tables (default: all hourly ones that are there).

    Returns days folded and files before and after, by table. Raises ``ValueError`` for a table that has no hours,
    :class:`LakeError` where another writer was at it, or where content of those days is not what it was.
    """
    hourly = [t.name for t in TABLES.values() if t.home == "lake" and t.partition == "hour"]
    unknown = sorted(set(tables) - set(hourly))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no hourly table of the lake; these are: {', '.join(hourly)}")
    done = {}
    for table in tables or [t for t in hourly if lake.version(t) is not None]:
        files, content = _files(lake, table), _content(lake, table, before)
        try:
            days = lake.compact(table, before)
        except CommitFailedError as error:
            raise LakeError(f"{table}: another writer changed it meanwhile ({error}); run it again") from error
        if _content(lake, table, before) != content:
            raise LakeError(f"{table}: its content changed while it was compacted; its history says by whom")
        done[table] = {"days": days, "files_before": files, "files_after": _files(lake, table)}
    return done


def _files(lake: Lake, table: str) -> int:
    return len(set(lake.inventory([table]).column("path").to_pylist()))


def _content(lake: Lake, table: str, before: datetime) -> dict[str, str]:
    return {slot: sha for slot, sha in lake.slots(table).items() if slot_start(slot) < before}


class CompactConfig(dg.Config):
    """Which days."""

    before: str = ""
    """Days that ended by then, ISO 8601 UTC; empty: all that are closed."""


def build(reconcile_days: int) -> dg.JobDefinition:
    """The weekly job."""

    @dg.op(description="Fold each closed day's hourly files into one; content and old versions stay as they are.")
    def fold_closed_days(context: dg.OpExecutionContext, project: ProjectResource, config: CompactConfig) -> None:
        closed = closed_until(project.project, reconcile_days)
        before = min(closed, datetime.fromisoformat(config.before)) if config.before else closed
        done: dict[str, Any] = compact_tables(Lake(project.project.lake_root), before)
        context.log.info("folded what ended by %s: %s", before, done)

    @dg.job(description="Fewer files: the hours of each day past late data, in one file.")
    def compact_lake() -> None:
        fold_closed_days()

    return compact_lake

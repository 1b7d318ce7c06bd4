"""`sust compact`: fewer files in the lake, the same content.

Belongs here: the project's lake and what is said of it. Which days are folded is the orchestration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sust_dagster.orchestration.compaction import closed_until, compact_tables
from sust_dagster.orchestration.jobs import RECONCILE_DAYS
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake


def compact_lake(project: Project, tables: Sequence[str]) -> dict[str, Any]:
    """Fold the closed days of ``tables`` (default: all hourly ones); files before and after, and the digest.

    Raises ``ValueError`` for an unknown table, ``LakeError`` where another writer was at it or content changed.
    """
    lake = Lake(project.lake_root)
    before = closed_until(project, RECONCILE_DAYS)
    done = compact_tables(lake, before, tables)
    return {"closed_until": before.isoformat(), "tables": done, "digest": lake.digest()}

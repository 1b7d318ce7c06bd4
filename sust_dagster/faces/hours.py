"""Which hours of a project are done, as its Dagster instance remembers it.

Belongs here: what counts as done. An hour is done when each of its tables was made, and last by a run that went
well. A run does not go well when a step or a blocking check of it failed, nor when it was killed before its checks:
what it made may be in the lake, but nothing is built on it, and it is made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import dagster as dg

from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.orchestration.partitions import hour_key

#: Records asked for at once: SQLite takes no statement with more values than some tens of thousands.
_CHUNK = 1000


def missing_ranges(instance: dg.DagsterInstance, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
    """The runs of consecutive hours in ``[start, end)`` that are not done yet."""
    hours = [start + timedelta(hours=n) for n in range(int((end - start) / timedelta(hours=1)))]
    done = done_hours(instance, {hour_key(h) for h in hours})
    ranges: list[tuple[datetime, datetime]] = []
    for at in hours:
        if hour_key(at) in done:
            continue
        first = ranges.pop()[0] if ranges and ranges[-1][1] == at else at
        ranges.append((first, at + timedelta(hours=1)))
    return ranges


def done_hours(instance: dg.DagsterInstance, hours: set[str]) -> set[str]:
    """The partition keys among ``hours`` that are done."""
    return _done(instance, HOURLY_ASSETS, hours)


def partitions_done(instance: dg.DagsterInstance, asset: str, keys: set[str]) -> set[str]:
    """The partitions of one asset among ``keys`` that were made last by a run that went well."""
    return _done(instance, (asset,), keys)


def _done(instance: dg.DagsterInstance, assets: Iterable[str], keys: set[str]) -> set[str]:
    statuses = [s for s in dg.DagsterRunStatus if s != dg.DagsterRunStatus.SUCCESS]
    doubtful = set(instance.get_run_ids(dg.RunsFilter(statuses=statuses)))
    done = set(keys)
    for asset in assets:
        made = instance.event_log_storage.get_latest_storage_id_by_partition(
            dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION
        )
        done &= made.keys()
        if doubtful:
            done -= _made_by(instance, asset, (made[key] for key in done), doubtful)
    return done


def _made_by(instance: dg.DagsterInstance, asset: str, materializations: Iterable[int], runs: set[str]) -> set[str]:
    """The hours of those materialisations, given by their storage ids, that these runs made."""
    ids = sorted(materializations)
    found: set[str] = set()
    for first in range(0, len(ids), _CHUNK):
        part = ids[first : first + _CHUNK]
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), storage_ids=part)
        records = instance.fetch_materializations(wanted, limit=len(part)).records
        found |= {r.partition_key for r in records if r.run_id in runs and r.partition_key is not None}
    return found

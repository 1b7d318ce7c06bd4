"""The batched event log tells the same as Dagster's own, at a fraction of the transactions."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._serdes import deserialize_value, serialize_value

from sust_dagster.orchestration.event_log import SETTING, BatchedSqliteEventLog

HOURLY = dg.HourlyPartitionsDefinition("2026-01-01-00:00", end_date="2026-01-05-00:00", timezone="UTC")
KEYS = HOURLY.get_partition_keys()
RANGE = {"dagster/asset_partition_range_start": KEYS[0], "dagster/asset_partition_range_end": KEYS[-1]}


class _Nothing(dg.IOManager):
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None: ...

    def load_input(self, context: dg.InputContext) -> None: ...


def assets() -> list[dg.AssetsDefinition]:
    @dg.multi_asset(
        outs={"first": dg.AssetOut(io_manager_key="nothing"), "second": dg.AssetOut(io_manager_key="nothing")},
        partitions_def=HOURLY,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def both() -> Iterator[dg.Output[int]]:
        yield dg.Output(1, "first", metadata={"rows": 1, "text": "ä"})
        yield dg.Output(2, "second", metadata={"rows": 2})

    return [both]


@contextmanager
def instance_in(folder: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    folder.mkdir(exist_ok=True)
    (folder / "dagster.yaml").write_text(config + "telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "40")
    monkeypatch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", "1")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance


def run(instance: dg.DagsterInstance, **kwargs: Any) -> str:
    result = dg.materialize(assets(), instance=instance, resources={"nothing": _Nothing()}, **kwargs)
    return result.run_id


def told(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    """What the UI and the backfill read of a run and of its assets."""
    tale: dict[str, Any] = {
        "events": [
            (e.dagster_event_type, e.step_key, e.dagster_event and e.dagster_event.partition)
            for e in instance.all_logs(run_id)
            if e.is_dagster_event
        ]
    }
    for name in ("first", "second"):
        key = dg.AssetKey(name)
        records = instance.fetch_materializations(key, limit=1000, ascending=True).records
        latest = instance.get_latest_materialization_event(key)
        assert latest is not None and latest.asset_materialization is not None
        (record,) = instance.get_asset_records([key])
        tale[name] = {
            "partitions": instance.get_materialized_partitions(key),
            "records": [(r.partition_key, dict(r.asset_materialization.metadata)) for r in records],
            "ids rise": [r.storage_id for r in records] == sorted(r.storage_id for r in records),
            "latest": latest.asset_materialization.partition,
            "last run": record.asset_entry.last_run_id == run_id,
            "last materialisation": record.asset_entry.last_materialization.asset_materialization.partition,
            "latest id is of the last record": record.asset_entry.last_materialization_storage_id
            == records[-1].storage_id,
            "counts": instance.get_materialized_partitions(key, before_cursor=records[50].storage_id) == set(KEYS[:50]),
        }
    return tale


def test_both_logs_tell_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tales, spent = [], []
    for name, config in (("own", ""), ("batched", SETTING)):
        with instance_in(tmp_path / name, config, monkeypatch) as instance:
            assert isinstance(instance.event_log_storage, BatchedSqliteEventLog) == (name == "batched")
            start = time.process_time()
            run_id = run(instance, tags=RANGE)
            spent.append(time.process_time() - start)
            tales.append(told(instance, run_id))
    assert tales[0] == tales[1]
    assert len(tales[0]["first"]["records"]) == len(KEYS)
    assert spent[1] < spent[0]  # CPU time; about a third


def test_a_single_partition_and_a_second_run_are_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance_in(tmp_path / "batched", SETTING, monkeypatch) as instance:
        run(instance, tags=RANGE)
        last = run(instance, partition_key=KEYS[7])
        latest = instance.get_latest_materialization_event(dg.AssetKey("first"))
        assert latest is not None and latest.run_id == last
        assert latest.asset_materialization is not None and latest.asset_materialization.partition == KEYS[7]
        assert len(instance.fetch_materializations(dg.AssetKey("first"), limit=1000).records) == len(KEYS) + 1


def test_an_instance_can_go_back_to_the_log_of_dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance_in(tmp_path / "one", SETTING, monkeypatch) as instance:
        run_id = run(instance, tags=RANGE)
        before = told(instance, run_id)
    with instance_in(tmp_path / "one", "", monkeypatch) as instance:
        assert told(instance, run_id) == before


def test_a_folder_that_moved_still_finds_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with instance_in(tmp_path / "here", SETTING, monkeypatch) as instance:
        run(instance, tags=RANGE)
    (tmp_path / "here").rename(tmp_path / "there")
    with instance_in(tmp_path / "there", SETTING, monkeypatch) as instance:
        assert len(instance.get_materialized_partitions(dg.AssetKey("first"))) == len(KEYS)
    assert not (tmp_path / "here").exists()


def test_a_batch_is_stored_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that cannot be written mid-batch leaves no part of the batch in the shared index."""
    with instance_in(tmp_path / "broken", SETTING, monkeypatch) as instance:
        run(instance, partition_key=KEYS[0])
        index = tmp_path / "broken" / "history" / "runs" / "index.db"
        with sqlite3.connect(index) as direct:
            direct.execute(
                f"create trigger stop before insert on event_logs when new.partition = '{KEYS[60]}' "
                "begin select raise(abort, 'stopped'); end"
            )
        event = instance.fetch_materializations(dg.AssetKey("first"), limit=1).records[0].event_log_entry
        batch = [_at_partition(event, KEYS[1]), _at_partition(event, KEYS[60])]
        with pytest.raises(Exception, match="stopped"):
            instance.event_log_storage.store_event_batch(batch)
        assert instance.get_materialized_partitions(dg.AssetKey("first")) == {KEYS[0]}


def _at_partition(event: dg.EventLogEntry, partition: str) -> dg.EventLogEntry:
    """The same event for another partition."""
    return deserialize_value(serialize_value(event).replace(KEYS[0], partition), dg.EventLogEntry)

"""The lake through its public face: what is on disk, what is committed, what can be read back."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, QueryBuilder
from hypothesis import given, settings
from hypothesis import strategies as st

from sust_dagster.world.lake import Lake, LakeError, slot_start
from sust_dagster.world.schemas import GRID_INTENSITY, TIMESTAMP, SchemaError

START = datetime(2026, 1, 1, tzinfo=UTC)


def grid(hours: int, *, start: datetime = START, regions: int = 3, bump: dict[int, float] | None = None) -> pa.Table:
    """Intensity rows; ``bump`` adds to every row of an hour."""
    hour = np.repeat(np.arange(hours), regions)
    value = 0.3 + 0.001 * np.arange(hours * regions) + np.array([(bump or {}).get(int(h), 0.0) for h in hour])
    n = hours * regions
    ts = np.datetime64(start.replace(tzinfo=None), "us") + hour.astype("timedelta64[h]")
    return GRID_INTENSITY.conform(
        {
            "ts": pa.array(ts).cast(TIMESTAMP),
            "region": [f"region-{i % regions}" for i in range(n)],
            "intensity_kgco2_kwh": value,
            "source": ["file"] * n,
            "signal": ["average"] * n,
            "method": ["lifecycle"] * n,
            "estimated": [False] * n,
            "quality": ["ok"] * n,
            "system_rel_lower": [0.9] * n,
            "system_rel_upper": [1.1] * n,
            "hour_rel_lower": [0.9] * n,
            "hour_rel_upper": [1.1] * n,
        }
    )


def end(hours: int) -> datetime:
    return START + timedelta(hours=hours)


def write(lake: Lake, table: pa.Table, hours: int, **kwargs: str) -> object:
    return lake.write("grid_intensity", table, START, end(hours), writer="accountant", **kwargs)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def test_what_is_written_is_read_back_in_slot_and_key_order(lake: Lake) -> None:
    table = grid(5)
    shuffled = table.take(pa.array(np.random.default_rng(1).permutation(table.num_rows)))
    write(lake, shuffled, 5)
    assert lake.read("grid_intensity").equals(table.replace_schema_metadata(None).cast(table.schema.remove_metadata()))


def test_a_file_is_named_by_the_hash_of_its_bytes(lake: Lake) -> None:
    write(lake, grid(3), 3)
    files = list(Path(lake.root, "grid_intensity").rglob("*.parquet"))
    assert len(files) == 3
    for file in files:
        assert file.stem[-64:] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_identical_content_is_no_commit(lake: Lake) -> None:
    first = write(lake, grid(4), 4)
    second = write(lake, grid(4), 4)
    assert first.committed and not second.committed
    assert first.version == second.version == lake.version("grid_intensity")


def test_a_changed_hour_is_one_restatement_and_the_old_version_stays(lake: Lake) -> None:
    before = write(lake, grid(6), 6)
    after = write(lake, grid(6, bump={2: 1.0, 4: 1.0}), 6, reason="bill corrected")
    assert [r.slot for r in after.restated] == ["2026-01-01T02", "2026-01-01T04"]
    assert after.slots_unchanged == 4
    hour = (START + timedelta(hours=2), START + timedelta(hours=3))
    now = lake.read("grid_intensity", *hour).column("intensity_kgco2_kwh").to_pylist()
    then = lake.read("grid_intensity", *hour, as_of=before.version).column("intensity_kgco2_kwh").to_pylist()
    assert np.allclose(np.array(now) - np.array(then), 1.0)
    assert [(v, r.slot, why) for v, r, why in lake.restatements("grid_intensity")] == [
        (after.version, "2026-01-01T02", "bill corrected"),
        (after.version, "2026-01-01T04", "bill corrected"),
    ]


def test_a_restatement_without_a_reason_is_refused_and_changes_nothing(lake: Lake) -> None:
    write(lake, grid(2), 2)
    digest = lake.digest()
    with pytest.raises(LakeError, match="needs a reason"):
        write(lake, grid(2, bump={0: 1.0}), 2)
    assert lake.digest() == digest


def test_rows_that_vanish_are_a_restatement_to_nothing(lake: Lake) -> None:
    write(lake, grid(2), 2)
    result = write(lake, grid(1), 2, reason="withdrawn")
    assert [(r.slot, r.after) for r in result.restated] == [("2026-01-01T01", None)]
    assert list(lake.slots("grid_intensity")) == ["2026-01-01T00"]


@pytest.mark.parametrize(
    ("table", "start", "stop", "message"),
    [
        (grid(2), START, end(1), "outside"),
        (grid(1), START + timedelta(minutes=5), end(1), "not a UTC boundary"),
        (grid(1), START.replace(tzinfo=None), end(1).replace(tzinfo=None), "not a UTC boundary"),
        (grid(1), end(1), START, "empty range"),
    ],
)
def test_a_range_that_does_not_fit_is_refused(
    lake: Lake, table: pa.Table, start: datetime, stop: datetime, message: str
) -> None:
    with pytest.raises(LakeError, match=message):
        lake.write("grid_intensity", table, start, stop, writer="accountant")
    assert lake.version("grid_intensity") is None


def test_wrong_columns_are_refused_by_name(lake: Lake) -> None:
    with pytest.raises(SchemaError, match="colour"):
        write(lake, grid(1).append_column("colour", pa.array(["red"] * 3)), 1)
    with pytest.raises(SchemaError, match="region"):
        write(lake, grid(1).drop_columns(["region"]), 1)
    with pytest.raises(LakeError, match="not a table of the lake"):
        lake.read("emission_factors")


def test_compaction_keeps_content_digest_and_history(lake: Lake) -> None:
    first = write(lake, grid(50), 50)
    table, digest = lake.read("grid_intensity"), lake.digest()
    assert lake.compact("grid_intensity", end(50)) == 2, "two whole days; the third is still open"
    assert lake.digest() == digest
    assert lake.read("grid_intensity").equals(table)
    assert lake.read("grid_intensity", as_of=first.version).equals(table)
    assert len(list(DeltaTable(lake.uri("grid_intensity")).file_uris())) == 2 + 2
    assert not write(lake, grid(50), 50).committed, "compaction must not look like a change"
    part = lake.read("grid_intensity", START + timedelta(hours=5), START + timedelta(hours=7))
    assert part.num_rows == 6


def test_a_restated_hour_of_a_compacted_day_touches_that_hour_only(lake: Lake) -> None:
    write(lake, grid(24), 24)
    hashes = lake.slots("grid_intensity")
    lake.compact("grid_intensity", end(24))
    result = write(lake, grid(24, bump={7: 0.5}), 24, reason="late data")
    assert [r.slot for r in result.restated] == ["2026-01-01T07"]
    changed = {s for s, h in lake.slots("grid_intensity").items() if hashes[s] != h}
    assert changed == {"2026-01-01T07"}
    assert lake.read("grid_intensity").num_rows == 72


def test_commit_times_outlive_folding_and_unfolding(lake: Lake) -> None:
    def times() -> list[tuple[str, datetime]]:
        return [(r["slot"], r["committed_at"]) for r in lake.inventory(["grid_intensity"]).to_pylist()]

    for hours in (10, 24, 48):  # three commits, the second within the first day
        write(lake, grid(hours), hours)
    before = times()
    assert len({at for _, at in before}) == 3
    assert lake.compact("grid_intensity", end(48)) == 2
    assert times() == before
    write(lake, grid(48, bump={7: 0.5}), 48, reason="late data")
    after = dict(times())
    changed = {slot for slot, at in before if after[slot] != at}
    assert changed == {"2026-01-01T07"}
    assert Lake(lake.root).inventory(["grid_intensity"]).equals(lake.inventory(["grid_intensity"]))


def test_other_engines_read_it_as_it_is(lake: Lake) -> None:
    write(lake, grid(30), 30)
    engine = QueryBuilder().register("grid", DeltaTable(lake.uri("grid_intensity")))
    counted = pa.table(engine.execute("select date, count(*) as n from grid group by date order by date")).to_pylist()
    assert [(str(r["date"]), r["n"]) for r in counted] == [("2026-01-01", 72), ("2026-01-02", 18)]
    files = f"{lake.uri('grid_intensity')}/date=2026-01-01/*.parquet"
    assert duckdb.connect().sql(f"select count(*) from read_parquet('{files}')").fetchall() == [(72,)]


def test_commit_time_is_read_from_the_log(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    before = datetime.now(UTC) - timedelta(seconds=1)
    empty_cost = {"resource_qty": [1.0], "usage_hours": [1.0]}
    row = {
        name: ["x"]
        for name in [
            "activity_id",
            "job_id",
            "workload_id",
            "service_name",
            "team_id",
            "cloud_provider",
            "region",
            "resource_type",
            "resource_unit",
            "workload_category",
            "source",
            "charge_class",
            "quality",
        ]
    }
    table = pa.table({**row, **empty_cost, "started_at": pa.array([START], TIMESTAMP)})
    lake.write("activity_ledger", table, START, end(1), writer="ingestor")
    (when,) = lake.read("activity_ledger", columns=["ingested_at"]).column(0).to_pylist()
    assert before < when < datetime.now(UTC) + timedelta(seconds=1)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=4, unique=True).map(sorted))
def test_any_split_of_a_range_gives_the_same_lake(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    whole, parts = (Lake(tmp_path_factory.mktemp("lake")) for _ in range(2))
    write(whole, grid(12), 12)
    edges = [0, *cuts, 12]
    table = grid(12)
    for a, b in itertools.pairwise(edges):
        rows = table.slice(a * 3, (b - a) * 3)
        parts.write("grid_intensity", rows, end(a), end(b), writer="accountant")
    assert parts.digest() == whole.digest()


def _write_hours(root: str, hours: list[int]) -> None:
    lake = Lake(root)
    for h in hours:
        rows = grid(1, start=end(h))
        lake.write("grid_intensity", rows, end(h), end(h + 1), writer="accountant")


def test_parallel_writers_of_different_hours_all_land(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_hours, args=(str(tmp_path), list(range(w, 12, 3)))) for w in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
        assert w.exitcode == 0
    assert len(Lake(tmp_path).slots("grid_intensity")) == 12


def test_parallel_writers_of_the_same_hour_leave_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_hours, args=(str(tmp_path), list(range(6)))) for _ in range(3)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
        assert w.exitcode == 0
    lake = Lake(tmp_path)
    assert len(lake.slots("grid_intensity")) == 6
    assert lake.read("grid_intensity").num_rows == 18


def test_a_torn_temporary_file_is_never_read(lake: Lake) -> None:
    write(lake, grid(2), 2)
    folder = Path(lake.root, "grid_intensity", "date=2026-01-01")
    (folder / ".2026-01-01T00-dead.parquet.1.tmp").write_bytes(b"PAR1 torn")
    assert lake.read("grid_intensity").num_rows == 6
    assert not write(lake, grid(2), 2).committed


def test_slot_names_say_when() -> None:
    assert slot_start("2026-01-01T05") == START + timedelta(hours=5)
    assert slot_start("2026-01-01") == START


def test_threads_that_write_the_same_at_once_do_not_take_each_others_files(tmp_path: Path) -> None:
    table, together = grid(1, regions=30_000), Barrier(6)

    def write_one(lake: Lake) -> None:
        together.wait(30)
        write(lake, table, 1)

    for number in range(4):
        lakes = [Lake(tmp_path / str(number)) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(write_one, lakes))
        (path,) = lakes[0].files("grid_intensity")
        assert path.endswith(f"-{lakes[0].file_digest('grid_intensity', path)}.parquet")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_is_read_whole_wherever_it_lies(remote: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    lake = Lake(f"{request.getfixturevalue('s3')}/lake" if remote else tmp_path / "lake")
    write(lake, grid(1), 1)
    (path,) = lake.files("grid_intensity")
    body = lake.read_file(f"grid_intensity/{path}")
    assert path.endswith(f"-{hashlib.sha256(body).hexdigest()}.parquet")
    with pytest.raises(FileNotFoundError):
        lake.read_file("grid_intensity/nothing.parquet")


def test_the_lake_lives_on_an_object_store_too(s3: str) -> None:
    lake = Lake(f"{s3}/lake")
    first = write(lake, grid(30), 30)
    assert first.committed and not write(lake, grid(30), 30).committed
    result = write(lake, grid(30, bump={3: 1.0}), 30, reason="revised")
    assert [r.slot for r in result.restated] == ["2026-01-01T03"]
    assert lake.read("grid_intensity").num_rows == 90
    assert lake.read("grid_intensity", as_of=first.version).column("intensity_kgco2_kwh")[9].as_py() < 0.4
    digest = lake.digest()
    assert lake.compact("grid_intensity", end(30)) == 1
    assert lake.digest() == digest

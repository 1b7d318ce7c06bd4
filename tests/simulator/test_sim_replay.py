"""Replay of a trace: exact, wrapped by name only, and loud about gaps."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.replay import Replay, TraceError, read_trace

START = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = {
    "us-east-1": "US-MIDA-PJM",
    "us-west-2": "US-NW-PACW",
    "eu-west-1": "IE",
    "eu-north-1": "SE-SE3",
    "ap-south-1": "IN-WE",
}


def trace(first: datetime, hours: int, skip: tuple[tuple[str, int], ...] = ()) -> pa.Table:
    rows = [
        {"ts": first + timedelta(hours=h), "region": r, "intensity_g_per_kwh": 100.0 * (k + 1) + h % 24}
        for h in range(hours)
        for k, r in enumerate(REGION_IDS)
        if (r, h) not in skip
    ]
    schema = pa.schema({"ts": pa.timestamp("us", "UTC"), "region": pa.string(), "intensity_g_per_kwh": pa.float64()})
    return pa.Table.from_pylist(rows, schema)


def test_the_observed_signal_is_the_trace() -> None:
    table = trace(START, 72)
    cloud = FakeCloud(42, replay=Replay(table))
    seen = cloud.grid_signal(START, START + timedelta(hours=72))
    assert seen.select(table.column_names).equals(table)
    # The truth differs from it by the named errors, and the bounds are there.
    truth = cloud.true_intensity(START, START + timedelta(hours=72))["intensity_g_per_kwh"].to_numpy()
    assert not np.allclose(truth, table["intensity_g_per_kwh"].to_numpy())
    assert (seen["lower"].to_numpy() < seen["upper"].to_numpy()).all()
    # Nothing but the grid changes.
    assert cloud.jobs(START, START + timedelta(hours=5)).equals(FakeCloud(42).jobs(START, START + timedelta(hours=5)))


def test_bounds_of_the_trace_are_kept() -> None:
    table = trace(START, 2)
    own = table.append_column("lower", pa.array([1.0] * 10)).append_column("upper", pa.array([999.0] * 10))
    seen = FakeCloud(1, replay=Replay(own)).grid_signal(START, START + timedelta(hours=2))
    assert set(seen["lower"].to_pylist()) == {1.0}
    assert set(seen["upper"].to_pylist()) == {999.0}


def test_a_missing_hour_is_named() -> None:
    cloud = FakeCloud(42, replay=Replay(trace(START, 48, skip=(("eu-west-1", 30),))))
    assert cloud.grid_signal(START, START + timedelta(hours=30)).num_rows == 150
    with pytest.raises(TraceError, match=r"no eu-west-1 intensity for 2026-01-02T06:00Z"):
        cloud.grid_signal(START, START + timedelta(hours=48))
    with pytest.raises(TraceError, match="hour_of_year"):
        cloud.grid_signal(START + timedelta(days=400), START + timedelta(days=401))


def test_a_null_value_is_a_missing_hour() -> None:
    table = trace(START, 3)
    values = table["intensity_g_per_kwh"].to_pylist()
    values[7] = None
    cloud = FakeCloud(42, replay=Replay(table.set_column(2, "intensity_g_per_kwh", pa.array(values))))
    with pytest.raises(TraceError, match=r"eu-west-1 intensity for 2026-01-01T01:00Z"):
        cloud.grid_signal(START, START + timedelta(hours=3))


def test_wrapping_maps_the_hour_of_the_year() -> None:
    year = trace(datetime(2022, 1, 1, tzinfo=UTC), 8760)
    cloud = FakeCloud(42, replay=Replay(year, wrap="hour_of_year"))
    when = datetime(2027, 6, 1, 5, tzinfo=UTC)
    hour_of_year = int((when - datetime(2027, 1, 1, tzinfo=UTC)) / timedelta(hours=1))
    seen = cloud.grid_signal(when, when + timedelta(hours=1))["intensity_g_per_kwh"].to_pylist()
    assert seen == [100.0 * (k + 1) + hour_of_year % 24 for k in range(5)]
    # A leap year's last day wraps to the first.
    last = datetime(2028, 12, 31, tzinfo=UTC)
    assert cloud.grid_signal(last, last + timedelta(hours=24)).num_rows == 120


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: t.drop_columns(["region"]), "no column region"),
        (lambda t: t.set_column(0, "ts", t["ts"].cast(pa.timestamp("us"))), "time zone"),
        (lambda t: t.filter(pa.array([r != "us-west-2" for r in t["region"].to_pylist()])), "region us-west-2"),
        (lambda t: pa.concat_tables([t, t.slice(3, 1)]), "more than once"),
        (lambda t: t.set_column(2, "intensity_g_per_kwh", pa.array([-1.0] * t.num_rows)), "negative"),
    ],
)
def test_traces_that_cannot_serve_are_refused(spoil: Callable[[pa.Table], pa.Table], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        FakeCloud(1, replay=Replay(spoil(trace(START, 4))))


def test_an_unknown_wrap_is_refused() -> None:
    with pytest.raises(TraceError, match="wrap"):
        Replay(trace(START, 1), wrap="weekly")  # ty: ignore[invalid-argument-type]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_are_read_as_written(tmp_path: Path, suffix: str) -> None:
    table, path = trace(START, 6), tmp_path / f"trace.{suffix}"
    if suffix == "csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    assert read_trace(path).equals(table)


def test_a_file_without_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("ts,zone\n2026-01-01T00:00:00Z,IE\n")
    with pytest.raises(TraceError, match="no column region, intensity_g_per_kwh"):
        read_trace(path)
    path.write_text("ts,region,intensity_g_per_kwh\nsoon,eu-west-1,5\n")
    with pytest.raises(TraceError, match="no ISO 8601 time"):
        read_trace(path)


def test_a_real_year_replays_and_its_lost_hour_is_named(shared_data: Path) -> None:
    path = shared_data / "traces" / "electricity_maps_2022_lifecycle_hourly_wide.parquet"
    if not path.exists():
        pytest.skip("the Electricity Maps 2022 trace is not in ../shared/data/traces")
    wide = pq.read_table(path, columns=["datetime", *ZONES.values()]).to_pandas().set_index("datetime")
    wide.index = wide.index.tz_localize("UTC") if wide.index.tz is None else wide.index.tz_convert("UTC")
    long = wide.rename(columns={z: r for r, z in ZONES.items()}).rename_axis("ts").reset_index()
    long = long.melt("ts", var_name="region", value_name="intensity_g_per_kwh")
    cloud = FakeCloud(42, replay=Replay(pa.Table.from_pandas(long, preserve_index=False), wrap="hour_of_year"))
    seen = cloud.grid_signal(START, START + timedelta(days=300)).to_pandas()
    assert seen.groupby("region")["intensity_g_per_kwh"].mean()["us-east-1"] == pytest.approx(425, rel=0.05)
    assert cloud.true_emissions(START, START + timedelta(days=1)).num_rows > 500
    # The file has 8,759 of the year's 8,760 hours.
    with pytest.raises(TraceError, match="1 of 8760 hours missing"):
        cloud.grid_signal(START, START + timedelta(days=365))

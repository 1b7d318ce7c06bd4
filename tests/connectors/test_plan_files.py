"""Cells of plain files: times of every spelling, numbers, empty cells, and which row it was."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sust_dagster.connectors.plans import PlanFileError, read_capacity, read_jobs_file, read_latency
from sust_dagster.connectors.plans.table_file import TableFile

NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def csv(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2026-10-01T12:00:00Z", NOON),
        ("2026-10-01 12:00:00", NOON),
        ("2026-10-01 12:00", NOON),
        ("2026-10-01T12", NOON),
        ("2026-10-01 12:00:00 UTC", NOON),
        ("2026-10-01T12:00:00+00:00", NOON),
        ("2026-10-01T14:00:00+02:00", NOON),
        ("2026-10-01T07:00:00-0500", NOON),
        ("2026-10-01 12:00:00.250", NOON.replace(microsecond=250_000)),
        ("2026-10-01", NOON.replace(hour=0)),
        (" 2026-10-01T12:00:00z ", NOON),
    ],
)
def test_a_time_of_any_spelling_is_utc(tmp_path, text, wanted):
    file = TableFile.read(csv(tmp_path / "t.csv", f"ts\n{text}\n"))
    assert file.times("ts").to_pylist() == [wanted]


@pytest.mark.parametrize("text", ["noon", "01/10/2026", "2026-13-01", "2026-10-01T25:00:00Z", "1790856000"])
def test_what_is_no_time_is_refused(tmp_path, text):
    file = TableFile.read(csv(tmp_path / "t.csv", f"ts\n2026-10-01\n{text}\n"))
    with pytest.raises(PlanFileError, match="column ts"):
        file.times("ts")


def test_typed_times_of_parquet_are_utc(tmp_path):
    kinds = {
        "naive": pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
        "zoned": pa.array([NOON], pa.timestamp("ms", "Europe/Berlin")),
        "day": pa.array([date(2026, 10, 1)]),
    }
    pq.write_table(pa.table(kinds), tmp_path / "t.parquet")
    file = TableFile.read(tmp_path / "t.parquet")
    assert file.times("naive").to_pylist() == file.times("zoned").to_pylist() == [NOON]
    assert file.times("day").to_pylist() == [NOON.replace(hour=0)]


def test_numbers_and_empty_cells(tmp_path):
    file = TableFile.read(csv(tmp_path / "n.csv", 'a,b\n 1 ,x\n,y\n-2.5e-1,\n"3",z\n'))
    assert file.numbers("a").to_pylist() == [1.0, None, -0.25, 3.0]
    assert file.text("b").to_pylist() == ["x", "y", None, "z"]
    with pytest.raises(PlanFileError, match="row 2, column b: 'x' is not a number"):
        file.numbers("b")


def test_a_header_is_found_whatever_its_case_and_mark(tmp_path):
    (tmp_path / "c.csv").write_bytes("\ufeffRegion, VCPUs ,TS\na,4,2026-10-01\n".encode())
    table = read_capacity(tmp_path / "c.csv").table
    assert table.to_pylist() == [{"region": "a", "vcpus": 4.0, "ts": NOON.replace(hour=0)}]


def test_the_latency_file_of_the_public_traces_is_read(shared_data):
    table = read_latency(shared_data / "traces" / "aws_interregion_latency_2024.csv").table
    assert table.num_rows == 182
    assert table.column_names == ["from_region", "to_region", "rtt_ms"]


def test_a_file_cut_off_is_told_as_such(tmp_path):
    whole = gzip.compress(b"region,vcpus\n" + b"a,1\n" * 20_000)
    (tmp_path / "c.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PlanFileError, match="cut off or damaged"):
        read_capacity(tmp_path / "c.csv.gz")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(PlanFileError, match="not a Parquet file"):
        read_capacity(tmp_path / "c.parquet")


def test_columns_nobody_needs_are_not_looked_at(tmp_path):
    head = "job_id,requested_start,surplus\n"
    table = read_jobs_file(csv(tmp_path / "j.csv", head + "a,2026-10-01,what?\n")).table
    assert table.column_names == ["job_id", "requested_start"]

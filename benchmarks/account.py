"""How fast the accountant is, next to reading and writing the same columns with no arithmetic at all.

Run as ``python -m benchmarks.account [rows ...]``; the default is one and ten million rows.

The plain peer reads the very ledger columns the accountant reads and writes the very emission columns it
writes (computed beforehand, same types, same compression), one after the other, in this process and run.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sust_dagster.agents.accountant import (
    DICTIONARY_COLUMNS,
    LEDGER_COLUMNS,
    Accountant,
    FactorSet,
    account_stream,
    prepare,
)
from sust_dagster.reference import instances, shipped_factors
from sust_dagster.world.schemas import GRID_INTENSITY, TIMESTAMP

REGIONS = (
    "us-east-1", "us-east-2", "us-west-2", "eu-west-1", "eu-north-1", "eu-central-1", "ap-south-1", "ap-northeast-1",
)  # fmt: skip
HOURS = 720
START = datetime(2026, 1, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
GROUP = 1_000_000
TYPES = ("m5.large", "m5.2xlarge", "c6i.4xlarge", "m7g.xlarge", "r6a.2xlarge", "g5.xlarge")
VCPUS = (2.0, 8.0, 16.0, 4.0, 8.0, 4.0)


def grid_table(seed: int = 7) -> pa.Table:
    """Eight regions by 720 hours, all different."""
    random = np.random.default_rng(seed)
    n = len(REGIONS) * HOURS
    hours = np.tile(np.arange(HOURS), len(REGIONS)) * 3_600_000_000 + START_US
    return GRID_INTENSITY.conform(
        pa.table(
            {
                "ts": pa.array(hours).cast(TIMESTAMP),
                "region": np.repeat(REGIONS, HOURS),
                "intensity_kgco2_kwh": random.uniform(0.02, 0.8, n),
                "source": ["synthetic"] * n,
                "signal": ["average"] * n,
                "method": ["lifecycle"] * n,
                "estimated": np.zeros(n, bool),
                "quality": ["ok"] * n,
                "system_rel_lower": np.full(n, 0.8),
                "system_rel_upper": np.full(n, 1.25),
                "hour_rel_lower": np.full(n, 0.95),
                "hour_rel_upper": np.full(n, 1.05),
            }
        )
    )


def ledger_batch(rows: int, seed: int) -> pa.Table:
    """Synthetic ledger rows: hourly compute slices over regions, hours, types, teams and workloads."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, len(TYPES), rows)
    vcpus = np.array(VCPUS)[kind]
    used = random.choice([0.2, 0.5, 1.0], rows)
    started = random.integers(0, HOURS, rows) * 3_600_000_000 + START_US
    number = np.arange(seed * rows, (seed + 1) * rows)
    ids = pa.array(np.char.add("00000000-0000-5000-8000-", np.char.zfill(number.astype("U12"), 12)))

    def words(values: tuple[str, ...] | list[str], codes: np.ndarray) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values))

    one = np.zeros(rows, np.int64)
    return pa.table(
        {
            "activity_id": ids,
            "job_id": pa.array(np.char.add("i-", (number // 24).astype("U10"))),
            "workload_id": words([f"workload-{i}" for i in range(60)], random.integers(0, 60, rows)),
            "service_name": words(("AmazonEC2", "AmazonEKS", "CI"), random.integers(0, 3, rows)),
            "team_id": words([f"team-{i}" for i in range(20)], random.integers(0, 20, rows)),
            "cloud_provider": words(("aws",), one),
            "region": words(REGIONS, random.integers(0, len(REGIONS), rows)),
            "instance_type": words(TYPES, kind),
            "resource_type": words(("compute",), one),
            "resource_qty": vcpus * used,
            "resource_unit": words(("vCPU-h",), one),
            "cost_usd": random.uniform(0.01, 3.0, rows),
            "workload_category": words(("urgent", "balanced", "sustainable"), random.integers(0, 3, rows)),
            "started_at": pa.array(started).cast(TIMESTAMP),
            "ended_at": pa.array(started + (used * 3.6e9).astype(np.int64)).cast(TIMESTAMP),
            "usage_hours": used,
            "vcpus": vcpus,
            "gpus": np.where(kind == 5, 1.0, 0.0),
            "gpu_model": words(("", "NVIDIA A10G"), (kind == 5).astype(np.int64)),
            "memory_gib": vcpus * 4,
            "vcpu_hours": vcpus * used,
            "gpu_hours": np.where(kind == 5, used, 0.0),
            "utilisation": pa.nulls(rows, pa.float64()),
            "data_gb": pa.nulls(rows, pa.float64()),
            "quality": words(("ok", "shaped"), random.integers(0, 2, rows)),
        }
    )


def read(path: Path, columns: tuple[str, ...] | None = None) -> Iterator[pa.Table]:
    """Row group by row group, low-cardinality text as dictionaries."""
    file = pq.ParquetFile(path, read_dictionary=list(DICTIONARY_COLUMNS))
    for group in range(file.num_row_groups):
        yield file.read_row_group(group, columns=list(columns) if columns else None)


def write(path: Path, batches: Iterator[pa.Table]) -> int:
    """Write batches as row groups; rows written."""
    writer, rows = None, 0
    for batch in batches:
        writer = writer or pq.ParquetWriter(path, batch.schema, store_schema=False)
        writer.write_table(batch, row_group_size=GROUP)
        rows += batch.num_rows
    if writer is not None:
        writer.close()
    return rows


def account_file(source: Path, target: Path, ready: Accountant) -> int:
    """Account a Parquet ledger into a Parquet file, overlapped."""
    writers: list[pq.ParquetWriter] = []

    def sink(batch: pa.Table) -> None:
        if not writers:
            writers.append(pq.ParquetWriter(target, batch.schema, store_schema=False))
        writers[0].write_table(batch, row_group_size=GROUP)

    rows = account_stream(read(source, LEDGER_COLUMNS), sink, ready)
    writers[0].close()
    return rows


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def plain_copy(ledger: Path, emissions: Path, target: Path) -> tuple[float, float]:
    """Seconds to read the ledger columns, and to write the emission columns, with nothing in between."""

    def drain() -> None:
        for _ in read(ledger, LEDGER_COLUMNS):
            pass

    spent_reading = seconds(drain)
    # The emissions come from a file only because ten million of them do not fit; that read is not counted.
    writer, spent_writing = None, 0.0
    file = pq.ParquetFile(emissions)
    text = [f.name for f in file.schema_arrow if pa.types.is_string(f.type) and f.name not in {"activity_id", "job_id"}]
    for group in range(file.num_row_groups):
        batch = pq.ParquetFile(emissions, read_dictionary=text).read_row_group(group)
        start = time.perf_counter()
        writer = writer or pq.ParquetWriter(target, batch.schema, store_schema=False)
        writer.write_table(batch, row_group_size=GROUP)
        spent_writing += time.perf_counter() - start
    if writer is not None:
        writer.close()
    return spent_reading, spent_writing


def run(rows: int, method: str) -> None:
    """One size and method: prints the figures on one line."""
    ready = prepare(grid_table(), FactorSet.from_table(shipped_factors()), method=method, instances=instances())
    with tempfile.TemporaryDirectory() as folder:
        ledger, emissions, copy = (
            Path(folder) / name for name in ("ledger.parquet", "emissions.parquet", "copy.parquet")
        )
        write(ledger, (ledger_batch(min(GROUP, rows - i), i // GROUP) for i in range(0, rows, GROUP)))
        spent = seconds(lambda: account_file(ledger, emissions, ready))
        peak = peak_gb()
        reading, writing = plain_copy(ledger, emissions, copy)
        compute = 0.0
        for batch in read(ledger, LEDGER_COLUMNS):
            compute += seconds(lambda batch=batch: ready(batch))
        plain = reading + writing
        print(
            f"{method:18} {rows:>11,} rows  {spent:7.2f} s  {rows / spent:>11,.0f} rows/s  "
            f"plain read {reading:.2f} s + write {writing:.2f} s  ratio {spent / plain:.2f}  "
            f"arithmetic alone {compute:.2f} s  peak {peak:.2f} GB  "
            f"ledger {ledger.stat().st_size / 1e6:.0f} MB, emissions {emissions.stat().st_size / 1e6:.0f} MB",
            flush=True,
        )


def main(sizes: tuple[int, ...] = (1_000_000, 10_000_000)) -> None:
    """Print rows/s, seconds, ratio to the plain read and write, and peak memory, per size and method."""
    for rows in sizes:
        for method in ("simple/v1", "instance-power/v1"):
            run(rows, method)


if __name__ == "__main__":
    main(tuple(int(a.replace("_", "")) for a in sys.argv[1:]) or (1_000_000, 10_000_000))

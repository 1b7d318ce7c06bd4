"""How fast and how lean the ingestor is, next to reading the same CSV and writing it as Parquet, and no more.

Run as ``python -m benchmarks.ingest [--rows N] [--gigabytes G]``. The first measures a FOCUS bill and a CUR-like
bill of N rows (default one million); with ``--gigabytes`` a FOCUS CSV of that size is ingested as well, for its
memory. The plain peer reads every column with Arrow's own type inference and writes them; the ingestor reads the
columns it needs, checks, splits, maps, keys and writes the ledger. Each runs in a process of its own, one after the
other, so that peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

STEP = 100_000
HOUR_US = 3_600_000_000
START_US = 1_790_812_800_000_000  # 2026-10-01T00:00Z
REGIONS = ["us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1"]
TYPES = ["m5.large", "c6i.4xlarge", "m7g.xlarge", "r6a.2xlarge", "t3.large"]
VCPUS = [2, 16, 4, 8, 2]
TEAMS = [f"team-{i:02d}" for i in range(20)]
TIERS = ["production", "ci", "batch", "training", "dev-test"]
FILLER = 20  # columns nobody needs: a real bill has many


def _pick(values: list[str], index: np.ndarray) -> pa.Array:
    return pa.array(values).take(pa.array(index % len(values)))


def _times(hours: np.ndarray) -> pa.Array:
    return pc.strftime(pa.array(START_US + hours * HOUR_US).cast(pa.timestamp("us")), format="%Y-%m-%dT%H:%M:%SZ")


def _common(first: int, rows: int) -> dict[str, np.ndarray]:
    index = np.arange(first, first + rows)
    mixed = (index * 2654435761) % 2**31
    return {"index": index, "kind": mixed % 5, "region": (mixed >> 4) % 5, "team": (mixed >> 8) % 20,
            "hour": index // 2000 % 744, "resource": index % 2000, "tier": (mixed >> 12) % 5}  # fmt: skip


def focus_rows(first: int, rows: int) -> pa.Table:
    """FOCUS 1.2 rows: 2,000 machines, hour after hour."""
    c = _common(first, rows)
    details = [f'{{"CoreCount":{v},"InstanceType":"{t}"}}' for t, v in zip(TYPES, VCPUS, strict=True)]
    tags = [f'{{"team":"{t}","service":"svc-{t}","tier":"{tier}"}}' for t in TEAMS for tier in TIERS]
    quantity = np.round(0.25 + (c["index"] % 97) / 128, 6)
    ids = pc.binary_join_element_wise(
        "arn:aws:ec2:us-east-1:111122223333:instance/i-", pa.array(c["resource"]).cast(pa.string()), ""
    )
    columns = {
        "BilledCost": pa.array(quantity * 0.1).cast(pa.string()),
        "BillingAccountId": _pick(["111122223333"], c["index"]),
        "BillingCurrency": _pick(["USD"], c["index"]),
        "ChargeCategory": _pick(["Usage"], c["index"]),
        "ChargeClass": _pick([""], c["index"]),
        "ChargeDescription": _pick([f"{t} Linux On-Demand instance-hours" for t in TYPES], c["kind"]),
        "ChargePeriodStart": _times(c["hour"]),
        "ChargePeriodEnd": _times(c["hour"] + 1),
        "ConsumedQuantity": pa.array(quantity).cast(pa.string()),
        "ConsumedUnit": _pick(["Hours"], c["index"]),
        "EffectiveCost": pa.array(quantity * 0.08).cast(pa.string()),
        "InvoiceId": _pick(["inv-1"], c["index"]),
        "ProviderName": _pick(["AWS"], c["index"]),
        "RegionId": _pick(REGIONS, c["region"]),
        "ResourceId": ids,
        "ServiceCategory": _pick(["Compute"], c["index"]),
        "ServiceName": _pick(["Amazon Elastic Compute Cloud"], c["index"]),
        "SkuId": _pick([f"SKU{i}" for i in range(25)], c["kind"] * 5 + c["region"]),
        "SkuMeter": _pick([f"BoxUsage:{t}" for t in TYPES], c["kind"]),
        "SkuPriceDetails": _pick(details, c["kind"]),
        "SubAccountId": _pick([f"4444555566{i:02d}" for i in range(20)], c["team"]),
        "Tags": _pick(tags, c["team"] * 5 + c["tier"]),
        **{f"x_Extra{i}": _pick(["some text nobody needs"], c["index"]) for i in range(FILLER)},
    }
    return pa.table(columns)


def cur_rows(first: int, rows: int) -> pa.Table:
    """Legacy CUR rows with line ids and tag columns."""
    c = _common(first, rows)
    start, end = _times(c["hour"]), _times(c["hour"] + 1)
    quantity = np.round(0.25 + (c["index"] % 97) / 128, 6)
    number = pa.array(c["index"]).cast(pa.string())
    columns = {
        "identity/LineItemId": pc.binary_join_element_wise("w72jmrdnjbabcdabcdabcd", number, ""),
        "identity/TimeInterval": pc.binary_join_element_wise(start, end, "/"),
        "bill/PayerAccountId": _pick(["111122223333"], c["index"]),
        "lineItem/UsageAccountId": _pick([f"4444555566{i:02d}" for i in range(20)], c["team"]),
        "lineItem/LineItemType": _pick(["Usage"], c["index"]),
        "lineItem/UsageStartDate": start,
        "lineItem/UsageEndDate": end,
        "lineItem/ProductCode": _pick(["AmazonEC2"], c["index"]),
        "lineItem/UsageType": _pick([f"USW2-BoxUsage:{t}" for t in TYPES], c["kind"]),
        "lineItem/Operation": _pick(["RunInstances"], c["index"]),
        "lineItem/AvailabilityZone": _pick([f"{r}a" for r in REGIONS], c["region"]),
        "lineItem/ResourceId": pc.binary_join_element_wise("i-0", pa.array(c["resource"]).cast(pa.string()), ""),
        "lineItem/UsageAmount": pa.array(quantity).cast(pa.string()),
        "lineItem/CurrencyCode": _pick(["USD"], c["index"]),
        "lineItem/UnblendedCost": pa.array(quantity * 0.1).cast(pa.string()),
        "lineItem/LineItemDescription": _pick(
            [f"$0.1 per On Demand Linux {t} Instance Hour" for t in TYPES], c["kind"]
        ),
        "product/ProductName": _pick(["Amazon Elastic Compute Cloud"], c["index"]),
        "product/instanceType": _pick(TYPES, c["kind"]),
        "product/vcpu": _pick([str(v) for v in VCPUS], c["kind"]),
        "product/memory": _pick(["8 GiB"], c["index"]),
        "product/region": _pick(REGIONS, c["region"]),
        "pricing/unit": _pick(["Hrs"], c["index"]),
        "resourceTags/user:team": _pick(TEAMS, c["team"]),
        "resourceTags/user:tier": _pick(TIERS, c["tier"]),
        **{f"product/extra{i}": _pick(["text nobody needs"], c["index"]) for i in range(3 * FILLER)},
    }
    return pa.table(columns)


def write_bill(path: Path, rows_of: Callable[[int, int], pa.Table], enough: Callable[[int, int], bool]) -> int:
    """Write steps of rows until ``enough(rows, bytes)``; returns the number of rows."""
    rows = 0
    with path.open("wb") as file, pa_csv.CSVWriter(file, rows_of(0, 1).schema) as writer:
        while not enough(rows, path.stat().st_size):
            writer.write_table(rows_of(rows, STEP))
            rows += STEP
    return rows


def plain(path: Path, out: Path) -> int:
    """The peer: every column read with inference, and written."""
    reader = pa_csv.open_csv(path, read_options=pa_csv.ReadOptions(block_size=16 << 20))
    rows = 0
    with pq.ParquetWriter(out, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def ours(path: Path, out: Path) -> int:
    """The ingestor, its ledger written as Parquet."""
    from sust_dagster.agents.ingestor import IngestOptions, ingest
    from sust_dagster.connectors.billing import FileBilling
    from sust_dagster.reference import instances
    from sust_dagster.world.schemas import ACTIVITY_LEDGER

    run = ingest(FileBilling(path).read(), IngestOptions(instances=instances()))
    with pq.ParquetWriter(out, ACTIVITY_LEDGER.arrow) as writer:
        for result in run:
            writer.write_table(result.ledger)
    summary = run.summary
    assert summary.rows_read == summary.rows_ledger + summary.rows_quarantined + summary.rows_skipped
    return summary.rows_ledger


def measure(kind: str, path: Path) -> None:
    """One measurement, printed as JSON (the process's own peak memory and CPU)."""
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        rows = {"plain": plain, "ours": ours}[kind](path, Path(folder) / "out.parquet")
        seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {"rows": rows, "seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024,
             "growth_mb": (used.ru_maxrss - before) / 1024}
        )
    )  # fmt: skip


def _measured(kind: str, path: Path, cores: int | None) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.ingest", "--measure", kind, str(path)]
    if cores and hasattr(os, "sched_getaffinity"):
        chosen = ",".join(str(c) for c in sorted(os.sched_getaffinity(0))[:cores])
        command = ["taskset", "-c", chosen, *command]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def compare(name: str, path: Path) -> None:
    """Print both sides on one core and on all."""
    size = path.stat().st_size / 2**20
    for cores in (1, None):
        peer, mine = _measured("plain", path, cores), _measured("ours", path, cores)
        print(f"{name}: {mine['rows']:,} rows, {size:,.0f} MB, {'one core' if cores else 'all cores'}")
        for side, m in (("plain read + write", peer), ("ingest", mine)):
            print(
                f"  {side:<19} {m['seconds']:6.1f} s  {m['rows'] / m['seconds']:>9,.0f} rows/s"
                f"  {m['cpu']:6.1f} s CPU  peak {m['peak_mb']:,.0f} MB"
            )
        print(f"  ratio               {mine['seconds'] / peer['seconds']:6.2f} x the plain time")


def _bills() -> Iterator[tuple[str, Callable[[int, int], pa.Table]]]:
    yield "FOCUS CSV", focus_rows
    yield "CUR CSV", cur_rows


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, default=0.0, help="also ingest a FOCUS CSV of this size")
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], Path(given.measure[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, rows_of in _bills():
            path = Path(folder) / "bill.csv"
            write_bill(path, rows_of, lambda rows, _: rows >= given.rows)
            compare(name, path)
        if given.gigabytes:
            path = Path(folder) / "large.csv"
            rows = write_bill(path, focus_rows, lambda _, size: size >= given.gigabytes * 2**30)
            found = _measured("ours", path, None)
            print(
                f"FOCUS CSV of {path.stat().st_size / 2**30:.1f} GB, {rows:,} rows: {found['seconds']:.0f} s,"
                f" {found['rows'] / found['seconds']:,.0f} rows/s, peak {found['peak_mb']:,.0f} MB"
            )


if __name__ == "__main__":
    main()

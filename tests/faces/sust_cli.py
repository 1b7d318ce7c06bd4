"""The command line for the tests: run in this process, and tiny bills and grid files to give it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typer.testing import CliRunner

from sust_dagster import cli

T0 = datetime(2026, 10, 1, tzinfo=UTC)


@dataclass
class Ran:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Everything on stdout as the one JSON object it must be."""
        assert self.code in (0, 1), self.err
        return json.loads(self.out)


def sust(*arguments: object) -> Ran:
    """Run ``sust`` with arguments, in this process."""
    done = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Ran(done.exit_code, done.stdout, done.stderr)


def emissions(path: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(path).to_pylist(), key=lambda r: (r["started_at"], r["region"]))


def usage(
    at: datetime, *, hours: float = 1.0, vcpus: int = 4, region: str = "us-east-1", **other: object
) -> dict[str, object]:
    """One FOCUS row: an instance of so many vCPUs used for part of an hour."""
    return {
        "BilledCost": "0.2",
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeClass": "",
        "ChargePeriodStart": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "ChargePeriodEnd": f"{at + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        "ConsumedQuantity": repr(hours),
        "ConsumedUnit": "Hours",
        "EffectiveCost": "0.1",
        "ProviderName": "AWS",
        "RegionId": region,
        "ResourceId": f"i-{region}-{at:%d%H}-{vcpus}",
        "ServiceCategory": "Compute",
        "ServiceName": "Amazon Elastic Compute Cloud",
        "SkuPriceDetails": json.dumps({"InstanceType": f"test.{vcpus}", "CoreCount": vcpus}),
        "Tags": '{"team":"search"}',
        **other,
    }


def write_bill(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_grid(path: Path, *rows: tuple[datetime, str, float | str], place: str = "region") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{ts:%Y-%m-%dT%H:%M:%SZ},{region},{value}" for ts, region, value in rows]
    path.write_text("\n".join([f"ts,{place},intensity_g_per_kwh", *lines]) + "\n", encoding="utf-8")
    return path

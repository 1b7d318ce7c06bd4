"""Histories for the forecast's tests: invented grids with a daily and weekly shape and weather, and real ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from sust_dagster.connectors.grid import FileGrid

START = datetime(2025, 1, 1, tzinfo=UTC)
HOUR_US = 3_600_000_000
STAMP = pa.timestamp("us", tz="UTC")

#: The zones of the design's forecast study that the three-year file holds (of its twelve it lacks Great Britain).
SHARED_ZONES = (
    "AU-NSW", "BR-CS", "CA-ON", "DE", "IN-WE", "JP-TK", "SG", "US-CAL-CISO", "US-MIDA-PJM", "US-NY-NYIS", "US-TEX-ERCO",
)  # fmt: skip
THREE_YEARS = "traces/electricity_maps_2021_2023_original_columns.parquet"


def at(day: int, hour: int = 3) -> datetime:
    return START + timedelta(days=day, hours=hour)


def grid(days: int, seed: int = 1, level: float = 0.3, noise: float = 0.15) -> np.ndarray:
    """kg/kWh by hour: a cleaner noon, cleaner weekends, weather that lasts about two days."""
    random = np.random.default_rng(seed)
    hours = np.arange(days * 24)
    weather = np.zeros(len(hours))
    steps = random.normal(0, noise * np.sqrt(1 - 0.98**2), len(hours))
    for i in range(1, len(hours)):
        weather[i] = 0.98 * weather[i - 1] + steps[i]
    shape = 1 - 0.3 * np.cos(2 * np.pi * ((hours % 24) - 13) / 24) - 0.1 * ((hours // 24) % 7 >= 5)
    return level * shape * np.exp(weather)


def history(values: dict[str, np.ndarray], first: datetime = START, **columns) -> pa.Table:
    """One row per region and hour from ``first`` on; ``columns`` are given for all rows together."""
    begin = int(first.timestamp()) * 1_000_000
    stamps = np.concatenate([begin + np.arange(len(v)) * HOUR_US for v in values.values()])
    names = np.repeat(list(values), [len(v) for v in values.values()])
    plain = {
        "ts": pa.array(stamps).cast(STAMP),
        "region": names,
        "intensity_kgco2_kwh": np.concatenate(list(values.values())),
    }
    return pa.table(plain | columns)


def before(table: pa.Table, moment: datetime) -> pa.Table:
    """What of a history had ended by a moment."""
    ended = table["ts"].cast(pa.int64()).to_numpy() + HOUR_US <= int(moment.timestamp()) * 1_000_000
    return table.filter(pa.array(ended))


def real(path: Path) -> pa.Table:
    """A grid file's zones as regions."""
    rows = FileGrid((path,)).loaded
    return pa.table(
        {
            "ts": rows["ts"],
            "region": rows["zone"],
            "intensity_kgco2_kwh": rows["intensity_g_per_kwh"].to_numpy() / 1000,
            "estimated": rows["estimated"],
        }
    )

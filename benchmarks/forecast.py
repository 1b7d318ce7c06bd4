"""What forecasts of grid intensity are worth, by zone and model, and what they cost.

Run as ``python -m benchmarks.forecast [days] [hour]``; the default scores the last 365 issues at 03:00 UTC of each real
trace. The peers of the default model (ridge) are the 28-day hour-of-day mean, yesterday and persistence, issued in the
same run on the same data. Definitions: ``docs/forecast.md``.

The traces are not part of the project: without ``../shared/data/traces`` only the speed is measured, on invented grids.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.planner.forecast import MODELS, backtest_grid, forecast, forecasts
from sust_dagster.connectors.grid import FileGrid
from sust_dagster.faces.backtest import zone_history
from sust_dagster.world.schemas import TIMESTAMP

TRACES = Path(__file__).parents[2] / "shared" / "data" / "traces"

_STUDY = (
    "AU-NSW", "BR-CS", "CA-ON", "DE", "GB", "IN-WE", "JP-TK", "SG", "US-CAL-CISO", "US-MIDA-PJM", "US-NY-NYIS",
    "US-TEX-ERCO",
)  # fmt: skip
_WIDE = "electricity_maps_2022_lifecycle_hourly_wide.parquet"

#: What is scored → trace, zones (none: all of it), the most issues; what stands before them is learned from.
SETS: dict[str, tuple[str, tuple[str, ...], int]] = {
    "2023, learned from 2021 on, zones of the design's study": (
        "electricity_maps_2021_2023_original_columns.parquet",
        _STUDY,
        365,
    ),
    "May to December 2022, learned from January on, zones of the study": (_WIDE, _STUDY, 240),
    "May to December 2022, learned from January on": (_WIDE, (), 240),
    "2021, direct intensity, learned from 2019 on": ("direct_intensity_2019_2021_hourly.parquet", (), 365),
}

#: Scores printed, and their width.
SCORES = {
    "mape_percent": "MAPE %",
    "coverage80_percent": "in 80 %",
    "coverage90_percent": "in 90 %",
    "width80_percent": "80 % wide",
    "captured_percent": "captured %",
}


def history_of(path: Path, zones: tuple[str, ...]) -> pa.Table:
    """A trace's zones as regions, kg/kWh."""
    table = zone_history(FileGrid((path,)))
    return table.filter(pc.is_in(table["region"], pa.array(zones))) if zones else table


def invented(regions: int, hours: int) -> pa.Table:
    """Regions with a day's shape and weather."""
    random = np.random.default_rng(1)
    at = np.arange(hours)
    shape = 1 + 0.3 * np.cos(2 * np.pi * at / 24)
    values = 0.3 * shape * np.exp(np.cumsum(random.normal(0, 0.02, (regions, hours)), axis=1) % 0.5)
    stamps = np.tile(at * 3_600_000_000 + 1_735_689_600_000_000, regions)
    names = np.repeat([f"region-{i:02d}" for i in range(regions)], hours)
    return pa.table({"ts": pa.array(stamps).cast(TIMESTAMP), "region": names, "intensity_kgco2_kwh": values.ravel()})


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def mean(rows: list[dict], column: str) -> float:
    values = [r[column] for r in rows if r[column] is not None]
    return float(np.mean(values)) if values else float("nan")


def report(title: str, history: pa.Table, days: int, hour: int) -> None:
    """Scores by model over the zones, and the default's by zone."""
    begin = time.perf_counter()
    rows = backtest_grid(history, hour=hour, days=days, by_month=True).to_pylist()
    spent = time.perf_counter() - begin
    zones = sorted({r["region"] for r in rows})
    issues = max(r["issues"] for r in rows)
    print(f"\n{title}: {len(zones)} zones x {issues} issues at {hour:02d}:00 UTC, {len(MODELS)} models, {spent:.1f} s")
    print(f"  {'mean over zones':18}{'band':8}" + "".join(f"{s:>12}" for s in SCORES.values()))
    for model in MODELS:
        for band in ("h1-24", "h25-48"):
            own = [r for r in rows if (r["model"], r["band"], r["period"]) == (model, band, "all")]
            print(f"  {model:18}{band:8}" + "".join(f"{mean(own, s):12.1f}" for s in SCORES))
    if len(zones) > 12:
        return
    print(
        f"  {'captured %':18}" + "".join(f"{m[:14]:>18}" for m in MODELS) + f"{'oracle g/kWh':>14}{'ridge MAPE %':>14}"
    )
    for zone in zones:
        own = {r["model"]: r for r in rows if (r["region"], r["band"], r["period"]) == (zone, "h1-24", "all")}
        share = "".join(f"{own[m]['captured_percent'] or float('nan'):18.1f}" for m in MODELS)
        first = own["ridge"]
        flags = "" if first["quality"] == "ok" else f"  {first['quality']}"
        gain = first["oracle_gain_kgco2_kwh"] * 1000
        print(f"  {zone:18}{share}{gain:14.1f}{first['mape_percent']:14.1f}{flags}")
    first_day = [r for r in rows if r["model"] == "ridge" and r["band"] == "h1-24" and r["period"] != "all"]
    print(f"  {'ridge by month':18}" + "".join(f"{s:>12}" for s in SCORES.values()))
    for month in sorted({r["period"] for r in first_day}):
        own = [r for r in first_day if r["period"] == month]
        print(f"  {month:18}" + "".join(f"{mean(own, s):12.1f}" for s in SCORES))


def speed() -> None:
    """A day's forecast of 30 regions over a year of history, and 30 days of them, against the plain mean."""
    table = invented(30, 8760)
    end = datetime(2026, 1, 1, tzinfo=UTC)
    ridge = seconds(lambda: forecast(table, end))
    plain = seconds(lambda: forecast(table, end, model="hour-of-day mean"))
    month = [datetime(2025, 12, day, 3, tzinfo=UTC) for day in range(1, 31)]
    together = seconds(lambda: forecasts(table, month))
    print(
        f"30 regions, a year of hours: one issue {ridge:.2f} s, the mean alone {plain:.2f} s "
        f"(ratio {ridge / plain:.0f}); "
        f"30 issues together {together:.2f} s"
    )


def main(days: int = 365, hour: int = 3) -> None:
    """Print speed, then every trace's scores."""
    speed()
    for title, (name, zones, most) in SETS.items():
        path = TRACES / name
        if not path.is_file():
            print(f"\n{title}: {name} is not in ../shared/data/traces")
            continue
        report(title, history_of(path, zones), min(days, most), hour)


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:]))

"""`sust backtest`: what forecasts of a grid file's last year would have been worth.

Belongs here: from files to the table of scores. Does not belong here: forecasts and their scores
(``agents.planner.forecast``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sust_dagster.agents.planner.forecast import backtest_grid
from sust_dagster.connectors.grid import FileGrid, GridError, open_grid
from sust_dagster.faces.simulate import replaced

#: Scores shown on the screen → their heading.
SHOWN = {
    "mape_percent": "MAPE %",
    "coverage80_percent": "in 80 %",
    "coverage90_percent": "in 90 %",
    "captured_percent": "captured %",
}


def zone_history(grid: FileGrid) -> pa.Table:
    """Every hour of the files by region, or by zone where a file speaks of zones, as a forecast reads it (kg/kWh)."""
    rows = grid.loaded
    return pa.table(
        {
            "ts": rows["ts"],
            "region": pc.if_else(pc.equal(rows["region"], ""), rows["zone"], rows["region"]),
            "intensity_kgco2_kwh": pc.divide(rows["intensity_g_per_kwh"], 1000.0),
            "estimated": rows["estimated"],
        }
    )


def backtest_files(grid: Sequence[str], *, hour: int, days: int, zones: Sequence[str], out: Path | None) -> pa.Table:
    """Scores of every model on the last ``days`` issues at ``hour`` UTC, by region or zone; also to ``out`` if given.

    Raises the readers' errors, and ``ValueError`` for a zone the files do not hold.
    """
    source = open_grid(grid)
    if not isinstance(source, FileGrid):
        raise GridError("annual means have no hours to forecast", fix="give grid files")
    history = zone_history(source)
    held = sorted(set(history["region"].to_pylist()))
    unknown = sorted(set(zones) - set(held))
    if unknown:
        raise ValueError(f"the grid files hold no {', '.join(unknown)}; they hold {', '.join(held)}")
    if zones:
        history = history.filter(pc.is_in(history["region"], pa.array(list(zones))))
    scores = backtest_grid(history, hour=hour, days=days)
    if out is not None:
        with replaced(out) as part:
            pq.write_table(scores, part, compression="zstd")
    return scores


def means(scores: pa.Table) -> list[dict[str, Any]]:
    """Mean over regions by model and band, in the order the models came."""
    grouped = scores.group_by(["model", "band"], use_threads=False)
    found = grouped.aggregate([*((name, "mean") for name in SHOWN), ("region", "count")])
    return [
        {"model": r["model"], "band": r["band"], "regions": r["region_count"], **{n: r[f"{n}_mean"] for n in SHOWN}}
        for r in found.to_pylist()
    ]

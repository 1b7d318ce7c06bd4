"""Small pictures and tables that an asset shows of itself.

Belongs here: metadata made of what the step already holds. Every partition of a range run carries its
metadata, so what goes there is text of a few hundred bytes; the one drawn plot of a run goes on an observation.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float] | np.ndarray) -> str:
    """Bars of one text line, scaled from zero to the largest value; ``·`` where there is none."""
    series = np.asarray(values, dtype=float)
    top = np.nanmax(series, initial=0.0)
    if top <= 0:
        return "·" * len(series)
    level = np.ceil(np.nan_to_num(series) / top * len(_BARS)).clip(1, len(_BARS)).astype(int) - 1
    return "".join("·" if np.isnan(v) else _BARS[i] for v, i in zip(series, level, strict=True))


def by_hour_of_day(table: pa.Table, time_column: str, value_column: str) -> np.ndarray:
    """Sum of a column by UTC hour of day, 24 values."""
    hours = pc.hour(table.column(time_column)).to_numpy()
    values = pc.fill_null(table.column(value_column), 0.0).to_numpy()
    return np.bincount(hours, weights=values, minlength=24)


def top_table(table: pa.Table, by: str, value: str, unit: str, *, rows: int = 6) -> dg.MetadataValue:
    """Markdown table of the largest groups."""
    grouped = table.group_by(by).aggregate([(value, "sum")]).sort_by([(f"{value}_sum", "descending")]).slice(0, rows)
    lines = [
        f"| {k} | {v:,.3f} |"
        for k, v in zip(*(c.to_pylist() for c in (grouped[by], grouped[f"{value}_sum"])), strict=True)
    ]
    return dg.MetadataValue.md(f"| {by} | {value} [{unit}] |\n|---|---:|\n" + "\n".join(lines))


def line_plot(series: Mapping[str, tuple[Any, Any]], ylabel: str) -> dg.MetadataValue:
    """A drawn plot as Markdown with an inlined PNG; one line per named series."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    figure = Figure(figsize=(7, 2.4), dpi=80, layout="constrained")
    axes = figure.subplots()
    for (name, (x, y)), colour in zip(series.items(), colours, strict=False):
        axes.plot(x, y, label=name, color=colour, linewidth=1)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")

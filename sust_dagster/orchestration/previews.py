"""Small pictures and tables that an asset shows of itself.

Belongs here: metadata made of what the step already holds. Every partition of a range run is an event of its own:
it carries its own rows and sums, a few hundred bytes; what is said of the run as a whole goes on its last partition,
which is what the asset's page shows, and the one drawn plot on an observation.
"""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.orchestration.partitions import hour_key

_BARS = "▁▂▃▄▅▆▇█"
#: Most partitions of a run that show figures of their own: Dagster copies what was attached before at each call, so
#: a month costs two seconds and a year would cost five minutes. A longer run shows the whole on its last partition.
MOST_SHOWN = 1000


def sparkline(values: Sequence[float] | np.ndarray) -> str:
    """Bars of one text line, scaled from zero to the largest value; ``·`` where there is none."""
    series = np.asarray(values, dtype=float)
    top = np.nanmax(series, initial=0.0)
    if top <= 0:
        return "·" * len(series)
    level = np.ceil(np.nan_to_num(series) / top * len(_BARS)).clip(1, len(_BARS)).astype(int) - 1
    return "".join("·" if np.isnan(v) else _BARS[i] for v, i in zip(series, level, strict=True))


def show(
    context: dg.AssetExecutionContext,
    asset: str,
    table: pa.Table,
    time_column: str,
    *,
    sums: Sequence[str] = (),
    of_the_run: Mapping[str, Any] | None = None,
) -> None:
    """Attach rows and sums of each hour to its partition, and ``of_the_run`` to the last one."""
    keys = context.partition_keys
    if len(keys) <= MOST_SHOWN:
        hours = pa.table(
            {"hour": pc.floor_temporal(table.column(time_column), unit="hour"), **{c: table.column(c) for c in sums}}
        )
        grouped = hours.group_by("hour").aggregate([("hour", "count"), *((c, "sum") for c in sums)])
        found = {hour_key(row["hour"]): row for row in grouped.to_pylist()}
        for key in keys:
            row = found.get(key, {})
            figures = {c: row.get(f"{c}_sum") or 0.0 for c in sums}
            context.add_asset_metadata(
                {"dagster/partition_row_count": row.get("hour_count", 0), **figures}, asset_key=asset, partition_key=key
            )
    whole = {"run_rows": table.num_rows, **{f"run_{c}": pc.sum(table.column(c)).as_py() or 0.0 for c in sums}}
    context.add_asset_metadata({**whole, **(of_the_run or {})}, asset_key=asset, partition_key=keys[-1])


def show_days(context: dg.AssetExecutionContext, asset: str, table: pa.Table, time_column: str) -> None:
    """Attach the rows of each day to its partition."""
    keys = context.partition_keys
    if len(keys) > MOST_SHOWN:
        return
    days = pc.strftime(table.column(time_column), format="%Y-%m-%d").to_pylist()
    found = Counter(days)
    for key in keys:
        rows = {"dagster/partition_row_count": found[key]}
        context.add_asset_metadata(rows, asset_key=asset, partition_key=key)


def by_hour_of_day(table: pa.Table, time_column: str, value_column: str) -> np.ndarray:
    """Sum of a column by UTC hour of day, 24 values."""
    hours = pc.hour(table.column(time_column)).to_numpy()
    values = pc.fill_null(table.column(value_column), 0.0).to_numpy()
    return np.bincount(hours, weights=values, minlength=24)


def words_table(
    header: Sequence[str], rows: Iterable[Sequence[str | int]], *, right: Sequence[int] = ()
) -> dg.MetadataValue:
    """Markdown table of words and counts; columns ``right`` stand right-aligned, no cell is broken, none is empty."""
    lines = ["| " + " | ".join(_unbroken(f"{v:,}" if isinstance(v, int) else v) for v in row) + " |" for row in rows]
    if not lines:
        return dg.MetadataValue.text("none")
    rule = "".join("---:|" if i in right else "---|" for i in range(len(header)))
    return dg.MetadataValue.md("\n".join(["| " + " | ".join(map(_unbroken, header)) + " |", f"|{rule}", *lines]))


def _unbroken(text: str) -> str:
    """With blanks and hyphens that a narrow column does not break at, as far as it is no sentence."""
    text = text.replace("|", "\\|")
    return text if len(text) > 40 else text.replace(" ", "\u00a0").replace("-", "\u2011")


def top_table(
    table: pa.Table, by: str, value: str, unit: str, *, rows: int = 6, ascending: bool = False
) -> dg.MetadataValue:
    """Markdown table of the largest groups (``ascending``: of the smallest, as the greatest reductions are)."""
    order = "ascending" if ascending else "descending"
    grouped = table.group_by(by).aggregate([(value, "sum")]).sort_by([(f"{value}_sum", order)]).slice(0, rows)
    lines = [
        f"| {k} | {v:,.3f} |"
        for k, v in zip(*(c.to_pylist() for c in (grouped[by], grouped[f"{value}_sum"])), strict=True)
    ]
    return dg.MetadataValue.md(f"| {by} | {value} [{unit}] |\n|---|---:|\n" + "\n".join(lines))


def forecast_plot(table: pa.Table) -> dg.MetadataValue:
    """Fan of a forecast: the point as a line and its 90 % interval as a band, by region, in g/kWh."""
    bands: dict[str, tuple[Any, Any]] = {}
    lines: dict[str, tuple[Any, Any]] = {}
    for region in pc.unique(table.column("region")).to_pylist()[:6]:
        rows = table.filter(pc.equal(table.column("region"), region)).sort_by("ts")
        low, mid, high = (
            pc.multiply(rows.column(name), 1000).to_numpy()
            for name in ("intensity_p05", "intensity_kgco2_kwh", "intensity_p95")
        )
        lines[region] = (rows.column("ts").to_numpy(), mid)
        bands[region] = (low, high)
    return line_plot(lines, "gCO2e/kWh", bands)


def line_plot(
    series: Mapping[str, tuple[Any, Any]], ylabel: str, bands: Mapping[str, tuple[Any, Any]] | None = None
) -> dg.MetadataValue:
    """A drawn plot as Markdown with an inlined PNG; one line per named series, with its band (low, high) if any."""
    from matplotlib.figure import Figure

    colours = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
    figure = Figure(figsize=(7, 2.4), dpi=80)  # with fixed margins: a fitted layout draws everything twice
    figure.subplots_adjust(left=0.09, right=0.99, bottom=0.13, top=0.96)
    axes = figure.subplots()
    for (name, (x, y)), colour in zip(series.items(), colours, strict=False):
        axes.plot(x, y, label=name, color=colour, linewidth=1)
        if bands:
            axes.fill_between(x, *bands[name], color=colour, alpha=0.2, linewidth=0)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})")

"""The Pareto frontier as a picture: PNG, and a page with its tables.

Belongs here: how the frontier is drawn. The palette is the report's; the knee and the plan itself are marked, and the
axes' zero is not shown, for a frontier is about differences: both axes say so in their titles.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

import pyarrow as pa

from sust_dagster.faces.charts import INK, PALETTE
from sust_dagster.faces.console import number

_TITLE = "Carbon against money"
_X, _Y = "cost, USD (axis does not start at 0)", "kgCO2e (axis does not start at 0)"
_METHODS = ("carbon price", "cost limit", "least carbon", "run now")
_MARKERS = ("o", "^", "D", "s")
_SYMBOLS = ("circle", "triangle-up", "diamond", "square")


def _labels(points: pa.Table) -> list[str]:
    labels = []
    for row in points.to_pylist():
        label = row["method"]
        if row["carbon_price_usd_per_t"] is not None:
            label = f"{row['carbon_price_usd_per_t']:g} USD/t"
        elif row["max_cost_increase_percent"] is not None:
            label = f"cost +{row['max_cost_increase_percent']:g} %"
        labels.append(label)
    return labels


def png(points: pa.Table, now: tuple[float, float], plan: tuple[float, float], path: Path) -> None:
    """Draw ``points`` (FRONTIER), the status quo and the plan (USD, kg each) into a PNG file."""
    from matplotlib.figure import Figure

    usd, kg = points.column("cost_usd").to_pylist(), points.column("kg").to_pylist()
    figure = Figure(figsize=(8, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.plot(usd, kg, color="#9aa5b1", linewidth=1, zorder=1)
    for method, marker, colour in zip(_METHODS, _MARKERS, PALETTE, strict=False):
        here = [i for i, m in enumerate(points.column("method").to_pylist()) if m == method]
        if here:
            axes.scatter([usd[i] for i in here], [kg[i] for i in here], marker=marker, color=colour, label=method)
    for i, knee in enumerate(points.column("knee").to_pylist()):
        if knee:
            axes.scatter(usd[i], kg[i], s=220, facecolors="none", edgecolors=INK, linewidths=1.5, label="knee")
    axes.scatter(*now, marker="+", s=90, color=INK, label="status quo", zorder=3)
    axes.scatter(*plan, marker="x", s=70, color=PALETTE[5], label="this plan", zorder=3)
    axes.set_title(_TITLE, loc="left", fontsize=11)
    axes.set_xlabel(_X)
    axes.set_ylabel(_Y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def html(
    points: pa.Table, scenarios: pa.Table, now: tuple[float, float], plan: tuple[float, float], path: Path
) -> None:
    """One self-contained page: the frontier, its points and the sensitivities."""
    import plotly.graph_objects as go

    axis = {"gridcolor": "#e4e7eb", "linecolor": "#9aa5b1", "zeroline": False}
    figure = go.Figure(
        layout={
            "height": 420,
            "margin": {"l": 70, "r": 16, "t": 12, "b": 52},
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "plot_bgcolor": "#ffffff",
            "paper_bgcolor": "#ffffff",
            "xaxis": {**axis, "title": _X},
            "yaxis": {**axis, "title": _Y},
            "legend": {"orientation": "h", "y": 1.1, "x": 0},
        }
    )
    usd, kg, labels = points.column("cost_usd").to_pylist(), points.column("kg").to_pylist(), _labels(points)
    figure.add_scatter(x=usd, y=kg, mode="lines", line={"color": "#9aa5b1", "width": 1}, showlegend=False)
    for method, symbol, colour in zip(_METHODS, _SYMBOLS, PALETTE, strict=False):
        here = [i for i, m in enumerate(points.column("method").to_pylist()) if m == method]
        figure.add_scatter(
            x=[usd[i] for i in here], y=[kg[i] for i in here], text=[labels[i] for i in here], mode="markers",
            name=method, marker={"symbol": symbol, "color": colour, "size": 9},
        )  # fmt: skip
    at = [i for i, knee in enumerate(points.column("knee").to_pylist()) if knee]
    figure.add_scatter(
        x=[usd[i] for i in at], y=[kg[i] for i in at], text=[labels[i] for i in at], mode="markers", name="knee",
        marker={"symbol": "circle-open", "color": INK, "size": 18, "line": {"width": 2}},
    )  # fmt: skip
    for name, place, symbol, colour in (("status quo", now, "cross", INK), ("this plan", plan, "x", PALETTE[5])):
        marker = {"symbol": symbol, "color": colour, "size": 10}
        figure.add_scatter(x=[place[0]], y=[place[1]], mode="markers", name=name, marker=marker)
    chart = figure.to_html(full_html=False, include_plotlyjs=True, div_id="frontier", config={"displaylogo": False})
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_TITLE}</title><style>body{{font-family:'
        f"system-ui,sans-serif;color:{INK};max-width:62rem;margin:2rem auto;padding:0 1rem}}table{{border-collapse:"
        "collapse;font-size:.85rem}td,th{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e4e7eb}"
        f"td:first-child,th:first-child{{text-align:left}}</style><h1>{_TITLE}</h1>{chart}"
        f"<h2>Points</h2>{_table(points)}<h2>Sensitivities</h2>{_table(scenarios)}</html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _table(table: pa.Table) -> str:
    head = "".join(f"<th>{escape(name.replace('_', ' '))}</th>" for name in table.column_names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row.values()) + "</tr>"
        for row in table.to_pylist()
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return number(value, digits=4) if isinstance(value, float) else str(value)

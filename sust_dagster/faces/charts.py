"""The charts of the report: Plotly for the page, matplotlib for PNG files, one palette for both.

Belongs here: how figures are drawn. Colours are Okabe-Ito (safe for colour-blind readers), axes start at zero,
bounds are drawn wherever a total is, and every chart has its figures in a table beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#777777")
INK = "#1f2933"


@dataclass(frozen=True)
class Bars:
    """Bars with optional bounds: one value per label, ``lower``/``upper`` absolute."""

    title: str
    unit: str
    labels: Sequence[str]
    values: Sequence[float]
    lower: Sequence[float] | None = None
    upper: Sequence[float] | None = None
    x_title: str = ""

    def errors(self) -> tuple[list[float], list[float]] | None:
        """Distances from the value down and up to its bounds."""
        if self.lower is None or self.upper is None:
            return None
        return _distances(self.values, self.lower, self.upper)


@dataclass(frozen=True)
class Stack:
    """Stacked bars over an ordered axis, with bounds of the total."""

    title: str
    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    total_lower: Sequence[float]
    total_upper: Sequence[float]
    x_title: str = ""


@dataclass(frozen=True)
class Line:
    """One line over an ordered axis."""

    title: str
    unit: str
    labels: Sequence[str]
    values: Sequence[float]
    x_title: str = ""


@dataclass(frozen=True)
class Groups:
    """Bars side by side, one of each series per label; a series may have an interval (``lower``, ``upper``, absolute).

    The first series is drawn hollow: it is what was promised, the others are what was found.
    """

    title: str
    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float]]
    intervals: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    x_title: str = ""

    def errors(self, name: str) -> tuple[list[float], list[float]] | None:
        """Distances of a series from its values down and up to its interval."""
        if name not in self.intervals:
            return None
        lower, upper = self.intervals[name]
        return _distances(self.series[name], lower, upper)

    def styles(self) -> dict[str, tuple[str, str]]:
        """Fill and outline of each series."""
        colours = [("#ffffff", INK), *((c, c) for c in PALETTE)]
        return dict(zip(self.series, colours, strict=False))


Chart = Bars | Stack | Line | Groups


def _distances(
    values: Sequence[float], lower: Sequence[float], upper: Sequence[float]
) -> tuple[list[float], list[float]]:
    down = [v - a for v, a in zip(values, lower, strict=True)]
    up = [b - v for v, b in zip(values, upper, strict=True)]
    return down, up


def _layout(chart: Chart) -> dict[str, Any]:
    axis = {"gridcolor": "#e4e7eb", "zerolinecolor": "#9aa5b1", "linecolor": "#9aa5b1"}
    return {
        "margin": {"l": 60, "r": 16, "t": 12, "b": 48},
        "height": 320,
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "plot_bgcolor": "#ffffff",
        "paper_bgcolor": "#ffffff",
        "xaxis": {**axis, "title": chart.x_title, "showgrid": False, "nticks": 16},
        "yaxis": {**axis, "title": chart.unit, "rangemode": "tozero"},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "hovermode": "x unified" if isinstance(chart, Stack) else "closest",
        "bargap": 0.25,
    }


def plotly_div(chart: Chart, div_id: str, *, script: bool) -> str:
    """The chart as an HTML ``div``; ``script`` inlines plotly.js, once per page."""
    import plotly.graph_objects as go

    figure = go.Figure(layout=_layout(chart))
    x = list(chart.labels)
    if isinstance(chart, Stack):
        for (name, values), colour in zip(chart.series.items(), PALETTE, strict=False):
            figure.add_bar(x=x, y=list(values), name=name, marker_color=colour)
        total = [sum(column) for column in zip(*chart.series.values(), strict=True)]
        figure.add_scatter(
            x=x,
            y=total,
            mode="markers",
            name="total, with bounds",
            marker={"color": INK, "size": 5},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [u - t for u, t in zip(chart.total_upper, total, strict=True)],
                "arrayminus": [t - a for a, t in zip(chart.total_lower, total, strict=True)],
                "color": INK,
                "thickness": 1,
                "width": 2,
            },
        )
        figure.update_layout(barmode="stack")
    elif isinstance(chart, Line):
        figure.add_scatter(x=x, y=list(chart.values), mode="lines+markers", line={"color": PALETTE[1], "width": 2})
    elif isinstance(chart, Groups):
        for name, (fill, edge) in chart.styles().items():
            marker = {"color": fill, "line": {"color": edge, "width": 1.5}}
            figure.add_bar(x=x, y=list(chart.series[name]), name=name, marker=marker, error_y=_bars(chart.errors(name)))
        figure.update_layout(barmode="group")
    else:
        figure.add_bar(x=x, y=list(chart.values), marker_color=PALETTE[0], error_y=_bars(chart.errors()))
    return figure.to_html(
        full_html=False,
        include_plotlyjs=script,
        div_id=div_id,
        config={"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["select2d", "lasso2d"]},
    )


def _bars(errors: tuple[list[float], list[float]] | None) -> dict[str, Any] | None:
    if errors is None:
        return None
    return {"type": "data", "symmetric": False, "array": errors[1], "arrayminus": errors[0], "color": INK}


def png(chart: Chart, path: Path) -> None:
    """The chart as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    x = range(len(chart.labels))
    if isinstance(chart, Stack):
        base = [0.0] * len(chart.labels)
        for (name, values), colour in zip(chart.series.items(), PALETTE, strict=False):
            axes.bar(x, values, bottom=base, label=name, color=colour, width=0.8)
            base = [b + v for b, v in zip(base, values, strict=True)]
        down = [b - a for a, b in zip(chart.total_lower, base, strict=True)]
        up = [u - b for u, b in zip(chart.total_upper, base, strict=True)]
        axes.errorbar(x, base, yerr=(down, up), fmt=".", color=INK, linewidth=0.8, label="total, with bounds")
        axes.legend(fontsize=8, ncols=4, frameon=False)
    elif isinstance(chart, Line):
        axes.plot(x, chart.values, color=PALETTE[1], marker="o", markersize=3)
    elif isinstance(chart, Groups):
        width = 0.8 / len(chart.series)
        for k, (name, (fill, edge)) in enumerate(chart.styles().items()):
            at = [i - 0.4 + (k + 0.5) * width for i in x]
            bars = axes.bar(at, chart.series[name], width, yerr=chart.errors(name), ecolor=INK, capsize=3, label=name)
            for bar in bars:
                bar.set(facecolor=fill, edgecolor=edge)
        axes.axhline(0, color="#9aa5b1", linewidth=0.8)
        axes.legend(fontsize=8, ncols=len(chart.series), frameon=False)
    else:
        axes.bar(x, chart.values, yerr=chart.errors(), color=PALETTE[0], ecolor=INK, width=0.7)
    step = max(1, len(chart.labels) // 12)
    crowded = len(chart.labels) > 6 and max(len(label) for label in chart.labels) > 6
    axes.set_xticks(list(x)[::step], list(chart.labels)[::step], rotation=30 if crowded else 0, fontsize=8)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if isinstance(chart, Groups) else 0)  # a loss goes below
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.set_ylabel(chart.unit)
    axes.set_xlabel(chart.x_title)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})

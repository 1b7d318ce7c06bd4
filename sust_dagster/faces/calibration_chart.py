"""The calibration scorecard as a picture.

Belongs here: how it is drawn. The palette is the report's, shapes tell series apart where colours do not, wrong
methods (negative controls) have a panel of their own. Shares of coverage are drawn near 0.90: the axis says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sust_dagster.faces.charts import INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, PINK, _, RED = PALETTE[:6]
_GRID, _BAND = "#e4e7eb", "#d9e2ec"


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Draw the document of ``calibration.json`` into a PNG file."""
    from matplotlib.figure import Figure

    fleets = list(reversed(document["fleets"]))
    figure = Figure(figsize=(12.5, 9), dpi=110, layout="constrained")
    figure.suptitle(
        f"Does a stated 90 % hold the truth in 90 % of hidden worlds?  {document['worlds']:,} worlds per fleet, "
        f"seed {document['seed']}: {_verdict(document)}",
        x=0.01, ha="left", fontsize=12, color=INK,
    )  # fmt: skip
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.75, 1))[:, 0]
    coverage, credit, controls = above.subplots(1, 3, sharey=True, width_ratios=(1.25, 0.8, 1.1))
    names = [_name(line) for line in fleets]
    _coverage(coverage, fleets, document["band"])
    _credit(credit, fleets, document["overclaim_limit"])
    _controls(controls, fleets)
    coverage.set_yticks(range(len(names)), names, fontsize=9)
    for label, line in zip(coverage.get_yticklabels(), fleets, strict=True):
        label.set_color(INK if line["passed"] else RED)
    coverage.set_ylabel("fleet, systematic share of the grid's error", fontsize=9)
    coverage.set_ylim(-0.6, len(names) - 0.4)
    plans = [p for p in document.get("project", {}).get("plan_intervals", ()) if p["inside_share"] is not None]
    panels = below.subplots(1, 3 if plans else 2, squeeze=False)[0]
    _selection(panels[0], document["winners_curse"])
    _null(panels[1], document["null_fleets"])
    if plans:
        _plans(panels[2], list(reversed(plans)))
    for axes in (coverage, credit, controls, *panels):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    figure.savefig(path, format="png", metadata={"Software": None})


def _verdict(document: Mapping[str, Any]) -> str:
    lines = [line for part in ("fleets", "null_fleets", "winners_curse") for line in document[part]]
    lines += document.get("project", {}).get("plan_intervals", ())
    failed = sum(line["passed"] is False for line in lines)
    return f"{failed} of {len(lines)} lines FAILED" if failed else "every line passed"


def _name(line: Mapping[str, Any]) -> str:
    share = line["systematic_share"]
    name = line["fleet"] if share is None else f"{line['fleet']}, {share:.1f}"
    return name if line["passed"] else f"FAILED  {name}"


def _titled(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)


def _coverage(axes: Axes, fleets: Sequence[Mapping[str, Any]], band: Sequence[float]) -> None:
    y = range(len(fleets))
    axes.axvspan(*band, color=_BAND, zorder=0, label=f"band of a true 90 %: {band[0]:.3f} to {band[1]:.3f}")
    axes.axvline(0.9, color=INK, linewidth=0.8)
    jobs, totals = ([line[k] for line in fleets] for k in ("coverage_jobs", "coverage_portfolio"))
    axes.scatter(jobs, [i + 0.14 for i in y], marker="o", s=34, color=BLUE, label="per job", zorder=3)
    axes.scatter(totals, [i - 0.14 for i in y], marker="D", s=30, color=ORANGE, label="per portfolio", zorder=3)
    reach = max(abs(v - 0.9) for v in (*jobs, *totals, *band)) * 1.25
    axes.set_xlim(0.9 - reach, min(0.9 + reach, 1.005))
    _titled(axes, "Coverage of the stated 90 % interval", "share of worlds (axis does not start at 0)")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, columnspacing=1)


def _credit(axes: Axes, fleets: Sequence[Mapping[str, Any]], limit: float) -> None:
    shares = [line["overclaim_share"] for line in fleets]
    axes.axvspan(0, limit, color=_BAND, zorder=0, label=f"a true 5 %: up to {limit:.3f}")
    axes.axvline(0.05, color=INK, linewidth=0.8)
    axes.scatter(shares, range(len(fleets)), marker="o", s=34, color=GREEN, zorder=3)
    axes.set_xlim(0, max(limit, *shares) * 1.15)
    _titled(axes, "Credit above the truth", "share of worlds")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _controls(axes: Axes, fleets: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(fleets))
    axes.axvline(0.9, color=INK, linewidth=0.8)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle=":")
    quadrature, point, box = (
        [line[key] for line in fleets] for key in ("quadrature_share", "point_overclaim_share", "box_portfolio_share")
    )
    axes.scatter(quadrature, y, marker="X", s=36, color=RED, label="coverage, jobs taken as independent", zorder=3)
    axes.scatter(point, y, marker="^", s=36, color=PINK, label="point above the truth", zorder=3)
    axes.scatter(
        box, y, marker="s", s=90, facecolors="none", edgecolors=INK, linewidths=1.2, zorder=3,
        label="coverage of the guaranteed box",
    )  # fmt: skip
    axes.set_xlim(0, 1.03)
    _titled(axes, "Negative controls: what wrong methods give", "share of worlds")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=1)


def _selection(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(lines))
    for i, line in enumerate(lines):
        label = "band of a true 90 %" if i == 0 else None
        axes.fill_betweenx([i - 0.35, i + 0.35], line["band_lower"], line["band_upper"], color=_BAND, label=label)
    axes.axvline(0.9, color=INK, linewidth=0.8)
    executed, every = ([line[k] for line in lines] for k in ("executed_share", "all_forecasts_share"))
    axes.scatter(executed, y, marker="o", s=34, color=BLUE, label="calibrated on executed", zorder=3)
    axes.scatter(every, y, marker="X", s=36, color=RED, label="on all forecasts (control)", zorder=3)
    axes.set_yticks(y, [f"{100 * line['forecast_error']:.0f} %" for line in lines])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_ylabel("forecast error", fontsize=9)
    axes.set_xlim(min(0.6, *every) - 0.03, 1)
    _titled(axes, "Winner's curse: best of 24 forecasts", "share of outcomes inside (axis does not start at 0)")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)


def _null(axes: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    y = range(len(lines))
    axes.axvline(0, color=INK, linewidth=0.8)
    credit, error = ([line[k] for line in lines] for k in ("credited_percent", "credited_se_percent"))
    axes.errorbar(
        credit, y, xerr=[3 * e for e in error], fmt="o", markersize=6, color=GREEN, capsize=3, label="credit, ± 3 se"
    )
    founding = [line["founding_percent"] for line in lines]
    axes.scatter(founding, y, marker="X", s=36, color=RED, label="half of each gain (control)", zorder=3)
    axes.set_yticks(y, [line["fleet"].replace(" that ", "\nthat ") for line in lines])
    axes.set_ylim(-0.6, len(lines) - 0.4)
    _titled(axes, "What fleets that save nothing earn", "% of the counterfactual")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)


def _plans(axes: Axes, plans: Sequence[Mapping[str, Any]]) -> None:
    axes.axvline(0.9, color=INK, linewidth=0.8)
    for passed, marker, colour, label in (
        (True, "o", BLUE, "0.90 inside"),
        (False, "X", RED, "0.90 outside"),
        (None, "s", PALETTE[7], "no verdict"),
    ):
        here = [(i, p) for i, p in enumerate(plans) if p["passed"] is passed]
        if here:
            share, low, high = (
                np.array([p[k] for _, p in here]) for k in ("inside_share", "share_lower", "share_upper")
            )
            axes.errorbar(
                share, [i for i, _ in here], xerr=[share - low, high - share], fmt=marker, markersize=7, color=colour,
                capsize=3, label=label,
            )  # fmt: skip
    names = [f"{p['action_type'].replace('_', ' ')}\n{p['settled']:,} settled" for p in plans]
    axes.set_yticks(range(len(plans)), names)
    axes.set_ylim(-0.6, len(plans) - 0.4)
    axes.set_xlim(0, 1.03)
    _titled(axes, "This project's plan intervals", "share of outcomes inside, 99.9 % interval")
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1)

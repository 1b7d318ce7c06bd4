"""A plot of lines over time as an SVG picture inside Markdown, which Dagster's pages show as it is.

Belongs here: the drawing, and nothing of what is drawn. Does not belong here: the report's charts (``faces.charts``).
Those are matplotlib's, which needs a hundred times as long for a picture five times as large; these are made at every
run.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

_WIDTH, _HEIGHT = 560, 192
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 552, 26, 168
#: Okabe and Ito's palette, which the colour-blind tell apart; as many series as it has colours are drawn.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MICROS = 3_600_000_000
#: Hours between marks of the time axis, and how many marks there are at most.
_STEPS_HOURS, _MARKS = (1, 2, 3, 6, 12, 24), 8

Series = Mapping[str, tuple[Any, Any]]
Floats = np.ndarray[Any, np.dtype[np.float64]]


def line_plot(series: Series, ylabel: str, bands: Series | None = None) -> str:
    """Markdown with the plot inlined: of each series its times (datetime64, UTC) and values, joined by a line.

    ``bands``: by series, what is drawn around its line: lower and upper values at the same times. Values count from
    zero up; a NaN is a gap. Series beyond the sixth are left out.
    """
    drawn = {n: (_micros(t), _floats(v)) for (n, (t, v)), _ in zip(series.items(), _COLOURS, strict=False)}
    around = {n: tuple(map(_floats, b)) for n, b in (bands or {}).items() if n in drawn}
    times = np.concatenate([t for t, _ in drawn.values()] or [np.zeros(1, np.int64)])
    first, last = (int(times.min()), int(times.max())) if times.size else (0, 0)
    highest = max((_most(v) for v in (*(v for _, v in drawn.values()), *(b[1] for b in around.values()))), default=0.0)
    step = _round_step(highest / 4 if highest > 0 else 0.25)
    top = step * max(1, math.ceil(highest / step))

    def across(at: np.ndarray) -> Floats:
        return _LEFT + (at - first) / max(last - first, 1) * (_RIGHT - _LEFT)

    def up(value: Floats) -> Floats:
        return _BOTTOM - value / top * (_BOTTOM - _TOP)

    parts = [*_value_axis(ylabel, step, top), *_time_axis(first, last)]
    for place, ((name, (at, values)), colour) in enumerate(zip(drawn.items(), _COLOURS, strict=False)):
        x = across(at)
        if name in around:
            low, high = around[name]
            for ahead, back in zip(_runs(x, up(low)), _runs(x, up(high)), strict=False):
                corners = f"{ahead} {' '.join(reversed(back.split()))}"
                parts.append(f'<polygon points="{corners}" fill="{colour}" fill-opacity="0.2"/>')
        for points in _runs(x, up(values)):
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
        begin = _LEFT + place * (_RIGHT - _LEFT) / len(_COLOURS)
        parts.append(f'<path d="M{begin:.0f},12h10" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{begin + 13:.0f}" y="15">{escape(name)}</text>')
    picture = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="10" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )
    return f"![plot](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def _micros(times: Any) -> np.ndarray:
    return np.asarray(times, "datetime64[us]").astype(np.int64)


def _floats(values: Any) -> Floats:
    return np.asarray(values, np.float64)


def _most(values: Floats) -> float:
    return float(np.fmax.reduce(values, initial=0.0))


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is no less than ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1.0, 2.0, 2.5, 5.0, 10.0) if f * power >= least * (1 - 1e-9))


def _value_axis(label: str, step: float, top: float) -> list[str]:
    parts = []
    for k in range(round(top / step) + 1):
        y = _BOTTOM - k * step / top * (_BOTTOM - _TOP)
        parts.append(f'<path d="M{_LEFT},{y:.1f}H{_RIGHT}" stroke="{"#888" if k == 0 else "#e4e4e4"}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{k * step:g}</text>')
    middle = (_TOP + _BOTTOM) / 2
    turned = f'x="11" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 11 {middle:.0f})"'
    return [*parts, f"<text {turned}>{escape(label)}</text>"]


def _time_axis(first: int, last: int) -> list[str]:
    """Marks at whole hours or days (UTC); a day is named at its midnight."""
    hours = (last - first) / _MICROS
    days = 24 * math.ceil(hours / _MARKS / 24)
    step = next((s for s in _STEPS_HOURS if hours / s <= _MARKS), days)
    parts = []
    for mark in range(-(-first // (step * _MICROS)), last // (step * _MICROS) + 1):
        at = mark * step * _MICROS
        x = _LEFT + (at - first) / max(last - first, 1) * (_RIGHT - _LEFT)
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
        text = f"{moment:%d %b}" if moment.hour == 0 else f"{moment:%H:%M}"
        parts.append(f'<path d="M{x:.1f},{_BOTTOM}v4" stroke="#888"/>')
        parts.append(f'<text x="{x:.1f}" y="{_BOTTOM + 15}" text-anchor="middle">{text}</text>')
    return parts


def _runs(x: Floats, y: Floats) -> list[str]:
    """The points of a line between its gaps; of more than a screen can show, the extremes of each of its columns."""
    if x.size > 2 * _WIDTH:
        begins = np.flatnonzero(np.diff(np.floor(x), prepend=-1.0))
        extremes = np.stack([np.fmin.reduceat(y, begins), np.fmax.reduceat(y, begins)], axis=1)
        x, y = np.repeat(x[begins], 2), extremes.reshape(-1)
    whole = np.concatenate([[False], ~np.isnan(y), [False]])
    edges = np.flatnonzero(np.diff(whole.astype(np.int8)))
    return [
        " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[begin:end].tolist(), y[begin:end].tolist(), strict=True))
        for begin, end in list(pairwise(edges.tolist()))[::2]
    ]

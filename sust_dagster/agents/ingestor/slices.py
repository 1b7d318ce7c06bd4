"""Charge periods cut at clock hours.

Belongs here: the load shapes and the arithmetic of spreading a row over the hours it covers, so that shares of a
row add up to one. Does not belong here: what is spread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HOUR_US = 3_600_000_000

#: Load shapes: 24 weights by UTC hour of day. A shape says how a long period is spread, nothing about its sum.
SHAPES: dict[str, tuple[float, ...]] = {
    "flat": (1.0,) * 24,
    "office-hours": (1.0,) * 7 + (2.0, 4.0) + (6.0,) * 8 + (4.0, 2.0) + (1.0,) * 5,
}


class ShapeError(ValueError):
    """A load shape that is no shape."""


def shape_weights(shape: str | Sequence[float]) -> np.ndarray:
    """24 weights of a named or given load shape.

    Raises :class:`ShapeError` for an unknown name, another number of weights, or weights that are not positive.
    """
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise ShapeError(f"load shape {shape!r} is unknown; known: {sorted(SHAPES)}, or give 24 weights")
        shape = SHAPES[shape]
    weights = np.asarray(shape, np.float64)
    if weights.shape != (24,) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise ShapeError("a load shape has 24 positive weights, one per UTC hour of day")
    return weights


@dataclass(frozen=True)
class Slices:
    """Slices of rows: ``row`` (int64 index), ``start`` and ``end`` (int64 µs), ``share`` of the row (float64)."""

    row: np.ndarray
    start: np.ndarray
    end: np.ndarray
    share: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, keep: np.ndarray) -> Slices:
        """The slices where ``keep`` (bool)."""
        return Slices(self.row[keep], self.start[keep], self.end[keep], self.share[keep])


def slice_counts(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Number of clock hours each half-open period ``[start, end)`` (µs) touches."""
    return -(-end // HOUR_US) - start // HOUR_US


def cut(start: np.ndarray, end: np.ndarray, weights: np.ndarray) -> Slices:
    """Cut periods (int64 µs, start < end) at clock hours; shares follow ``weights`` and the time in each hour.

    A period inside one clock hour stays whole, with its own start and end.
    """
    counts = slice_counts(start, end)
    rows = len(start)
    if rows == 0 or counts.max() == 1:
        return Slices(np.arange(rows), start, end, np.ones(rows))
    row = np.repeat(np.arange(rows), counts)
    step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    hour = (start // HOUR_US)[row] + step
    first = np.maximum(hour * HOUR_US, start[row])
    last = np.minimum((hour + 1) * HOUR_US, end[row])
    load = (last - first) * weights[hour % 24]
    total = np.bincount(row, weights=load, minlength=rows)
    return Slices(row, first, last, load / total[row])

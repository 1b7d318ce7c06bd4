"""What the parts of the page are made of: tables, cells with more behind them, figures as people read them.

Belongs here: the form of a table and of a figure with its interval. Does not belong here: which figures there are, or
how they are drawn (``charts``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sust_dagster.faces.charts import Chart
from sust_dagster.faces.console import number


@dataclass(frozen=True)
class Cell:
    """A cell that holds more than its text."""

    text: str
    title: str = ""
    """What it says in full, shown when it is pointed at."""
    small: str = ""
    """A second line."""
    code: bool = False

    @property
    def inline(self) -> str:
        """Both lines as one, for a sentence."""
        return f"{self.text} {self.small}".strip()


@dataclass(frozen=True)
class Table:
    """A table of the page; the first ``left`` columns hold words, the others figures."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    total: Sequence[str | Cell] = ()
    left: int = 1
    folded: str = ""
    """What it is folded away under; empty: it is shown."""


@dataclass(frozen=True)
class Tile:
    """One figure of the page's head."""

    figure: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Part:
    """What stands under one heading: sentences, a chart where there is something to draw, tables."""

    anchor: str
    title: str
    lines: Sequence[str]
    tables: Sequence[Table] = ()
    chart: Chart | None = None
    notes: Sequence[str] = ()
    """How to read it, below the tables."""


def figure(value: float | None, unit: str = "") -> str:
    """A figure of three digits or more, with a true minus sign."""
    if value is None:
        return number(None)
    return f"{_written(value, _decimals(abs(value)))} {unit}".strip()


def estimate(point: float, lower: float, upper: float, unit: str = "kg") -> Cell:
    """A figure with its interval below it, written to the same place; all digits of the three behind it."""
    places = _decimals(max(abs(point), (upper - lower) / 2))
    low, high = _written(lower, places), _written(upper, places)
    full = f"{point!r} {unit}, from {lower!r} to {upper!r}"
    return Cell(_written(point, places), full, f"[{low} to {high}]")


def exact(value: float | None, unit: str = "kg") -> Cell:
    """A figure that is no estimate, all its digits behind it."""
    return Cell(figure(value), "" if value is None else f"{value!r} {unit}")


def money(value: float | None, unknown: str = "unknown") -> Cell:
    """A change of cost in USD: its sign always shown, cents and what it takes to see it at all."""
    if value is None:
        return Cell(unknown)
    plus = "+" if value > 0 else ""
    return Cell(plus + _written(value, 2), f"{value!r} USD")


def _decimals(size: float) -> int:
    """Decimal places that show three digits of a figure of this size."""
    return max(0, 2 - math.floor(math.log10(size))) if size > 0 and math.isfinite(size) else 0


def _written(value: float, places: int) -> str:
    """To so many places; to more where a figure that is not zero would be written as zero."""
    if value and math.isfinite(value) and abs(value) < 0.5 * 10.0**-places:
        places = -math.floor(math.log10(abs(value)))
    return f"{value + 0.0:,.{places}f}".replace("-", "−")


def counted(n: int, one: str, many: str = "") -> str:
    """``1 outcome``, ``1,204 outcomes``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"

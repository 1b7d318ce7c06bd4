"""The error a forecast raises when its input cannot be read at all.

Belongs here: refusals that name column, row and remedy. What is merely missing for one region is no error: it has
its outcome in the forecast's rows or among the regions without one.
"""

from __future__ import annotations


class ForecastError(ValueError):
    """A history or an issue time that cannot be used: column, row and remedy."""

    def __init__(self, message: str, *, column: str = "", row: int | None = None, fix: str = "") -> None:
        where = ", ".join(
            p for p in (f"row {row}" if row is not None else "", f"column {column}" if column else "") if p
        )
        super().__init__(": ".join(p for p in (where, message) if p) + (f". {fix}" if fix else ""))
        self.message, self.column, self.row, self.fix = message, column, row, fix

"""What a grid source is: the one protocol behind static tables, files, services and the simulated grid.

Belongs here: the protocol and the error sources raise. Does not belong here: hourly resampling, gaps and
boxes (``agents.accountant.grid`` does that to every source alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

import pyarrow as pa

from sust_dagster.agents.accountant.grid import SOURCE_SCHEMA

__all__ = ["SOURCE_SCHEMA", "GridError", "GridSource"]


class GridError(ValueError):
    """A grid source that cannot be used: the file, row and column, and the remedy."""

    def __init__(
        self, message: str, *, file: str | None = None, row: int | None = None, column: str | None = None, fix: str = ""
    ) -> None:
        where = [f"row {row}" if row is not None else "", f"column {column}" if column else ""]
        parts = [p for p in (file, ", ".join(w for w in where if w), message) if p]
        super().__init__(": ".join(parts) + (f". {fix}" if fix else ""))
        self.message, self.file, self.row, self.column, self.fix = message, file, row, column, fix


@runtime_checkable
class GridSource(Protocol):
    """Somewhere grid intensity comes from."""

    def read(self, start: datetime, end: datetime, regions: Sequence[str]) -> pa.Table:
        """Rows of ``SOURCE_SCHEMA`` (g/kWh) with ``start <= ts < end`` for the regions the source holds.

        A region or hour the source does not hold has no row; nothing is filled in. Raises :class:`GridError`.
        """
        ...

"""The port of billing sources: what the ingestor reads from, whatever is behind it.

Belongs here: the protocol and the batch type it speaks. The batch is the ingestor's own declaration, shown here
under the connector's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol, runtime_checkable

from sust_dagster.agents.ingestor.normal_form import BillBatch, Rejects

__all__ = ["BillBatch", "BillingSource", "Rejects"]


@runtime_checkable
class BillingSource(Protocol):
    """A source of billed rows in the normal form."""

    def read(self, start: datetime | None = None, end: datetime | None = None) -> Iterator[BillBatch]:
        """Batches of rows whose charge period overlaps ``[start, end)``; all rows where both are ``None``.

        Each row, readable or rejected, is handed over once. Rejected rows that claim no time come with every
        range: the caller knows which hour they are booked in. Raises ``BillingError`` for a bill that cannot be
        read as a whole.
        """
        ...

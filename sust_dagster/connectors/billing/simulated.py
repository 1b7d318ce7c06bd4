"""The fake cloud's bill, read as any other bill.

Belongs here: the billing face of the simulator. It hands over FOCUS rows and knows nothing of what the hidden truth
behind them is.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa

from sust_dagster.simulator.cloud import FakeCloud


class SimulatedBilling:
    """Billing source over a fake cloud."""

    source = "billing_api"

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud

    def read(self, start: datetime, end: datetime) -> pa.Table:
        """FOCUS 1.2 rows whose charge period starts in ``[start, end)`` (whole UTC hours), sorted by
        (ChargePeriodStart, ResourceId); schema ``simulator.focus_schema.FOCUS_SCHEMA``.
        """
        return self._cloud.focus_rows(start, end)

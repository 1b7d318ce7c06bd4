"""The fake cloud's grid signal, read as any other provider's.

Belongs here: the grid face of the simulator: the observed signal by region, with zone and quality as a provider
states them. The hidden truth is not reachable from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.grid.protocol import SOURCE_SCHEMA, GridError
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.regions import REGION_IDS, REGIONS
from sust_dagster.simulator.replay import TraceError


class SimulatedGrid:
    """Grid source over a fake cloud (``connectors.grid.GridSource``)."""

    source = "simulated"

    def __init__(self, cloud: FakeCloud) -> None:
        self._cloud = cloud

    def read(self, start: datetime, end: datetime, regions: Sequence[str] | None = None) -> pa.Table:
        """Hourly observed signal of ``[start, end)`` (whole UTC hours): ``SOURCE_SCHEMA``, g/kWh, 95 % bounds.

        ``regions`` defaults to all; one the cloud does not have gets no row. Rows are sorted by hour, then in the
        cloud's order of regions. Raises :class:`GridError` where a replayed trace lacks an hour.
        """
        try:
            table = self._cloud.grid_signal(start, end)
        except TraceError as error:
            raise GridError(str(error), fix="give a trace without gaps, or other dates") from error
        if regions is not None:
            table = table.filter(pc.is_in(table["region"], value_set=pa.array(list(regions), pa.string())))
        table = table.combine_chunks()
        n = table.num_rows
        position = pc.index_in(table["region"], value_set=pa.array(REGION_IDS, pa.string()))
        zones = pa.chunked_array([pa.array([r.grid_zone for r in REGIONS], pa.string())])
        flagged = table["estimated"].to_numpy()
        made = {
            "zone": zones.take(position),
            "signal": pa.repeat(pa.scalar("average"), n),
            "method": pa.repeat(pa.scalar("lifecycle"), n),
            "quality": pa.array(np.where(flagged, "estimated", "ok"), pa.string()),
            "source": pa.repeat(pa.scalar(self.source), n),
            "source_version": pa.repeat(pa.scalar(self._cloud.grid.version), n),
        }
        columns = {name: made[name] if name in made else table[name] for name in SOURCE_SCHEMA.names}
        return pa.table(columns, schema=SOURCE_SCHEMA)

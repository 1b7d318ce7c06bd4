"""Annual mean intensities from the reference table, repeated for every hour: any bill, no file, no forecast.

Belongs here: the static source. The hour box is the spread of the zone's hours around their year (0.5 % to
99.5 %), so the bounds say how little an annual mean knows about an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.connectors.grid.protocol import SOURCE_SCHEMA, GridError
from sust_dagster.reference import regions as reference_regions

HOUR_US = 3_600_000_000


class StaticGrid:
    """Annual means by region; every row has the quality ``annual_mean``."""

    #: Nothing to say about the reference table: it is part of the product.
    notices: tuple[str, ...] = ()
    files: Mapping[str, str] = MappingProxyType({})

    @property
    def methods(self) -> list[str]:
        """Methods of the figures."""
        return sorted(set(reference_regions()["method"].to_pylist()))

    @property
    def coverage(self) -> str:
        """What the table covers, for people."""
        return f"annual means of {reference_regions().num_rows} regions, for any hour"

    def holds(self, region: str) -> bool:
        """Whether the table has a figure for a region."""
        return region in set(reference_regions()["region"].to_pylist())

    def hint(self) -> str:
        """Nothing: the table's names are the providers' own."""
        return ""

    def read(self, start: datetime, end: datetime, regions: Sequence[str]) -> pa.Table:
        """Hourly rows of ``SOURCE_SCHEMA`` for ``[start, end)``; regions without a figure have none."""
        if start.tzinfo is None or end.tzinfo is None:
            raise GridError("times need a time zone", fix="give UTC times")
        first, last = int(start.timestamp() // 3600), -int(-end.timestamp() // 3600)
        table = reference_regions()
        held = table.filter(pc.is_in(table["region"], pa.array(sorted(set(regions)), pa.string())))
        hours, places = max(last - first, 0), held.num_rows
        n = hours * places
        if n == 0:
            return SOURCE_SCHEMA.empty_table()
        pick = pa.array(np.repeat(np.arange(places), hours))
        value, lower, upper = (
            pc.cast(held[c], pa.float64()).to_numpy()
            for c in ("annual_intensity_g_per_kwh", "annual_lower_g_per_kwh", "annual_upper_g_per_kwh")
        )
        spread = {c: pc.cast(held[c], pa.float64()) for c in ("hour_rel_lower", "hour_rel_upper")}
        versions = pc.binary_join_element_wise(pc.cast(held["source_year"], pa.string()), held["source"], " ")
        per_place: dict[str, pa.Array | pa.ChunkedArray] = {
            "region": held["region"],
            "zone": pc.if_else(pc.equal(held["grid_zone"], ""), pa.scalar(None, pa.string()), held["grid_zone"]),
            "intensity_g_per_kwh": pa.array(value),
            "lower": pa.nulls(places, pa.float64()),
            "upper": pa.nulls(places, pa.float64()),
            "signal": held["signal"],
            "method": held["method"],
            "estimated": pa.array(np.ones(places, dtype=bool)),
            "quality": pa.array(["annual_mean"] * places),
            "source": pa.array(["static"] * places),
            "source_version": versions,
            "system_rel_lower": pa.array(lower / value),
            "system_rel_upper": pa.array(upper / value),
            **spread,
        }
        columns = {name: pc.take(column, pick) for name, column in per_place.items()}
        ts = np.tile(np.arange(first, last), places) * HOUR_US
        columns["ts"] = pa.array(ts).cast(SOURCE_SCHEMA.field("ts").type)
        return pa.table({name: columns[name] for name in SOURCE_SCHEMA.names}).cast(SOURCE_SCHEMA)

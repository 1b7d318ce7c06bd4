"""Hours of grid intensity that nobody reports for longer than a few hours: the last known good ones stand in.

Belongs here: which known hour stands in for a missing one, and how much wider its box is. Does not belong here: gaps of
up to three hours (``grid.normalise``), deciding that a source is down (the asset), forecasts (the planner's).

An hour takes the newest known value of its own hour of the day, up to 14 days back; its hour box is widened by the 99 %
range that such a value has, and its quality says ``last_known_good``. A value that itself stood in for another is never
carried on. An hour without such a value stays missing. The true hours replace these when they arrive: a restatement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.accountant.columns import encode
from sust_dagster.agents.accountant.lookups import HOUR_US
from sust_dagster.agents.accountant.quality import merge
from sust_dagster.world.schemas import GRID_INTENSITY, TIMESTAMP

#: Flag of an hour that a last known good one stands in for.
FLAG = "last_known_good"
#: Flags of values that are not the region's own hour.
STAND_IN_FLAGS = ("gap_last_known", "grid_fallback", FLAG)

#: 99 % range of g(t + 24 k)/g(t), k = 1 to 14 days, over 88 zones of 2022 (Electricity Maps lifecycle).
BOXES = (
    (0.39, 2.53), (0.33, 3.00), (0.31, 3.14), (0.30, 3.24), (0.30, 3.33), (0.30, 3.33), (0.29, 3.33), (0.28, 3.49),
    (0.27, 3.56), (0.26, 3.60), (0.26, 3.62), (0.25, 3.66), (0.25, 3.71), (0.25, 3.71),
)  # fmt: skip
#: How far back a value may come from.
REACH = timedelta(days=len(BOXES))


def stand_in(known: pa.Table, start: datetime, end: datetime, regions: Sequence[str]) -> pa.Table:
    """``GRID_INTENSITY`` rows for the hours of ``[start, end)`` that ``known`` lacks, by ts and region.

    ``known``: ``GRID_INTENSITY`` of ``[start - REACH, end)``, in any order. Each series (region, signal, method) it
    holds is completed; a region it does not hold gets nothing. Hours it holds are never replaced.
    """
    own = known.filter(pc.is_in(known["region"], pa.array(sorted(set(regions)), pa.string())))
    if not own.num_rows:
        return GRID_INTENSITY.empty()
    first = int((start - REACH).timestamp()) // 3600
    since, span = int(start.timestamp()) // 3600 - first, int(end.timestamp()) // 3600 - first
    series = encode(pc.binary_join_element_wise(own["region"], own["signal"], own["method"], "\x1f"))
    hour = own["ts"].cast(pa.int64()).to_numpy() // HOUR_US - first
    inside = np.flatnonzero((hour >= 0) & (hour < span))
    row = np.full((len(series.values), span), -1, np.int64)
    row[series.codes[inside], hour[inside]] = inside
    held = row >= 0
    quality = encode(own["quality"])
    stood_in = np.array([bool(set(q.split(";")) & set(STAND_IN_FLAGS)) for q in quality.values])
    good = np.where(held & ~stood_in[quality.codes[row]], row, -1)
    source, age = np.full_like(row, -1), np.zeros_like(row)
    for days in range(1, len(BOXES) + 1):
        back = np.full_like(row, -1)
        back[:, 24 * days :] = good[:, : span - 24 * days]
        found = (source < 0) & (back >= 0)
        source[found], age[found] = back[found], days
    wanted = ~held & (source >= 0)
    wanted[:, :since] = False
    at = np.nonzero(wanted)
    return _rows(own.take(pa.array(source[at])), at[1] + first, age[at])


def _rows(rows: pa.Table, hour: np.ndarray, age_days: np.ndarray) -> pa.Table:
    """The rows at their new hours, with wider boxes."""
    box = np.array([(1.0, 1.0), *BOXES])[age_days]
    kg = rows["intensity_kgco2_kwh"].to_numpy()
    low, high = rows["hour_rel_lower"].to_numpy() * box[:, 0], rows["hour_rel_upper"].to_numpy() * box[:, 1]
    quality = pc.dictionary_encode(rows["quality"].combine_chunks())
    words = pa.array([merge(w, FLAG) for w in quality.dictionary.to_pylist()], pa.string())
    changed = {
        "ts": pa.array(hour * HOUR_US).cast(TIMESTAMP),
        "intensity_lower": kg * rows["system_rel_lower"].to_numpy() * low,
        "intensity_upper": kg * rows["system_rel_upper"].to_numpy() * high,
        "estimated": np.ones(rows.num_rows, bool),
        "quality": words.take(quality.indices),
        "hour_rel_lower": low,
        "hour_rel_upper": high,
    }
    table = pa.table({name: changed.get(name, rows[name]) for name in rows.column_names})
    return GRID_INTENSITY.conform(table).sort_by([(c, "ascending") for c in ("ts", "region", "signal", "method")])

"""Quarantine: the named reasons, and rows of the quarantine table.

Belongs here: every reason with what would make the row acceptable, for readers and rules alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import instants, microseconds
from sust_dagster.agents.ingestor.normal_form import SOURCE, Rejects
from sust_dagster.agents.ingestor.slices import HOUR_US
from sust_dagster.world.schemas import QUARANTINE

#: Reason -> what would make the row acceptable.
REASONS: Mapping[str, str] = {
    "wrong_number_of_fields": "quote values that hold the delimiter or a line break, so that every row has all fields",
    "not_utf8": "export the file as UTF-8",
    "bad_number": "write a plain decimal number with a point, without units, groups or currency signs",
    "bad_time": "write ISO 8601 with a zone, e.g. 2026-10-01T00:00:00Z",
    "missing_period": "give start and end of the charge period",
    "end_before_start": "the charge period must end after it starts",
    "empty_period": "the charge period must end after it starts",
    "period_too_long": "split the charge: a usage period of more than 366 days cannot be spread over hours",
    "time_out_of_range": "charge periods lie between 2000 and 2100",
    "missing_quantity": "export the quantity that was used; usage is never guessed from cost",
    "not_finite": "write a finite number",
    "out_of_range": "the amount is beyond anything a bill holds; check its unit",
    "unknown_charge_type": "the kind of charge is not one we know, so it may or may not be usage: report it",
}

#: Quarantined rows that claim no hour while nothing else gives one.
NO_HOUR = 0


def quarantine_table(label: pa.Array | str, rejects: Rejects, undated: int = NO_HOUR) -> pa.Table:
    """Rejects as QUARANTINE rows. ``undated`` (µs) is the hour of rows that claim none."""
    rows = len(rejects)
    if not rows:
        return QUARANTINE.empty()
    labels = pa.array([label]).take(pa.array(np.zeros(rows, np.int32))) if isinstance(label, str) else label
    start, missing = microseconds(rejects.hour)
    hour = np.where(missing, undated, start) // HOUR_US * HOUR_US
    encoded = pc.dictionary_encode(rejects.reason)
    fixes = pa.array([REASONS.get(r, "see the reason") for r in encoded.dictionary.to_pylist()], pa.string())
    return QUARANTINE.conform(
        {
            "source": pa.array([SOURCE]).take(pa.array(np.zeros(rows, np.int32))),
            "raw_record_ref": row_refs(labels.cast(pa.string()), rejects.rows),
            "reason": rejects.reason,
            "column": rejects.column,
            "value": rejects.value,
            "fix": fixes.take(encoded.indices),
            "raw_record": pc.fill_null(rejects.raw, "{}"),
            "quarantined_for": instants(hour),
        }
    )


def row_refs(labels: pa.Array, rows: pa.Array) -> pa.Array:
    """``label#row=n`` references to raw records."""
    return pc.binary_join_element_wise(labels, rows.cast(pa.string()), "#row=")

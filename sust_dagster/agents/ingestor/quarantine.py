"""Quarantine: the named reasons, and rows of the quarantine table.

Belongs here: every reason with what would make the row acceptable, for readers and rules alike.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import instants, microseconds
from sust_dagster.agents.ingestor.duplicates import EqualKeys, KeyCounts
from sust_dagster.agents.ingestor.keys import digests, md5_texts, numbered, record_refs
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


def quarantine_table(bills: pa.Array, rejects: Rejects, undated: int, refused: KeyCounts) -> pa.Table:
    """Rejects as QUARANTINE rows.

    ``bills`` the label of the bill of each; ``undated`` (µs) the hour of rows that claim none; ``refused`` how
    often each row was refused before, which grows.
    """
    if not len(rejects):
        return QUARANTINE.empty()
    start, missing = microseconds(rejects.hour)
    hour = np.where(missing, undated, start) // HOUR_US * HOUR_US
    encoded = pc.dictionary_encode(rejects.reason)
    fixes = pa.array([REASONS.get(r, "see the reason") for r in encoded.dictionary.to_pylist()], pa.string())
    raw = pc.fill_null(rejects.raw, "{}")
    return QUARANTINE.conform(
        {
            "source": pa.array([SOURCE]).take(pa.array(np.zeros(len(rejects), np.int32))),
            "raw_record_ref": _refs(bills, raw, refused),
            "reason": rejects.reason,
            "column": rejects.column,
            "value": rejects.value,
            "fix": fixes.take(encoded.indices),
            "raw_record": raw,
            "quarantined_for": instants(hour),
        }
    )


def _refs(bills: pa.Array, raw: pa.Array, refused: KeyCounts) -> pa.Array:
    """References of refused rows: the MD5 of the raw record, and a number where the same row was refused before."""
    refs = record_refs(bills, md5_texts(raw))
    hashed = digests(refs)
    return numbered(refs, EqualKeys(hashed[:, 0], hashed[:, 1]).nth(refused))

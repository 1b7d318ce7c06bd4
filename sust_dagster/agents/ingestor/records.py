"""From a reference in the ledger or the quarantine back to the raw record.

Belongs here: taking a reference apart and finding its record among the rows of a bill. A reference says what a
record is, not where it stands: ``bill#content`` with 32 digits of its content, and ``#n`` for the n-th of records
that are equal. So a row keeps its reference when other rows come, go or change places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.keys import line_keys, md5_texts
from sust_dagster.agents.ingestor.ledger import IngestOptions
from sust_dagster.agents.ingestor.normal_form import BillBatch
from sust_dagster.agents.ingestor.pipeline import ingest_in_any_order
from sust_dagster.agents.ingestor.sorting import refused_rows, sort_rows

_REFERENCE = re.compile(r"(?P<bill>.*)#(?P<content>[0-9a-f]{32})(?P<number>#\d+)?", re.DOTALL)


class RecordReferenceError(ValueError):
    """A text that is no reference to a raw record."""


@dataclass(frozen=True)
class FoundRecord:
    """Where a raw record stands, and where it went.

    ``reference`` as the bill that was searched gives it: the label before the ``#`` may differ from the one asked
    for where the bill was named otherwise. ``file`` and ``row`` (from 1, the header not counted) are of that bill,
    ``table`` is activity_ledger or quarantine.
    """

    reference: str
    table: str
    file: str
    row: int


def find_record(batches: Iterable[BillBatch], reference: str, options: IngestOptions) -> FoundRecord | None:
    """The raw record behind a reference, or None where no row of these batches is it.

    All batches are gone through once; only equal records are held. Raises :class:`RecordReferenceError` where the
    text is no reference.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        raise RecordReferenceError(
            f"{reference!r} is no reference to a raw record; give one as it stands in raw_record_ref, "
            "like bill.csv#0123456789abcdef0123456789abcdef"
        )
    alike = [a for b in batches if (a := _alike(b, parts["content"], options)) is not None]
    results, _ = ingest_in_any_order(alike, options)
    tail = reference[len(parts["bill"]) :]
    found = [
        FoundRecord(ref, table, at["file"], at["row"])
        for result in results
        for table, rows, places in (
            ("activity_ledger", result.ledger, result.ledger_at),
            ("quarantine", result.quarantine, result.quarantine_at),
        )
        for ref, at in zip(rows.column("raw_record_ref").to_pylist(), places.to_pylist(), strict=True)
        if ref.endswith(tail)
    ]
    return next((f for f in found if f.reference == reference), found[0] if found else None)


def _alike(batch: BillBatch, content: str, options: IngestOptions) -> BillBatch | None:
    """The rows of a batch whose content has these digits; None where there are none."""
    keys = line_keys(batch.normal)
    mask = (keys.high == np.uint64(int(content[:16], 16))) & (keys.low == np.uint64(int(content[16:], 16)))
    sorting, _ = sort_rows(batch.normal, options.instances)
    refused, _, _ = refused_rows(batch, sorting)
    hit = pc.equal(md5_texts(pc.fill_null(refused.raw, "{}")), content).to_numpy(zero_copy_only=False)
    unread = len(batch.rejects)
    mask[np.flatnonzero(sorting.quarantined)] |= hit[unread:]
    if not (mask.any() or hit[:unread].any()):
        return None
    keep = pa.array(mask)
    raw = batch.raw.filter(keep) if batch.raw is not None else None
    return replace(batch, normal=batch.normal.filter(keep), rejects=batch.rejects.filter(hit[:unread]), raw=raw)

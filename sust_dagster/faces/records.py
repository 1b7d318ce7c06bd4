"""`sust raw-record`: from a reference in the ledger or the quarantine to the row of the bill it came from.

Belongs here: which bill is searched, and the record as people read it. What a reference is, is the ingestor's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from sust_dagster import reference
from sust_dagster.agents.ingestor import BillBatch, IngestOptions, find_record
from sust_dagster.connectors.billing import FileBilling, TableBilling
from sust_dagster.connectors.sources import open_billing
from sust_dagster.settings import Project

_DAY = timedelta(days=1)


class RecordNotFoundError(RuntimeError):
    """No row of the bill is the record that was asked for."""


def raw_record(ref: str, billing: Sequence[str], project: Project | None) -> dict[str, Any]:
    """File, row number and all columns of a raw record, from ``billing`` or else from the project's bills.

    Raises :class:`RecordNotFoundError` where no row is it, ``ValueError`` for what is no reference and for a bill
    that cannot be read.
    """
    source = _source(billing, project)
    found = find_record(_batches(source, project), ref, IngestOptions(instances=reference.instances()))
    if found is None:
        where = ", ".join(billing) or "the project's bills"
        raise RecordNotFoundError(
            f"no row of {where} is {ref}; it may stand in an older bill, which --billing can name"
        )
    return {
        "reference": found.reference,
        "asked_for": ref,
        "went_to": found.table,
        "file": found.file,
        "row": found.row,
        "record": source.raw_row(found.file, found.row),
    }


def _source(billing: Sequence[str], project: Project | None) -> FileBilling | TableBilling:
    if billing:
        return FileBilling(billing)
    if project is None:
        raise ValueError("there is no bill to search; give --billing, or the project with --project")
    source = open_billing(project)
    assert isinstance(source, FileBilling | TableBilling)
    return source


def _batches(source: FileBilling | TableBilling, project: Project | None) -> Iterator[BillBatch]:
    """All rows of files; of a stream, day by day of the project."""
    if isinstance(source, FileBilling):
        yield from source.read()
        return
    assert project is not None
    start, end = project.start, project.last_hour_end()
    while start < end:
        yield from source.read(start, min(start + _DAY, end))
        start += _DAY

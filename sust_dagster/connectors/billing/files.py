"""Bills in files and tables: opened, recognised, converted and handed over as batches in the normal form.

Belongs here: the billing sources over files, folders, object stores and Arrow tables. What formats mean is in their
modules; what becomes of the rows is the ingestor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import microseconds, one_chunk, take_text
from sust_dagster.agents.ingestor.normal_form import TIME, BillBatch, normal_table
from sust_dagster.agents.ingestor.slices import HOUR_US
from sust_dagster.connectors.billing import azure
from sust_dagster.connectors.billing.ahead import read_ahead
from sust_dagster.connectors.billing.columnar import ColumnarFile, flat_names, flatten
from sust_dagster.connectors.billing.delimited import BLOCK_BYTES, DelimitedFile, RawBatch
from sust_dagster.connectors.billing.errors import BillingError
from sust_dagster.connectors.billing.fields import Fields, find_columns, plain_name
from sust_dagster.connectors.billing.formats import Format, recognise
from sust_dagster.connectors.billing.parsing import DateOrder, date_order, has_slashed_dates
from sust_dagster.connectors.billing.places import BillFile, find_bills
from sust_dagster.connectors.billing.text import INVALID


@dataclass(frozen=True)
class FileInfo:
    """One file of a bill: its label, recognised format and columns."""

    label: str
    format: str
    columns: tuple[str, ...]


class FileBilling:
    """A billing source over files, folders and object-store URLs, in any format that is recognised.

    ``dates`` ('mdy' or 'dmy') settles slashed Azure dates where a file does not. ``block_bytes`` bounds memory:
    a few blocks are held at once.
    """

    source = "billing_api"

    def __init__(
        self,
        paths: str | Path | Iterable[str | Path],
        *,
        dates: DateOrder | None = None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        if dates not in (None, "mdy", "dmy"):
            raise BillingError(f"dates {dates!r} is no order of dates", fix="give 'mdy' or 'dmy'")
        self.files: list[BillFile] = find_bills(paths)
        self._dates = dates
        self._block = block_bytes

    def describe(self) -> list[FileInfo]:
        """Label, format and columns of each file, from its header alone."""
        found = []
        for file in self.files:
            with closing(self._open(file)) as opened:
                names = frozenset(plain_name(c) for c in opened.columns)
            found.append(FileInfo(file.label, recognise(opened.columns, file.label).name(names), tuple(opened.columns)))
        return found

    def read(self, start: datetime | None = None, end: datetime | None = None) -> Iterator[BillBatch]:
        """Batches of rows whose charge period overlaps ``[start, end)``; see :class:`BillingSource`."""
        every = (batch for file in self.files for batch in self._batches(file))
        yield from (overlapping(batch, start, end) for batch in read_ahead(every))

    def raw_row(self, label: str, row: int) -> dict[str, Any]:
        """All columns of one row as the file has them (a malformed row: its text), by label and number of the row.

        Raises :class:`BillingError` where there is no such file or row.
        """
        file = next((f for f in self.files if f.label == label), None)
        if file is None:
            raise BillingError("is no file of this bill", file=label, fix="name the bill that holds it")
        opened = self._open(file)
        with closing(opened.batches(opened.columns, frozenset(opened.columns))) as batches:
            for raw in batches:
                for bad in raw.malformed:
                    if bad.row == row:
                        return {"text": bad.text.replace(INVALID, "\ufffd")}
                (at,) = np.nonzero(raw.rows == row)
                if len(at):
                    (found,) = raw.batch.slice(int(at[0]), 1).to_pylist()
                    return {k: v.replace(INVALID, "\ufffd") if isinstance(v, str) else v for k, v in found.items()}
        raise BillingError("there is no such row", file=label, row=row, fix="look the reference up again")

    def _open(self, file: BillFile) -> DelimitedFile | ColumnarFile:
        kind = file.kind()
        if kind == "parquet":
            return ColumnarFile(file)
        return DelimitedFile(file, None if kind == "text" else kind, self._block)

    def _batches(self, file: BillFile) -> Iterator[BillBatch]:
        opened = self._open(file)
        reader = Reader(opened.columns, file.label, bill=file.bill, delivery=file.delivery, dates=self._dates)
        for raw in opened.batches(reader.include, reader.plain):
            yield reader.batch(raw)


class Reader:
    """Reads raw batches of one file: the format is chosen once, by the columns."""

    def __init__(
        self, columns: list[str], label: str, *, bill: str = "", delivery: int = 0, dates: DateOrder | None = None
    ) -> None:
        self.label = label
        self.bill = bill or label
        self.format: Format = recognise(columns, label)
        self.name = self.format.name(frozenset(plain_name(c) for c in columns))
        self._found = find_columns(self.format.columns, columns)
        self._tags = sorted(self.format.tag_columns(columns))  # the tags of a line are part of what it is
        self._delivery = delivery
        self._dates = dates
        self._dates_settled = dates is not None
        many = {m for m, column in self.format.columns.items() if column.many}
        self.plain = frozenset(n for m, names in self._found.items() if m in many for n in names)
        self.include = list(dict.fromkeys([n for names in self._found.values() for n in names] + self._tags))

    def batch(self, raw: RawBatch) -> BillBatch:
        """One raw batch in the normal form."""
        if not self._dates_settled and raw.batch.num_rows:
            self._dates, self._dates_settled = self._settle_dates(raw), True
        fields = Fields(raw, self._found, self._dates, self._tags)
        converted = self.format.convert(fields)
        good, rejects = fields.outcome(one_chunk(converted["ChargePeriodStart"]))
        normal = normal_table(
            {
                **converted,
                "x_Bill": fields.constant(self.bill),
                "x_File": fields.constant(self.label),
                "x_Row": pa.array(raw.rows),
                "x_Delivery": pa.array(np.full(fields.rows, self._delivery, np.int64)),
                "x_Format": fields.constant(self.name),
                "x_Flags": pa.array(fields.flags),
            },
            fields.rows,
        )
        table = pa.Table.from_batches([raw.batch])
        if not good.all():
            normal, table = normal.filter(pa.array(good)), table.filter(pa.array(good))
        return BillBatch(self.label, normal, rejects, table, self._shown(), self.bill)

    def _shown(self) -> dict[str, str]:
        return {
            normal: self._found[meaning][0] for normal, meaning in self.format.shown.items() if meaning in self._found
        }

    def _settle_dates(self, raw: RawBatch) -> DateOrder | None:
        """Order of slashed dates in an Azure file. Raises :class:`BillingError` where the file does not prove it."""
        if self.format is not azure.FORMAT:
            return None
        texts = {
            meaning: one_chunk(raw.batch.column(name)).cast(pa.string())
            for meaning in azure.DATE_COLUMNS
            for name in self._found.get(meaning, ())[:1]
        }
        if not has_slashed_dates(texts["date"]):
            return None
        for values in texts.values():
            order = date_order(values)
            if order is not None:
                return order
        raise BillingError(
            "days and months cannot be told apart, and the billing period does not tell either",
            file=self.label,
            column=self._found["date"][0],
            fix="say dates='mdy' or dates='dmy', or export with ISO dates (2026-10-31)",
        )


def overlapping(batch: BillBatch, start: datetime | None, end: datetime | None) -> BillBatch:
    """The rows of a batch whose charge period overlaps ``[start, end)``, and the rejects that claim no other time."""
    if start is None and end is None:
        return batch
    low = _micros(start, -(2**62))
    high = _micros(end, 2**62)
    first, no_first = microseconds(batch.normal.column("ChargePeriodStart"))
    last, no_last = microseconds(batch.normal.column("ChargePeriodEnd"))
    last = np.where(no_last, first, last)
    keep = no_first | ((np.minimum(first, last) < high) & ((np.maximum(first, last) > low) | (first >= low)))
    hour, undated = microseconds(batch.rejects.hour)
    kept = undated | ((hour >= low) & (hour < high))
    rejects = batch.rejects.filter(kept)
    if keep.all():
        return replace(batch, rejects=rejects)
    mask = pa.array(keep)
    raw = batch.raw.filter(mask) if batch.raw is not None else None
    return replace(batch, normal=batch.normal.filter(mask), rejects=rejects, raw=raw)


def _micros(moment: datetime | None, otherwise: int) -> int:
    if moment is None:
        return otherwise
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no zone; times are UTC, e.g. 2026-10-01T00:00:00+00:00")
    return int(moment.astimezone(UTC).timestamp()) * 1_000_000 + moment.microsecond


def from_arrow(table: pa.Table, label: str, *, delivery: int = 0, by_hour: bool = False) -> BillBatch:
    """One batch from a bill that is already an Arrow table (typed or text columns of any recognised format).

    With ``by_hour`` files are the hours that charge periods start in (row 1 of ``label/2026-10-01T05``), so that a
    row can be found again however the table is cut at hours.
    """
    flat = flatten(table).combine_chunks()
    reader = Reader(flat_names(table.schema), label, delivery=delivery)
    wanted = flat.select([n for n in reader.include if n in flat.column_names])
    record = wanted.to_batches()[0] if wanted.num_rows else pa.RecordBatch.from_pylist([], wanted.schema)
    batch = reader.batch(RawBatch(record, np.arange(1, table.num_rows + 1)))
    return _numbered_by_hour(batch) if by_hour else batch


def _numbered_by_hour(batch: BillBatch) -> BillBatch:
    start, _ = microseconds(batch.normal.column("ChargePeriodStart"))
    code, hours = pd.factorize(start // HOUR_US)
    order = np.argsort(code, kind="stable")
    sizes = np.bincount(code, minlength=len(hours))
    number = np.empty(len(code), np.int64)
    number[order] = np.arange(len(code)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    stamps = pc.strftime(pa.array(hours * HOUR_US).cast(TIME), format="%Y-%m-%dT%H")
    labels = pc.binary_join_element_wise(batch.label, stamps, "/") if len(stamps) else pa.array([], pa.string())
    normal = batch.normal
    for name, values in (("x_File", take_text(labels, code)), ("x_Row", pa.array(number))):
        place = normal.column_names.index(name)
        normal = normal.set_column(place, normal.schema.field(place), values)
    return replace(batch, normal=normal)


class TableBilling:
    """A billing source over whatever gives an Arrow table for a range of hours, such as the simulated cloud."""

    source = "billing_api"

    def __init__(self, rows: Callable[[datetime, datetime], pa.Table], label: str) -> None:
        self._rows = rows
        self._label = label

    def read(self, start: datetime | None = None, end: datetime | None = None) -> Iterator[BillBatch]:
        """One batch of the rows between ``start`` and ``end``, which must both be given."""
        if start is None or end is None:
            raise BillingError("a range is needed", file=self._label, fix="give start and end")
        yield overlapping(from_arrow(self._rows(start, end), self._label, by_hour=True), start, end)

    def raw_row(self, label: str, row: int) -> dict[str, Any]:
        """All columns of one row, by label and number as :meth:`read` gives them."""
        start = datetime.strptime(label.rpartition("/")[2], "%Y-%m-%dT%H").replace(tzinfo=UTC)
        (found,) = self._rows(start, start + timedelta(hours=1)).slice(row - 1, 1).to_pylist()
        return found

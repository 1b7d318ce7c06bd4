"""Parquet bills as a stream of Arrow batches; nested records become dotted columns.

Belongs here: opening, choosing columns, flattening. Lists and maps stay what they are.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sust_dagster.connectors.billing.delimited import BATCH_ROWS, RawBatch
from sust_dagster.connectors.billing.errors import BillingError
from sust_dagster.connectors.billing.places import BillFile


def flat_names(schema: pa.Schema) -> list[str]:
    """Names of the columns, records spelled out: ``service.id``, ``service.description``."""
    return [name for field in schema for name in _names(field, field.name)]


def _names(field: pa.Field, path: str) -> list[str]:
    if not pa.types.is_struct(field.type):
        return [path]
    children = [field.type.field(i) for i in range(field.type.num_fields)]
    return [name for child in children for name in _names(child, f"{path}.{child.name}")]


def flatten(table: pa.Table) -> pa.Table:
    """``table`` with records spelled out as dotted columns."""
    while any(pa.types.is_struct(f.type) for f in table.schema):
        table = table.flatten()
    return table


class ColumnarFile:
    """One Parquet file."""

    def __init__(self, file: BillFile) -> None:
        self.file = file
        try:
            self._source = file.open_file()
            self._parquet = pq.ParquetFile(self._source)
            self.columns = flat_names(self._parquet.schema_arrow)
        except (OSError, pa.ArrowException) as error:
            raise BillingError(
                f"is no readable Parquet file ({error})", file=file.label, fix="fetch or write the file again"
            ) from error

    def close(self) -> None:
        """Let go of the file; :meth:`batches` does so by itself."""
        self._source.close()

    def batches(self, include: Sequence[str], plain: frozenset[str]) -> Generator[RawBatch]:
        """Batches of the wanted columns. Raises :class:`BillingError` where the data is damaged."""
        schema = self._parquet.schema_arrow
        texts = [
            name for name in include if name in schema.names and name not in plain and _is_text(schema.field(name).type)
        ]
        done = 0
        try:
            parquet = pq.ParquetFile(self._source, read_dictionary=texts) if texts else self._parquet
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=list(include)):
                flat = flatten(pa.Table.from_batches([batch])).combine_chunks()
                found = flat.select([n for n in include if n in flat.column_names])
                record = found.to_batches()[0] if found.num_rows else pa.RecordBatch.from_pylist([], found.schema)
                yield RawBatch(record, np.arange(done + 1, done + 1 + batch.num_rows))
                done += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise BillingError(
                f"the data is damaged ({error})", file=self.file.label, row=done + 1, fix="fetch the file again"
            ) from error
        finally:
            self._source.close()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)

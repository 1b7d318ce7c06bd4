"""Small array helpers: distinct combinations, look-ups by code, and SQL over Arrow tables in memory.

Belongs here: what works on whole columns and knows nothing of bills.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_local = threading.local()
#: Rows up to which other threads are not worth waking.
_FEW = 50_000


def query(sql: str, tables: Mapping[str, pa.Table], *, threads: int = 0) -> pa.Table:
    """Run ``sql`` over Arrow tables by name, in memory; one connection per thread.

    ``threads=1`` where floats are summed: in one order, so that the same inputs give the same bytes. 0 = all cores,
    or one where there is little to do.
    """
    threads = threads or int(sum(t.num_rows for t in tables.values()) <= _FEW)
    name = f"connection_{threads}"
    connection = getattr(_local, name, None)
    if connection is None:
        connection = duckdb.connect(config={"threads": threads} if threads else {})
        connection.execute("SET TimeZone = 'UTC'")
        setattr(_local, name, connection)
    for name, table in tables.items():
        connection.register(name, table)
    try:
        return connection.sql(sql).to_arrow_table()
    finally:
        for name in tables:
            connection.unregister(name)


def one_chunk(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The same values as one contiguous array."""
    if isinstance(values, pa.ChunkedArray):
        if values.num_chunks == 1:
            return values.chunk(0)
        if pa.types.is_dictionary(values.type):
            values = values.unify_dictionaries()
        return values.combine_chunks()
    return values


def as_dictionary(values: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """``values`` as one dictionary array of strings (int32 codes)."""
    array = one_chunk(values)
    if not pa.types.is_dictionary(array.type):
        array = one_chunk(pc.dictionary_encode(array.cast(pa.string())))
    return array


def codes(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Dictionary codes as int64, -1 where null."""
    array = as_dictionary(values)
    indices = array.indices
    if indices.null_count:
        indices = pc.fill_null(indices, -1)
    found = indices.to_numpy(zero_copy_only=False).astype(np.int64)
    dictionary = array.dictionary
    if dictionary.null_count:  # a null inside the dictionary is a null of the row as well
        null_codes = np.flatnonzero(pc.is_null(dictionary).to_numpy(zero_copy_only=False))
        found[np.isin(found, null_codes)] = -1
    return found


def combinations(columns: Sequence[pa.Array | pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct combinations of values over several columns of equal length.

    Returns ``(group, first)``: the group number of each row (int64), and for each group the row where it
    first occurs.
    """
    rows = len(columns[0])
    group = np.zeros(rows, np.int64)
    width = 1
    for column in columns:
        array = as_dictionary(column)
        size = len(array.dictionary) + 1
        if size == 1:
            continue
        if width > 2**62 // size:
            group = pd.factorize(group)[0].astype(np.int64)
            width = int(group.max(initial=0)) + 1
        group = group * size + codes(array) + 1
        width *= size
    group = pd.factorize(group)[0].astype(np.int64)
    count = int(group.max(initial=-1)) + 1
    first = np.zeros(count, np.int64)
    first[group[::-1]] = np.arange(rows - 1, -1, -1)
    return group, first


def take_text(values: pa.Array, index: np.ndarray) -> pa.DictionaryArray:
    """Values of a short string array by position (-1: null), as a dictionary array."""
    mask = index < 0
    indices = pa.array(index.astype(np.int32), mask=mask if mask.any() else None)
    return pa.DictionaryArray.from_arrays(indices, values.cast(pa.string()))


def take_number(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Values of a short float array by position; NaN where the position is -1."""
    if not len(values):
        return np.full(len(index), np.nan)
    found = values[np.maximum(index, 0)]
    return np.where(index < 0, np.nan, found) if (index < 0).any() else found


def numbers(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A float column as numpy, NaN where null."""
    array = one_chunk(values)
    if array.null_count:
        array = pc.fill_null(array, float("nan"))
    return array.to_numpy(zero_copy_only=False)


def nullable(values: np.ndarray) -> pa.Array:
    """A float array in which NaN is null."""
    mask = np.isnan(values)
    return pa.array(values, pa.float64(), mask=mask if mask.any() else None)


def microseconds(values: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Instants in microseconds since 1970 (int64) and a mask of the missing ones."""
    array = one_chunk(values)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    as_int = array.view(pa.int64()) if not array.offset else pc.cast(array, pa.int64())
    if array.null_count:
        as_int = pc.fill_null(as_int, 0)
    return as_int.to_numpy(zero_copy_only=False), missing


def instants(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Microseconds since 1970 as UTC timestamps; null where ``missing``."""
    mask = missing if missing is not None and missing.any() else None
    return pa.array(values, pa.int64(), mask=mask).cast(pa.timestamp("us", tz="UTC"))


def rows_as_json(table: pa.Table) -> pa.Array:
    """Each row as a JSON object, columns in table order."""
    if not table.num_rows:
        return pa.array([], pa.string())
    plain = pa.table(
        {
            name: table.column(i).cast(pa.string()) if pa.types.is_dictionary(table.column(i).type) else table.column(i)
            for i, name in enumerate(table.column_names)
        }
    )
    return one_chunk(query("select to_json(input) as j from input", {"input": plain}).column(0).cast(pa.string()))

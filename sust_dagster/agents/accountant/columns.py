"""Columns between Arrow and numpy: text as codes, numbers as floats, codes back as dictionary arrays.

Belongs here: cheap, loop-free conversions of whole columns. Does not belong here: any meaning of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Coded:
    """A text column as codes into ``values``; nulls have the last code, whose value is ``""``."""

    codes: Codes
    values: tuple[str, ...]


def encode(column: pa.ChunkedArray | pa.Array) -> Coded:
    """A string or dictionary column as :class:`Coded`, without a loop over rows."""
    chunked = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if not pa.types.is_dictionary(chunked.type):
        chunked = pc.dictionary_encode(pc.cast(chunked, pa.string()))
    if chunked.num_chunks == 0:
        return Coded(np.empty(0, np.int32), ("",))
    chunked = chunked.unify_dictionaries()
    values = tuple("" if v is None else str(v) for v in chunked.chunk(0).dictionary.to_pylist())
    null_code = len(values)
    pieces = [_indices(c, null_code) for c in chunked.chunks]
    codes = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return Coded(codes, (*values, ""))


def _indices(chunk: pa.DictionaryArray, null_code: int) -> Codes:
    indices = chunk.indices
    if indices.null_count:
        indices = pc.fill_null(pc.cast(indices, pa.int32()), null_code)
    return indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


def floats(column: pa.ChunkedArray | pa.Array) -> Floats:
    """A number column as float64, null as NaN."""
    if column.null_count:
        column = pc.fill_null(pc.cast(column, pa.float64()), float("nan"))
    return np.asarray(
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )


def to_arrow(values: Floats) -> pa.Array:
    """float64 with NaN as null; without a copy where nothing is NaN."""
    missing = np.isnan(values)
    return pa.array(values, mask=missing) if missing.any() else pa.array(values)


def compact(codes: NDArray[np.integer], size: int) -> tuple[NDArray[np.int64], Codes]:
    """The distinct codes present (ascending) and the same rows coded by position among them, in linear time."""
    seen = np.zeros(size, dtype=bool)
    seen[codes] = True
    present = np.flatnonzero(seen)
    position = np.zeros(size, dtype=np.int32)
    position[present] = np.arange(len(present), dtype=np.int32)
    return present, position[codes]


def dictionary(codes: Codes, values: Sequence[str | None] | pa.Array) -> pa.DictionaryArray:
    """A dictionary array of distinct words; rows whose value is None are null.

    Words that occur twice are made one: Parquet gives up its dictionary for them, and what it then writes differs
    from run to run.
    """
    words = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
    absent = words.is_null().to_numpy(zero_copy_only=False)[codes] if words.null_count else None
    words = pc.fill_null(words, "")
    distinct = pc.unique(words)
    if len(distinct) < len(words):
        codes = pc.index_in(words, distinct).to_numpy(zero_copy_only=False).astype(np.int32)[codes]
        words = distinct
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=absent), words)


def constant(value: str | None, rows: int) -> pa.DictionaryArray:
    """One text for every row."""
    return dictionary(np.zeros(rows, dtype=np.int32), [value])

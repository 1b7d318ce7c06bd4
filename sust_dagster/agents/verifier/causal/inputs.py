"""Columns as the causal and the service checks read them: named errors instead of guesses.

Belongs here: asking for columns, text as sorted codes, numbers with NaN for missing, instants. Does not belong here:
what a column means or what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats, encode

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Two-sided 90 % under a normal: the halfwidth of a ci90 is this many standard deviations.
Z90 = 1.6448536269514722


class CheckInputError(ValueError):
    """A table that a check cannot be made from: names the table, the column, the row and the fix."""


@dataclass(frozen=True)
class Keys:
    """A text column as codes into its sorted values."""

    codes: Ints
    values: tuple[str, ...]

    @property
    def n(self) -> int:
        return len(self.values)


def require(table: pa.Table, columns: Iterable[str], what: str) -> None:
    """Raise :class:`CheckInputError` where ``table`` lacks one of ``columns``."""
    missing = [c for c in columns if c not in table.column_names]
    if missing:
        raise CheckInputError(f"{what}: no column {', '.join(missing)}; it has {', '.join(table.column_names)}")


def keys(table: pa.Table, name: str, what: str) -> Keys:
    """The text column ``name`` as :class:`Keys`; a null is an error that names its row."""
    column = table[name]
    _no_null(column, name, what)
    coded = encode(column)
    order = np.argsort(np.array(coded.values[:-1], dtype=object), kind="stable")
    rank = np.empty(len(coded.values), np.int64)
    rank[order] = np.arange(len(order))
    return Keys(rank[coded.codes], tuple(coded.values[i] for i in order))


def numbers(table: pa.Table, name: str, what: str) -> Floats:
    """The column ``name`` as float64, null and NaN as NaN; an infinite number is an error that names its row."""
    try:
        column = pc.cast(table[name], pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise CheckInputError(f"{what}: column {name} is {table[name].type}, not a number") from error
    values = pc.fill_null(column, float("nan")).to_numpy()
    if np.isinf(values).any():
        raise CheckInputError(f"{what}: column {name}, row {int(np.isinf(values).argmax())}: an infinite number")
    return values


def flags(table: pa.Table, name: str, what: str) -> Flags:
    """The boolean column ``name``; a null is an error that names its row."""
    column = table[name]
    if not pa.types.is_boolean(column.type):
        raise CheckInputError(f"{what}: column {name} is {column.type}, not boolean")
    _no_null(column, name, what)
    return column.to_numpy()


def instants(table: pa.Table, name: str, what: str) -> tuple[Ints, Flags]:
    """Microseconds since 1970 UTC of column ``name``, and which are known; a time without a zone is an error."""
    column = table[name]
    if not pa.types.is_timestamp(column.type) or column.type.tz is None:
        raise CheckInputError(f"{what}: column {name} is {column.type}; give a timestamp with a time zone")
    us = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC")), pa.int64())
    known = pc.is_valid(us).to_numpy()
    return pc.fill_null(us, 0).to_numpy(), known


def distinct(*parts: Ints) -> tuple[Ints, Ints]:
    """The distinct rows of integer columns of one length, sorted, ``(k, columns)``; and which of them each row is.

    One sort of single numbers: an order of magnitude faster than sorting rows. The columns' ranges multiplied must stay
    below 2^63; codes and days do.
    """
    if len(parts[0]) == 0:
        return np.empty((0, len(parts)), np.int64), np.empty(0, np.int64)
    lows = [int(p.min()) for p in parts]
    sizes = [int(p.max()) - low + 1 for p, low in zip(parts, lows, strict=True)]
    at = np.ravel_multi_index(tuple(p - low for p, low in zip(parts, lows, strict=True)), sizes)
    found, inverse = np.unique(at, return_inverse=True)
    rows = np.stack(np.unravel_index(found, sizes), axis=1).astype(np.int64)
    return rows + np.array(lows, np.int64), inverse


def _no_null(column: pa.ChunkedArray, name: str, what: str) -> None:
    if column.null_count:
        row = int(pc.is_null(column).to_numpy().argmax())
        raise CheckInputError(f"{what}: column {name}, row {row} is null; every row needs one")

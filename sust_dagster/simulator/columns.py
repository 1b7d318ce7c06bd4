"""Arrow columns from numpy codes: how the simulator turns indices into tables without a loop over rows.

Belongs here: building columns. Does not belong here: what the columns mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.simulator.clock import Hours, moment_of

STRING = pa.string()


def pick(values: Sequence[str | None], codes: NDArray[np.integer]) -> pa.Array:
    """The string ``values[code]`` for each code, as a plain string column."""
    return pa.array(values, STRING).take(pa.array(codes.astype(np.int64)))


def constant(value: str | float | None, length: int, kind: pa.DataType = STRING) -> pa.Array:
    """A column of one value."""
    return pa.nulls(length, kind) if value is None else pa.repeat(pa.scalar(value, kind), length)


def join(*parts: pa.Array | str) -> pa.Array:
    """Element-wise concatenation of string columns and constants."""
    return pc.binary_join_element_wise(*parts, "")


def per_hour(hours: Hours, pattern: str) -> pa.Array:
    """Each hour formatted with a ``strftime`` pattern; one call per distinct hour."""
    distinct, codes = np.unique(hours, return_inverse=True)
    return pick([moment_of(int(h)).strftime(pattern) for h in distinct], codes)

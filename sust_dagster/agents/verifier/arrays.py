"""Small array words the verifier's modules share: kinds of arrays, and sums by integer code.

Belongs here: nothing that knows what a number means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sust_dagster.agents.accountant.columns import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def sum_by(code: Ints, values: Floats, size: int) -> Floats:
    """Sum of values by code 0.. ``size`` - 1, added in order of the rows."""
    return np.bincount(code, values, size).astype(np.float64, copy=False)


def count_by(code: Ints, size: int) -> Ints:
    """How often each code 0.. ``size`` - 1 occurs."""
    return np.bincount(code, minlength=size)

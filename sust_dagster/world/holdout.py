"""The hold-out draw: which job groups stay as they are, so that there is something to compare a move with.

Belongs here: the keyed draw itself, because the one who plans and the one who verifies must meet the same groups and
may not import each other. Does not belong here: who is eligible, what share a policy asks for, any estimate.

A draw is a function of (seed, workload, requested hour) and of nothing else: not of the order, the number or the
estimated saving of the groups. Anyone repeats it with ``sha256sum`` over the text
``seed ␟ holdout ␟ workload ␟ hours since 1970`` (␟ is U+001F).
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sust_dagster.world.ids import SEPARATOR

#: Share of eligible groups to hold out: below it too few runs to compare with, above it too much carbon given up.
SHARE_RANGE = (0.05, 0.10)

_NAME = "holdout"
_HOUR_US = 3_600_000_000
#: 53 bits of the digest fill a float64 without rounding.
_BITS = np.uint64(11)
_RESOLUTION = 2.0**-53


def draws(seed: int, workload: pa.Array | pa.ChunkedArray, requested_start: pa.Array | pa.ChunkedArray) -> NDArray:
    """One uniform number in [0, 1) per group: the first 53 bits of SHA-256 of its key. Shape ``(n,)``, float64.

    ``workload`` is text, ``requested_start`` a timestamp with a time zone; only its UTC hour counts. Groups of one
    workload and hour share a draw: they are held out together. Raises ``ValueError`` for nulls, naive times and
    columns of unequal length.
    """
    if len(workload) != len(requested_start):
        raise ValueError(f"holdout: {len(workload)} workloads for {len(requested_start)} requested starts")
    if workload.null_count or requested_start.null_count:
        raise ValueError("holdout: a null workload or requested start; a group without a key cannot be drawn")
    if not pa.types.is_timestamp(requested_start.type) or requested_start.type.tz is None:
        raise ValueError(f"holdout: requested_start is {requested_start.type}; give a timestamp with a time zone")
    if len(workload) == 0:
        return np.empty(0, np.float64)
    us = pc.cast(pc.cast(requested_start, pa.timestamp("us", tz="UTC")), pa.int64()).to_numpy(zero_copy_only=False)
    hours = np.floor_divide(us, _HOUR_US)
    names = pc.cast(workload, pa.string())
    keys = pa.table({"w": names, "h": pa.array(hours)}).group_by(["w", "h"], use_threads=False).aggregate([])
    # One digest per workload and hour, not per row: a day has at most 24 of them per workload.
    head = f"{seed}{SEPARATOR}{_NAME}{SEPARATOR}"
    digests = b"".join(
        hashlib.sha256(f"{head}{w}{SEPARATOR}{h}".encode()).digest()[:8]
        for w, h in zip(keys["w"].to_pylist(), keys["h"].to_pylist(), strict=True)
    )
    uniform = (np.frombuffer(digests, ">u8").astype(np.uint64) >> _BITS).astype(np.float64) * _RESOLUTION
    return _back(names, hours, keys, uniform)


def _back(names: pa.Array | pa.ChunkedArray, hours: NDArray, keys: pa.Table, uniform: NDArray) -> NDArray:
    """The number of each key at the rows that have it."""
    first, last = int(hours.min()), int(hours.max())
    width = last - first + 1
    known = pc.unique(keys["w"])
    at_key = pc.index_in(keys["w"], known).to_numpy().astype(np.int64) * width + (keys["h"].to_numpy() - first)
    at_row = pc.index_in(names, known).to_numpy(zero_copy_only=False).astype(np.int64) * width + (hours - first)
    order = np.argsort(at_key)
    return uniform[order[np.searchsorted(at_key[order], at_row)]]


def held_out(
    seed: int, workload: pa.Array | pa.ChunkedArray, requested_start: pa.Array | pa.ChunkedArray, share: float
) -> NDArray[np.bool_]:
    """True where the group stays as it is: its draw is below ``share``. Shape ``(n,)``.

    A larger share only adds groups. The propensity of being held out is ``share`` for every group. Raises
    ``ValueError`` for a share outside [0, 1] and as :func:`draws` does.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"holdout: share {share} is no probability; policies use {SHARE_RANGE[0]} to {SHARE_RANGE[1]}")
    return draws(seed, workload, requested_start) < share

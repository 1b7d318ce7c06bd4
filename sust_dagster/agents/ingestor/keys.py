"""Natural keys of bill lines.

Belongs here: what makes two lines the same line, 128-bit keys over whole columns, and the hash of what a key leaves
out. Does not belong here: which lines were seen before (``duplicates``).

A line's key is what was used, by whom and when: never what it cost (a later export restates costs, an amortised
export differs from the actual one by cost alone) and never the file's name. Where the provider gives a line id
the key is that id with its interval. Where it gives none, identical lines inside one delivery are legitimate and
told apart by their ordinal; the same lines in another delivery are duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, microseconds, numbers, one_chunk, query
from sust_dagster.agents.ingestor.normal_form import NORMAL, PLACE_COLUMNS

#: Text columns of the key of a line that has no id.
CONTENT_COLUMNS = (
    "x_Provider",
    "BillingAccountId",
    "SubAccountId",
    "ServiceName",
    "x_ServiceCode",
    "SkuId",
    "SkuPriceId",
    "SkuMeter",
    "x_Operation",
    "ChargeDescription",
    "RegionId",
    "AvailabilityZone",
    "ResourceId",
    "ResourceName",
    "x_InstanceType",
    "ConsumedUnit",
    "ChargeClass",
    "Tags",
    "x_Detail",
)
#: Text columns of the key of a line that has an id. The id alone is not enough: providers promise its uniqueness
#: only inside one partition of one report.
ID_COLUMNS = ("x_Provider", "SubAccountId", "SkuMeter", "x_Operation", "ResourceId", "ChargeClass", "x_LineId")

_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


@dataclass(frozen=True)
class LineKeys:
    """128-bit keys as two uint64 columns, and whether the key is the provider's own id.

    ``rest`` (uint64), where asked for, tells lines of one key apart by what the key leaves out, such as the cost.
    """

    high: np.ndarray
    low: np.ndarray
    has_id: np.ndarray
    rest: np.ndarray | None = None

    def part(self, rows: np.ndarray) -> LineKeys:
        """The keys at these positions."""
        return LineKeys(
            self.high[rows], self.low[rows], self.has_id[rows], None if self.rest is None else self.rest[rows]
        )

    def hexadecimal(self) -> pa.Array:
        """The keys as 32 hexadecimal digits."""
        digits = np.frombuffer(b"0123456789abcdef", np.uint8)
        raw = np.stack([self.high, self.low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
        text = np.empty((len(raw), 32), np.uint8)
        text[:, 0::2] = digits[raw >> 4]
        text[:, 1::2] = digits[raw & 15]
        offsets = pa.py_buffer(np.arange(0, 32 * len(raw) + 1, 32, dtype=np.int32))
        return pa.Array.from_buffers(pa.string(), len(raw), [None, offsets, pa.py_buffer(text)])


def digests(values: pa.Array) -> np.ndarray:
    """MD5 of strings as uint64 pairs, shape (n, 2); MD5 because it is stable over versions and fast here."""
    if not len(values):
        return np.zeros((0, 2), np.uint64)
    hashed = query("select md5_number(v) as h from t", {"t": pa.table({"v": values})}).column(0)
    array = one_chunk(hashed)
    # The 128 bits come as a decimal's storage; its value would overflow, its bytes do not.
    return np.frombuffer(array.buffers()[1], np.uint64)[2 * array.offset :][: 2 * len(array)].reshape(-1, 2)


def scramble(values: np.ndarray) -> np.ndarray:
    """Bits of 64-bit values well mixed (the finaliser of SplitMix64), uint64."""
    x = values.view(np.uint64).copy()
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def line_keys(normal: pa.Table, *, rest: bool = False) -> LineKeys:
    """Keys of all lines of a table in the normal form, on request with the hash of all that they leave out."""
    rows = normal.num_rows
    with_id = one_chunk(normal.column("x_LineId")).is_valid().to_numpy(zero_copy_only=False)
    lanes = [np.zeros(rows, np.uint64) for _ in range(3 if rest else 2)]
    for mask, names in ((with_id, ID_COLUMNS), (~with_id, CONTENT_COLUMNS)):
        if not mask.any():
            continue
        part = normal if mask.all() else normal.filter(pa.array(mask))
        found = _mix(part, names, ("ConsumedQuantity",) if names is CONTENT_COLUMNS else (), _FACTORS)
        if rest:
            found += _mix(part, *_left_out(names), _FACTORS[:1])
        for lane, values in zip(lanes, found, strict=True):
            lane[mask] = values
    return LineKeys(lanes[0], lanes[1], with_id, lanes[2] if rest else None)


def _left_out(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Text and number columns that are neither in a key nor a line's place."""
    left = [f for f in NORMAL if f.name not in names + PLACE_COLUMNS and not pa.types.is_timestamp(f.type)]
    texts = tuple(f.name for f in left if pa.types.is_dictionary(f.type))
    return texts, tuple(f.name for f in left if pa.types.is_floating(f.type) or pa.types.is_integer(f.type))


def _mix(
    normal: pa.Table, names: tuple[str, ...], amounts: tuple[str, ...], factors: tuple[np.uint64, ...]
) -> list[np.ndarray]:
    """A hash (uint64) per factor over text columns, the period and number columns."""
    columns = [as_dictionary(normal.column(name)) for name in names]
    distinct = [c.dictionary.cast(pa.string()) for c in columns]
    hashed = digests(pa.concat_arrays(distinct)) if distinct else np.zeros((0, 2), np.uint64)
    start, _ = microseconds(normal.column("ChargePeriodStart"))
    end, _ = microseconds(normal.column("ChargePeriodEnd"))
    numeric = [start, end, *(numbers(normal.column(name)) + 0.0 for name in amounts)]  # minus zero is zero
    lanes = []
    for lane, factor in enumerate(factors):
        mixed = np.full(normal.num_rows, factor, np.uint64)
        offset = 0
        for column, values in zip(columns, distinct, strict=True):
            table = np.append(hashed[offset : offset + len(values), lane], np.uint64(lane + 1))  # last: null
            mixed = mixed * factor + table[codes(column)]
            offset += len(values)
        for values in numeric:
            mixed = mixed * factor + scramble(np.ascontiguousarray(values))
        lanes.append(scramble(mixed))
    return lanes


def md5_texts(values: pa.Array) -> pa.Array:
    """MD5 of strings as 32 hexadecimal digits."""
    return one_chunk(query("select md5(v) as h from t", {"t": pa.table({"v": values})}).column(0)).cast(pa.string())


def key_parts(keys: LineKeys, ordinal: np.ndarray) -> pa.Array:
    """The key as text for an id: 32 digits, and ``#n`` for the n-th of identical lines (n > 0)."""
    return numbered(keys.hexadecimal(), ordinal)


def numbered(texts: pa.Array, ordinal: np.ndarray) -> pa.Array:
    """Texts with ``#n`` behind those whose ordinal n is above 0."""
    if not ordinal.any():
        return texts
    suffix = pc.if_else(
        pa.array(ordinal > 0), pc.binary_join_element_wise("#", pa.array(ordinal).cast(pa.string()), ""), ""
    )
    return pc.binary_join_element_wise(texts, suffix, "")


def record_refs(bills: pa.Array, content: pa.Array) -> pa.Array:
    """References ``bill#content`` to raw records: where a row stands is no part of them."""
    return pc.binary_join_element_wise(bills, content, "#")

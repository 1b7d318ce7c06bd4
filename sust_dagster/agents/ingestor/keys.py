"""Natural keys of bill lines, and the memory that recognises a line when it arrives again.

Belongs here: what makes two lines the same line, 128-bit keys over whole columns, ordinals among identical
lines, and a set of keys that grows by sorted arrays of numpy.

A line's key is what was used, by whom and when: never what it cost (a later export restates costs, an amortised
export differs from the actual one by cost alone) and never the file's name. Where the provider gives a line id
the key is that id with its interval. Where it gives none, identical lines inside one delivery are legitimate and
told apart by their ordinal; the same lines in another delivery are duplicates.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.ingestor.arrays import as_dictionary, codes, microseconds, numbers, one_chunk, query

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
    """128-bit keys as two uint64 columns, and whether the key is the provider's own id."""

    high: np.ndarray
    low: np.ndarray
    has_id: np.ndarray

    def hexadecimal(self) -> pa.Array:
        """The keys as 32 hexadecimal digits."""
        digits = np.frombuffer(b"0123456789abcdef", np.uint8)
        raw = np.stack([self.high, self.low], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
        text = np.empty((len(raw), 32), np.uint8)
        text[:, 0::2] = digits[raw >> 4]
        text[:, 1::2] = digits[raw & 15]
        offsets = pa.py_buffer(np.arange(0, 32 * len(raw) + 1, 32, dtype=np.int32))
        return pa.Array.from_buffers(pa.string(), len(raw), [None, offsets, pa.py_buffer(text)])


def _digests(values: pa.Array) -> np.ndarray:
    """MD5 of strings as uint64 pairs, shape (n, 2); MD5 because it is stable over versions and fast here."""
    if not len(values):
        return np.zeros((0, 2), np.uint64)
    hashed = query("select md5_number(v) as h from t", {"t": pa.table({"v": values})}).column(0)
    array = one_chunk(hashed)
    # The 128 bits come as a decimal's storage; its value would overflow, its bytes do not.
    return np.frombuffer(array.buffers()[1], np.uint64)[2 * array.offset :][: 2 * len(array)].reshape(-1, 2)


def _scramble(values: np.ndarray) -> np.ndarray:
    """Bits of 64-bit values well mixed (the finaliser of SplitMix64), uint64."""
    x = values.view(np.uint64).copy()
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def line_keys(normal: pa.Table) -> LineKeys:
    """Keys of all lines of a table in the normal form."""
    rows = normal.num_rows
    with_id = one_chunk(normal.column("x_LineId")).is_valid().to_numpy(zero_copy_only=False)
    high, low = np.zeros(rows, np.uint64), np.zeros(rows, np.uint64)
    for mask, names in ((with_id, ID_COLUMNS), (~with_id, CONTENT_COLUMNS)):
        if mask.all() and rows:
            high, low = _mix(normal, names)
        elif mask.any():
            part = normal.filter(pa.array(mask))
            high[mask], low[mask] = _mix(part, names)
    return LineKeys(high, low, with_id)


def _mix(normal: pa.Table, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    columns = [as_dictionary(normal.column(name)) for name in names]
    distinct = [c.dictionary.cast(pa.string()) for c in columns]
    digests = _digests(pa.concat_arrays(distinct)) if distinct else np.zeros((0, 2), np.uint64)
    start, _ = microseconds(normal.column("ChargePeriodStart"))
    end, _ = microseconds(normal.column("ChargePeriodEnd"))
    quantity = numbers(normal.column("ConsumedQuantity")) + 0.0  # minus zero is zero
    numeric = [start, end] if "x_LineId" in names else [start, end, quantity]
    lanes = []
    for lane, factor in enumerate(_FACTORS):
        mixed = np.full(normal.num_rows, factor, np.uint64)
        offset = 0
        for column, values in zip(columns, distinct, strict=True):
            table = np.append(digests[offset : offset + len(values), lane], np.uint64(lane + 1))  # last: null
            mixed = mixed * factor + table[codes(column)]
            offset += len(values)
        for values in numeric:
            mixed = mixed * factor + _scramble(np.ascontiguousarray(values))
        lanes.append(_scramble(mixed))
    return lanes[0], lanes[1]


#: Runs are merged up to this many keys: a merge needs about 80 bytes per key for a moment.
LARGEST_MERGE = 2_000_000

Run = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass
class KeyCounts:
    """How often each 128-bit key was seen: sorted runs (high, low, count) that are merged as they grow.

    20 bytes per key. A key may stand in several runs; then its larger count holds.
    """

    runs: list[Run] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self.runs)

    def count(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """Count of each key (int64, 0 where unseen). Fast where the keys are sorted by ``high``."""
        total = np.zeros(len(high), np.int64)
        for run in self.runs:
            mine, at = _found(run, high, low)
            total[mine] = np.maximum(total[mine], run[2][at])
        return total

    def bump(self, high: np.ndarray, low: np.ndarray, by: np.ndarray) -> np.ndarray:
        """Raise the counts of distinct keys, sorted by (high, low); return the counts before (int64)."""
        before = np.zeros(len(high), np.int64)
        new = np.ones(len(high), bool)
        for run in self.runs:
            mine, at = _found(run, high, low)
            before[mine] = run[2][at]
            run[2][at] += by[mine].astype(np.int32)
            new[mine] = False
        self.add((high[new], low[new], by[new].astype(np.int32)))
        return before

    def add(self, run: Run) -> None:
        """Add a sorted run; runs of like size are merged."""
        if len(run[0]):
            self.runs.append(run)
        while len(self.runs) > 1:
            sizes = len(self.runs[-1][0]), len(self.runs[-2][0])
            if 2 * sizes[0] < sizes[1] or sum(sizes) > LARGEST_MERGE:
                return
            self.runs.append(_merged(self.runs.pop(), self.runs.pop()))

    def absorb(self, other: KeyCounts) -> None:
        """Take over all keys of ``other`` and empty it."""
        for run in other.runs:
            self.add(run)
        other.runs.clear()


def _found(run: Run, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which keys stand in a run, and where: positions in the keys and in the run."""
    run_high, run_low, _ = run
    place = np.searchsorted(run_high, high)
    live = np.arange(len(high))
    mine: list[np.ndarray] = []
    while len(live):  # more than one turn only where the first 64 bits collide
        live = live[place[live] < len(run_high)]
        live = live[run_high[place[live]] == high[live]]
        hit = run_low[place[live]] == low[live]
        mine.append(live[hit])
        live = live[~hit]
        place[live] += 1
    found = np.concatenate(mine) if mine else live
    return found, place[found]


def _merged(first: Run, second: Run) -> Run:
    high, low, counts = (np.concatenate(parts) for parts in zip(first, second, strict=True))
    order = _key_order(high, low)
    high, low, counts = high[order], low[order], counts[order]
    start = _group_starts(high, low)
    return high[start], low[start], np.maximum.reduceat(counts, start)


def _key_order(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Stable order by (high, low). The high part alone decides, unless two keys share it."""
    order = np.argsort(high, kind="stable")
    sorted_high, sorted_low = high[order], low[order]
    if ((sorted_high[1:] == sorted_high[:-1]) & (sorted_low[1:] < sorted_low[:-1])).any():
        return np.lexsort((low, high))
    return order


def _group_starts(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Positions at which a new key begins in sorted columns."""
    if not len(high):
        return np.zeros(0, np.int64)
    new = np.ones(len(high), bool)
    new[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return np.flatnonzero(new)


@dataclass
class Duplicates:
    """Recognises lines that were seen before, over any number of batches and deliveries."""

    earlier: KeyCounts = field(default_factory=KeyCounts)
    current: KeyCounts = field(default_factory=KeyCounts)
    delivery: int | None = None

    def see(self, keys: LineKeys, deliveries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Register lines in order; return ``(ordinal, duplicate)``.

        ``ordinal`` (int64) counts identical lines of the same delivery from 0. ``duplicate`` (bool) marks lines
        that an earlier delivery already held, and repeated ids inside one delivery.
        """
        ordinal = np.zeros(len(deliveries), np.int64)
        duplicate = np.zeros(len(deliveries), bool)
        if not len(deliveries):
            return ordinal, duplicate
        borders = np.flatnonzero(np.diff(deliveries)) + 1
        for part in np.split(np.arange(len(deliveries)), borders):  # one turn per delivery, not per row
            delivery = int(deliveries[part[0]])
            if delivery != self.delivery:
                self.earlier.absorb(self.current)
                self.delivery = delivery
            ordinal[part], duplicate[part] = self._see_one(keys.high[part], keys.low[part], keys.has_id[part])
        return ordinal, duplicate

    def _see_one(self, high: np.ndarray, low: np.ndarray, has_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = _key_order(high, low)
        high, low = high[order], low[order]
        first = _group_starts(high, low)
        sizes = np.diff(np.append(first, len(high)))
        group = np.repeat(np.arange(len(first)), sizes)
        before = self.current.bump(high[first], low[first], sizes)
        ordinal = np.arange(len(high)) - first[group] + before[group]
        known = self.earlier.count(high[first], low[first]) if self.earlier.runs else np.zeros(len(first), np.int64)
        duplicate = np.where(has_id[order], (known[group] > 0) | (ordinal > 0), ordinal < known[group])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return ordinal[back], duplicate[back]


def key_parts(keys: LineKeys, ordinal: np.ndarray) -> pa.Array:
    """The key as text for an id: 32 digits, and ``#n`` for the n-th of identical lines (n > 0)."""
    text = keys.hexadecimal()
    if not ordinal.any():
        return text
    suffix = pc.if_else(
        pa.array(ordinal > 0), pc.binary_join_element_wise("#", pa.array(ordinal).cast(pa.string()), ""), ""
    )
    return pc.binary_join_element_wise(text, suffix, "")

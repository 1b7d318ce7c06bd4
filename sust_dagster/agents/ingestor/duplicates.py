"""The memory that recognises a line when it arrives again, and numbers lines that are equal.

Belongs here: how often a key was seen, in sorted arrays of numpy, duplicates over batches and deliveries, and an
order of equal lines that does not depend on when they come. What makes two lines equal is said in ``keys``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sust_dagster.agents.ingestor.keys import LineKeys, scramble

#: Runs are merged up to this many keys: a merge needs about 80 bytes per key for a moment.
LARGEST_MERGE = 2_000_000

#: An odd number with well mixed bits: multiples of it lie far apart.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)

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
    start = _starts(high, low)
    return high[start], low[start], np.maximum.reduceat(counts, start)


def _key_order(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Stable order by (high, low). The high part alone decides, unless two keys share it."""
    order = np.argsort(high, kind="stable")
    sorted_high, sorted_low = high[order], low[order]
    if ((sorted_high[1:] == sorted_high[:-1]) & (sorted_low[1:] < sorted_low[:-1])).any():
        return np.lexsort((low, high))
    return order


@dataclass
class Duplicates:
    """Recognises lines that were seen before, over any number of batches and deliveries.

    Lines of one key are numbered as they come. Where they differ in what the key leaves out (two prices of one
    usage), which of them is the first then depends on the order of the rows; ``order`` settles it by content.
    """

    earlier: KeyCounts = field(default_factory=KeyCounts)
    current: KeyCounts = field(default_factory=KeyCounts)
    delivery: int | None = None
    order: ContentOrder | None = None

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
            ordinal[part], duplicate[part] = self._see_one(keys.part(part), delivery)
        return ordinal, duplicate

    def _see_one(self, keys: LineKeys, delivery: int) -> tuple[np.ndarray, np.ndarray]:
        lines = EqualKeys(keys.high, keys.low)
        ordinal = lines.nth(self.current)
        known = np.zeros(len(keys.high), np.int64)
        if self.earlier.runs:
            known = lines.each(self.earlier.count(lines.high, lines.low))
        if self.order is not None:
            ordinal = self.order.ordinals(keys, delivery, ordinal)
        return ordinal, np.where(keys.has_id, (known > 0) | (ordinal > 0), ordinal < known)


@dataclass
class Seen:
    """What an ingestion remembers over its batches: the lines, and how often each refused row came."""

    lines: Duplicates = field(default_factory=Duplicates)
    refused: KeyCounts = field(default_factory=KeyCounts)


class EqualKeys:
    """Rows in groups of equal 128-bit keys: ``high`` and ``low`` of each group, sorted."""

    def __init__(self, high: np.ndarray, low: np.ndarray) -> None:
        self._order = _key_order(high, low)
        high, low = high[self._order], low[self._order]
        self._first = _starts(high, low)
        self._sizes = np.diff(np.append(self._first, len(high)))
        self.high, self.low = high[self._first], low[self._first]

    def nth(self, seen: KeyCounts, offset: np.ndarray | None = None) -> np.ndarray:
        """The number of each row among its equals, from 0 or ``offset`` (one per group) on, after those ``seen``."""
        before = seen.bump(self.high, self.low, self._sizes)
        if offset is not None:
            before = before + offset
        return self.each(before - self._first, np.arange(len(self._order)))

    def each(self, of_group: np.ndarray, of_sorted: np.ndarray | int = 0) -> np.ndarray:
        """A figure per group, plus one per row in sorted order, as one per row in the order given."""
        found = np.empty(len(self._order), np.int64)
        found[self._order] = np.repeat(of_group, self._sizes) + of_sorted
        return found


@dataclass
class ContentOrder:
    """Numbers lines of one key by their content: whatever the order they come in, the result is the same.

    It takes two passes over the same lines. In the first they keep the numbers they came with, and are noted:
    28 bytes per line. :meth:`settle` then says whether any number depended on the order of the rows, which needs
    equal keys of different content in one delivery and is rare; only then is there a reason for a second pass.
    """

    noted: list[tuple[np.ndarray, LineKeys]] = field(default_factory=list)
    repeated: list[np.ndarray] = field(default_factory=list)
    places: KeyCounts | None = None
    seen: KeyCounts = field(default_factory=KeyCounts)

    def ordinals(self, keys: LineKeys, delivery: int, arrived: np.ndarray) -> np.ndarray:
        """The numbers of lines of one delivery; ``arrived`` are those by arrival."""
        assert keys.rest is not None, "the order by content needs keys with the hash of their rest"
        if self.places is None:
            self.noted.append((np.full(len(arrived), delivery, np.int32), keys))
            self.repeated.append(np.unique(keys.high[arrived > 0]))
            return arrived
        lines = EqualKeys(*_with_content(keys.high, keys.low, keys.rest, delivery))
        return lines.nth(self.seen, self.places.count(lines.high, lines.low))

    def settle(self) -> bool:
        """End the first pass; whether a second one would number any line otherwise."""
        self.places = KeyCounts()
        repeated = np.unique(np.concatenate([np.zeros(0, np.uint64), *self.repeated]))
        if not len(repeated):
            return False
        parts = []
        for delivery, keys in self.noted:
            assert keys.rest is not None
            mine = np.isin(keys.high, repeated)
            parts.append((delivery[mine], keys.high[mine], keys.low[mine], keys.rest[mine]))
        delivery, high, low, rest = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        order = np.lexsort((rest, low, high, delivery))
        delivery, high, low, rest = delivery[order], high[order], low[order], rest[order]
        line = _starts(delivery, high, low)
        first = _starts(delivery, high, low, rest)
        place = first - line[np.searchsorted(line, first, side="right") - 1]
        later = first[place > 0]
        if not len(later):
            return False
        where = _with_content(high[later], low[later], rest[later], delivery[later])
        order = _key_order(*where)
        self.places.add((where[0][order], where[1][order], place[place > 0][order].astype(np.int32)))
        return True


def _with_content(
    high: np.ndarray, low: np.ndarray, rest: np.ndarray, delivery: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    """128-bit keys of lines of a delivery by their whole content."""
    salt = scramble(scramble(rest) + np.atleast_1d(delivery).astype(np.uint64) * _SPREAD)
    return scramble(high + salt), scramble(low ^ salt)


def _starts(*columns: np.ndarray) -> np.ndarray:
    """Positions at which a new combination begins in sorted columns."""
    new = np.zeros(len(columns[0]), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(new)

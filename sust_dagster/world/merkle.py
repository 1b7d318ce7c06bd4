"""Merkle trees of RFC 6962: roots, inclusion proofs, consistency proofs, and checking them.

Belongs here: the hashing and nothing else; only Python's standard library, so that a stranger can take this one file
and check a log with it. Does not belong here: what the leaves say (``transparency``), who signs a root
(``checkpoint``).

A leaf hashes as ``SHA-256(0x00 || leaf)``, a node as ``SHA-256(0x01 || left || right)``; a tree of n leaves splits at
the largest power of two below n (RFC 6962 §2.1). The checks are those of RFC 9162 §2.1.3.2 and §2.1.4.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

#: Bytes of a hash.
SIZE = 32
#: Root of the tree without leaves.
EMPTY_ROOT = hashlib.sha256(b"").digest()

_LEAF, _NODE = b"\x00", b"\x01"


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf, 32 bytes."""
    return hashlib.sha256(_LEAF + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node over the hashes of its children, 32 bytes."""
    return hashlib.sha256(_NODE + left + right).digest()


class Tree:
    """A tree over leaf hashes, kept as the hashes of its complete subtrees, level by level.

    A million leaves are 64 MB and a second of hashing; roots of any earlier size and proofs then take microseconds.
    Raises ``ValueError`` for a leaf hash that is not 32 bytes and for sizes and indices that are not in the tree.
    """

    def __init__(self, leaf_hashes: Iterable[bytes] = ()) -> None:
        hashes = list(leaf_hashes)
        if any(len(h) != SIZE for h in hashes):
            raise ValueError(f"a leaf hash has {SIZE} bytes; leaf_hash() makes one of a leaf")
        self.size = len(hashes)
        # _levels[k] holds, end to end, the hashes of the complete subtrees of 2^k leaves.
        self._levels = [b"".join(hashes)]
        sha256, pair = hashlib.sha256, 2 * SIZE
        while len(self._levels[-1]) >= pair:
            below = self._levels[-1]
            whole = len(below) // pair * pair
            self._levels.append(b"".join([sha256(_NODE + below[i : i + pair]).digest() for i in range(0, whole, pair)]))

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf."""
        self._check_index(index, self.size)
        return self._levels[0][index * SIZE : (index + 1) * SIZE]

    def root(self, size: int | None = None) -> bytes:
        """Root of the first ``size`` leaves (default: all), 32 bytes."""
        return self._range(0, self._size(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """The hashes that lead from leaf ``index`` to the root of the first ``size`` leaves, lowest first."""
        size = self._size(size)
        self._check_index(index, size)
        low, high, path = 0, size, []
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return path[::-1]

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """The hashes that show the tree of ``second`` leaves to extend that of the first ``first``, lowest first."""
        second = self._size(second)
        if not 0 <= first <= second:
            raise ValueError(f"no tree of {first} leaves is the beginning of one of {second}")
        if first in (0, second):
            return []
        low, high, path = 0, second, []
        while high != first:
            middle = low + _split(high - low)
            if first <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        if low:
            path.append(self._range(low, high))
        return path[::-1]

    def _range(self, low: int, high: int) -> bytes:
        """Root of the leaves ``[low, high)``, where ``low`` is where a split of the tree would begin one."""
        if low == high:
            return EMPTY_ROOT
        blocks, at = [], low
        for level in range((high - low).bit_length() - 1, -1, -1):
            if (high - low) >> level & 1:
                begin = (at >> level) * SIZE
                blocks.append(self._levels[level][begin : begin + SIZE])
                at += 1 << level
        root = blocks.pop()
        while blocks:
            root = node_hash(blocks.pop(), root)
        return root

    def _size(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")
        return size

    @staticmethod
    def _check_index(index: int, size: int) -> None:
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} in a tree of {size} leaves")


def _split(leaves: int) -> int:
    """The largest power of two below a number of leaves."""
    return 1 << ((leaves - 1).bit_length() - 1)


def root_hash(leaf_hashes: Iterable[bytes]) -> bytes:
    """Root of a tree over these leaf hashes."""
    return Tree(leaf_hashes).root()


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` leads from the leaf hash at ``index`` to ``root`` of a tree of ``size`` leaves."""
    if not 0 <= index < size or any(len(h) != SIZE for h in (leaf, root, *proof)):
        return False
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether ``proof`` shows the tree of ``second`` leaves to begin with that of ``first``."""
    if not 0 <= first <= second or any(len(h) != SIZE for h in (first_root, second_root, *proof)):
        return False
    if first == 0:
        return not proof and first_root == EMPTY_ROOT and (second != 0 or second_root == EMPTY_ROOT)
    if first == second:
        return not proof and first_root == second_root
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root

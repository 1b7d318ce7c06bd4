"""Counter-based random numbers: any cell of any stream alone, in any order, always the same.

Belongs here: the generator and the few distributions built straight on it. A stream is named; its key is the
SHA-256 of (seed, name). A cell is addressed by up to four integers (hour, workload, ordinal, ...), never by how
many numbers were drawn before it, so a range can be split anywhere and two worlds share their random numbers.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11), the one
behind ``numpy.random.Philox``, computed for a whole array of counters at once: numpy's own object draws along
one counter, and building it anew for each cell would cost far more than the draw.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_11 = np.uint64(11)
_MASK64 = (1 << 64) - 1
#: Counters per pass: the working arrays stay in the cache.
_CHUNK = 1 << 14


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()


def word(name: str) -> int:
    """A stable 63-bit number for a name, to address a stream by it rather than by a position in some list."""
    return int.from_bytes(_digest(name)[:8], "little") >> 1


def _mul_hi_lo(multiplier: int, value: Words) -> tuple[Words, Words]:
    """High and low words of the 128-bit product of a constant and an array."""
    a_lo, a_hi = np.uint64(multiplier & 0xFFFFFFFF), np.uint64(multiplier >> 32)
    b_lo, b_hi = value & _LOW32, value >> _32
    middle = b_lo * a_hi + ((b_lo * a_lo) >> _32)
    cross = b_hi * a_lo + (middle & _LOW32)
    high = b_hi * a_hi + (middle >> _32) + (cross >> _32)
    return high, value * np.uint64(multiplier)


def _philox(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        hi0, lo0 = _mul_hi_lo(_MULTIPLIERS[0], c0)
        hi1, lo1 = _mul_hi_lo(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ np.uint64(k0), lo1, hi0 ^ c3 ^ np.uint64(k1), lo0
        k0, k1 = (k0 + _WEYL[0]) & _MASK64, (k1 + _WEYL[1]) & _MASK64
    return c0, c1, c2, c3


def _as_words(values: Any) -> Words:
    # Two's complement, so hours before 1970 are counters too.
    return np.atleast_1d(np.asarray(values, np.int64)).astype(np.uint64)


@dataclass(frozen=True)
class Stream:
    """One named stream of one seed."""

    key: tuple[int, int]

    @classmethod
    def of(cls, seed: int, name: str) -> Stream:
        """The stream ``name`` of ``seed``."""
        digest = _digest(seed, name)
        return cls((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")))

    def words(self, a: Any, b: Any = 0, c: Any = 0, d: Any = 0) -> Words:
        """Four random 64-bit words per cell: shape ``(*broadcast, 4)``.

        ``a, b, c, d`` are integers or integer arrays, broadcast together; at least one dimension is returned.
        The words of a cell are what ``numpy.random.Philox`` of this key gives after advancing to that counter.
        """
        parts = np.broadcast_arrays(*(_as_words(v) for v in (a, b, c, d)))
        shape = parts[0].shape
        flat = [p.reshape(-1) for p in parts]
        n = flat[0].size
        out = np.empty((n, 4), np.uint64)
        for lo in range(0, n, _CHUNK):
            hi = min(lo + _CHUNK, n)
            block = _philox((flat[0][lo:hi], flat[1][lo:hi], flat[2][lo:hi], flat[3][lo:hi]), self.key)
            for k in range(4):
                out[lo:hi, k] = block[k]
        return out.reshape(*shape, 4)

    def uniforms(self, a: Any, b: Any = 0, c: Any = 0, d: Any = 0) -> Floats:
        """Four uniforms in [0, 1) per cell, 53 bits each: shape ``(*broadcast, 4)``."""
        return (self.words(a, b, c, d) >> _11).astype(np.float64) * 2.0**-53

    def normals(self, a: Any, b: Any = 0, c: Any = 0, d: Any = 0) -> Floats:
        """One standard normal per cell: shape ``broadcast``."""
        u = self.uniforms(a, b, c, d)
        return normal(u[..., 0], u[..., 1])


def normal(u1: Floats, u2: Floats) -> Floats:
    """Standard normals from pairs of uniforms in [0, 1) (Box-Muller)."""
    return np.sqrt(-2.0 * np.log1p(-u1)) * np.cos(2.0 * np.pi * u2)


def poisson(u: Floats, mean: Floats) -> NDArray[np.int64]:
    """Poisson counts by inversion of one uniform each.

    ``u`` and ``mean`` have the same shape. Meant for means up to a few tens: the loop runs as many times as the
    largest count.
    """
    count = np.zeros(u.shape, np.int64)
    mass = np.exp(-mean)
    cumulative = mass.copy()
    k = 0
    above = u >= cumulative
    # The tail below 2**-53 of the uniform's resolution ends the loop where the sum of masses stops growing.
    while above.any() and k < 1000:
        k += 1
        count += above
        mass = mass * mean / k
        cumulative = cumulative + mass
        above = above & (u >= cumulative)
    return count

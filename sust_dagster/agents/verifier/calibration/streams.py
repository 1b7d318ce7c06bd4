"""Random numbers of hidden worlds: one stream per name, any stretch of it alone, always the same.

Belongs here: uniforms and standard normals from keyed Philox words. Does not belong here: what is drawn with them.
The streams share no key with the draws of an interval (``uncertainty``), or a world would repeat what the interval
was made of.
"""

from __future__ import annotations

import hashlib

import numpy as np
from scipy.special import ndtri

from sust_dagster.agents.accountant.columns import Floats

#: Words that Philox4x64 gives per counter.
_PER_COUNTER = 4


def uniforms(seed: int, name: str, count: int, start: int = 0) -> Floats:
    """Elements ``start`` to ``start + count`` of the stream ``name`` of ``seed``: uniform, inside (0, 1).

    Philox4x64-10 keyed by the first 16 bytes of SHA-256 of ``"calibration", seed, name`` joined by U+001F.
    """
    digest = hashlib.sha256(f"calibration\x1f{seed}\x1f{name}".encode()).digest()
    philox = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64))
    counter, skip = divmod(start, _PER_COUNTER)
    if counter:
        philox.advance(counter)
    words = philox.random_raw(count + skip)[skip:]
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(seed: int, name: str, count: int, start: int = 0) -> Floats:
    """The same stretch of the same stream as standard normals."""
    return ndtri(uniforms(seed, name, count, start))


def integers(seed: int, name: str, count: int, low: int, high: int) -> np.ndarray:
    """``count`` whole numbers from ``low`` to ``high - 1``, each as likely as any other."""
    return low + np.floor(uniforms(seed, name, count) * (high - low)).astype(np.int64)

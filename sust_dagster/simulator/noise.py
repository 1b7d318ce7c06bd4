"""Weather-like noise that is known at any hour alone.

Belongs here: smooth keyed noise. A recursive process (AR) would need every hour before the wanted one; here each
octave has keyed values at anchor hours and fades from one to the next, so an hour needs its own anchors only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sust_dagster.simulator.clock import Hours
from sust_dagster.simulator.streams import Floats, Stream

#: (anchor spacing in hours, share of the variance): fronts that last days, half days, and hours.
OCTAVES: tuple[tuple[int, float], ...] = ((48, 0.6), (12, 0.3), (4, 0.1))


def smooth_noise(stream: Stream, hours: Hours, lane: int) -> Floats:
    """Autocorrelated Gaussian noise at ``hours``: mean 0, variance 1 at every hour, shape of ``hours``.

    ``lane`` keeps series of one stream apart (say, regions). Anchor values are differences of neighbouring keyed
    normals: they cancel over time as passing weather does, so the mean of a month or a year stays close to 0
    instead of drifting. Anchors fade with equal power (cosine and sine), which with the differences' correlation
    of -1/2 leaves variance ``1 - sin(pi f)/2`` between them; that is divided out.
    """
    total = np.zeros(hours.shape, np.float64)
    if hours.size == 0:
        return total
    for octave, (spacing, share) in enumerate(OCTAVES):
        k, step = np.divmod(hours, spacing)
        first = int(k.min())
        anchors = _differences(stream, first, int(k.max()) + 1, lane, octave)
        f = np.arange(spacing) / spacing
        scale = 1.0 / np.sqrt(1.0 - 0.5 * np.sin(np.pi * f))
        fade_out, fade_in = np.cos(0.5 * np.pi * f) * scale, np.sin(0.5 * np.pi * f) * scale
        at = k - first
        total += np.sqrt(share) * (anchors[at] * fade_out[step] + anchors[at + 1] * fade_in[step])
    return total


def _differences(stream: Stream, first: int, last: int, lane: int, octave: int) -> NDArray[np.float64]:
    """Unit-variance anchor values for anchors ``first..last`` inclusive."""
    z = stream.normals(np.arange(first - 1, last + 1, dtype=np.int64), lane, octave)
    return (z[1:] - z[:-1]) / np.sqrt(2.0)

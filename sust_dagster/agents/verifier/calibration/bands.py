"""What chance alone may do to a share: acceptance bands and intervals.

Belongs here: exact bands of a counted share, and the interval of an observed one. Does not belong here: what was
counted. The unit of counting is the independent draw (a world, a day), never the job.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from scipy.special import ndtri
from scipy.stats import betabinom, binom

#: What an interval of the product states.
NOMINAL = 0.90

#: Share of worlds in which credited grams may exceed the truth: the other side of a one-sided 95 % bound.
OVERCLAIM = 0.05

#: How rarely chance alone may turn down a line that is in order.
ALPHA = 0.001


@dataclass(frozen=True)
class Band:
    """Shares that pass, both ends included."""

    lower: float
    upper: float

    def holds(self, share: float) -> bool:
        return self.lower <= share <= self.upper


def band(n: int, share: float = NOMINAL, *, alpha: float = ALPHA) -> Band:
    """Where the counted share of ``n`` independent draws lies with probability at least 1 - alpha (exact binomial)."""
    return Band(float(binom.ppf(alpha / 2, n, share)) / n, float(binom.ppf(1 - alpha / 2, n, share)) / n)


def ceiling(n: int, share: float = OVERCLAIM, *, alpha: float = ALPHA) -> float:
    """What the counted share of ``n`` independent draws exceeds with probability at most alpha (exact binomial)."""
    return float(binom.ppf(1 - alpha, n, share)) / n


def conformal_ranks(n: int, level: float = NOMINAL) -> tuple[int, int] | None:
    """Ranks (1 = smallest) of the two order statistics of ``n`` scores that hold a new one with ``level``.

    ``ceil((n + 1)(1 - a/2))`` from above and its mirror image from below, a = 1 - level. None where that rank exceeds
    ``n``: a side would be infinite. Vovk, Gammerman & Shafer 2005, section 2.2 (split conformal, both sides).
    """
    tail = (1 - Fraction(level).limit_denominator(10**6)) / 2
    upper = math.ceil((n + 1) * (1 - tail))
    return None if upper > n else (n + 1 - upper, upper)


def fewest_outcomes(level: float = NOMINAL) -> int:
    """The smallest number of scores for which :func:`conformal_ranks` has ranks: 19 at 90 %."""
    return math.ceil(2 / (1 - Fraction(level).limit_denominator(10**6))) - 1


def conformal_band(n_calibration: int, n_test: int, level: float = NOMINAL, *, alpha: float = ALPHA) -> Band:
    """Where the share of ``n_test`` new scores inside a split-conformal interval lies with probability 1 - alpha.

    Exact for scores without ties: given its ``n_calibration`` scores the interval holds a Beta(m, n + 1 - m) share of
    all others, m the ranks between its ends, so the count is beta-binomial. Its variance is about
    0.09 / (n_calibration + 2) + 0.09 / n_test at 90 %.
    """
    ranks = conformal_ranks(n_calibration, level)
    if ranks is None:
        raise ValueError(f"{n_calibration} scores give no interval at {level}: needs {fewest_outcomes(level)}")
    inside = ranks[1] - ranks[0]
    count = betabinom(n_test, inside, n_calibration + 1 - inside)
    return Band(float(count.ppf(alpha / 2)) / n_test, float(count.ppf(1 - alpha / 2)) / n_test)


def wilson(share: float, n: float, *, alpha: float = ALPHA) -> Band:
    """Interval of the true share behind an observed one (Wilson 1927); ``n`` may be an effective number of draws."""
    z = float(ndtri(1 - alpha / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Band(max(middle - half, 0.0), min(middle + half, 1.0))

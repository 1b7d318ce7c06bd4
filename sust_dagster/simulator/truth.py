"""What nobody in the loop may see: the errors between stated figures and the truth, by named factor.

Belongs here: the named factors, the size of their errors, and one documented draw per factor. The truth serves
scoring only (coverage, overclaims); no agent reads it.

Every relative bound ``b`` is read as 95 % log-normal: ``sigma = ln(b) / 1.96``, so the true factor lies within
``[stated / b, stated * b]`` with 95 % probability. A factor is drawn once and shared by everything that uses it:
more jobs do not average it away.

=====================  =====  ==================================================================
factor                 bound  drawn
=====================  =====  ==================================================================
power                  1.42   once; the IT power of every job
pue/<provider>         1.06   once; shared by the provider's sites
pue/<provider>/<reg>   1.04   once per region
grid/<reg>             1.15   once per region; shared by all its hours
grid/<reg>/<hour>      1.10   once per region and hour; 1.20 in hours flagged as estimated
=====================  =====  ==================================================================

Power: 5 W per vCPU stands for published figures of 3.7 to 7.1 W, hence 1.42; the GPU figure shares the factor. The
PUE bounds together keep a true PUE above 1 around the stated 1.1 (below it with 0.4 % probability).

Signs: true power = stated x error, true PUE = stated x error, observed intensity = true intensity x error(s).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.simulator.clock import Hours
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.streams import Floats, Stream, word

POWER_BOUND = 1.42
PUE_PROVIDER_BOUND = 1.06
PUE_REGION_BOUND = 1.04
GRID_SYSTEM_BOUND = 1.15
GRID_HOUR_BOUND = 1.10
GRID_HOUR_ESTIMATED_BOUND = 1.20
#: Share of hours whose signal the provider flags as estimated.
ESTIMATED_SHARE = 0.02


def sigma(bound: float) -> float:
    """Standard deviation of the log of a factor whose 95 % bound is ``bound``."""
    return math.log(bound) / 1.96


@dataclass(frozen=True)
class FactorErrors:
    """The hidden error of every named factor in the world of one seed; all multiply."""

    seed: int

    def _draw(self, key: str, bound: float) -> float:
        return float(np.exp(sigma(bound) * Stream.of(self.seed, "truth").normals(word(key))[0]))

    def power(self) -> float:
        """True over stated IT power."""
        return self._draw("power", POWER_BOUND)

    def pue(self, region: str, provider: str = "aws") -> float:
        """True over stated PUE: the provider's shared error times the site's own."""
        shared = self._draw(f"pue/{provider}", PUE_PROVIDER_BOUND)
        return shared * self._draw(f"pue/{provider}/{region}", PUE_REGION_BOUND)

    def grid_system(self, region: str) -> float:
        """Observed over true intensity, the part all hours of a region share."""
        return self._draw(f"grid/{region}", GRID_SYSTEM_BOUND)

    def grid_hour(self, hours: Hours) -> tuple[Floats, NDArray[np.bool_]]:
        """Observed over true intensity, each hour's own part, and whether the hour is flagged as estimated.

        Both of shape ``(hours, regions)``.
        """
        lanes = np.array([word(r) for r in REGION_IDS], np.int64)
        stream = Stream.of(self.seed, "grid hour error")
        estimated = stream.uniforms(hours[:, None], lanes[None, :], 1)[..., 0] < ESTIMATED_SHARE
        spread = np.where(estimated, sigma(GRID_HOUR_ESTIMATED_BOUND), sigma(GRID_HOUR_BOUND))
        return np.exp(spread * stream.normals(hours[:, None], lanes[None, :], 0)), estimated

    def table(self) -> pa.Table:
        """The drawn factors (but the hourly ones): ``factor_key, bound, sigma, error``."""
        rows: list[tuple[str, float, float]] = [
            ("power", POWER_BOUND, self.power()),
            ("pue/aws", PUE_PROVIDER_BOUND, self._draw("pue/aws", PUE_PROVIDER_BOUND)),
        ]
        for region in REGION_IDS:
            site = f"pue/aws/{region}"
            rows.append((site, PUE_REGION_BOUND, self._draw(site, PUE_REGION_BOUND)))
            rows.append((f"grid/{region}", GRID_SYSTEM_BOUND, self.grid_system(region)))
        return pa.table(
            {
                "factor_key": [key for key, _, _ in rows],
                "bound": [bound for _, bound, _ in rows],
                "sigma": [sigma(bound) for _, bound, _ in rows],
                "error": [error for _, _, error in rows],
            }
        )

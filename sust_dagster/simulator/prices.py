"""Prices: on-demand by region and instance type, spot by the hour with its risk of interruption.

Belongs here: compute prices. Egress is network.py's. On-demand is the instance's us-east-1 price times the
region's price index; spot is 60 to 70 % off, moving slowly by region.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sust_dagster.simulator.clock import Hours, hour_timestamps
from sust_dagster.simulator.columns import pick
from sust_dagster.simulator.instances import INSTANCES
from sust_dagster.simulator.noise import smooth_noise
from sust_dagster.simulator.regions import REGION_IDS, REGIONS
from sust_dagster.simulator.streams import Floats, Stream

#: Mean chance that a spot instance is taken back within an hour.
SPOT_HAZARD_PER_HOUR = 0.02
_DECIMALS = 6


def on_demand_usd_per_hour() -> Floats:
    """On-demand price, shape ``(regions, instances)``, rounded to a micro-dollar."""
    index = np.array([r.price_index for r in REGIONS])
    return np.round(index[:, None] * np.array([x.usd_per_hour for x in INSTANCES])[None, :], _DECIMALS)


@dataclass(frozen=True)
class SpotMarket:
    """The spot market of one seed."""

    seed: int

    def price_share(self, hours: Hours) -> Floats:
        """Spot over on-demand price, 0.30 to 0.40, shape ``(hours, regions)``."""
        return np.round(0.35 + 0.05 * np.tanh(self._tightness(hours)), 4)

    def hazard_per_hour(self, hours: Hours) -> Floats:
        """Chance that a running instance is interrupted in the hour, shape ``(hours, regions)``.

        It moves with the price: 0.5 to 1.5 times 2 %.
        """
        return np.round(SPOT_HAZARD_PER_HOUR * (1.0 + 0.5 * np.tanh(self._tightness(hours))), 6)

    def _tightness(self, hours: Hours) -> Floats:
        stream = Stream.of(self.seed, "spot market")
        return np.column_stack([smooth_noise(stream, hours, lane) for lane in range(len(REGIONS))])


def price_table(seed: int, hours: Hours) -> pa.Table:
    """Prices by hour, region and instance type, sorted in that order.

    Columns: ``ts, region, instance_type, vcpus, on_demand_usd_per_hour, spot_usd_per_hour,
    spot_interruption_per_hour`` (probability).
    """
    market = SpotMarket(seed)
    on_demand = on_demand_usd_per_hour()
    share, hazard = market.price_share(hours), market.hazard_per_hour(hours)
    n_regions, n_types = on_demand.shape
    each = n_regions * n_types
    regions, types = np.divmod(np.arange(hours.size * each, dtype=np.int64) % each, n_types)
    return pa.table(
        {
            "ts": hour_timestamps(np.repeat(hours, each)),
            "region": pick(REGION_IDS, regions),
            "instance_type": pick([x.instance_type for x in INSTANCES], types),
            "vcpus": np.array([float(x.vcpus) for x in INSTANCES])[types],
            "on_demand_usd_per_hour": on_demand[regions, types],
            "spot_usd_per_hour": (share[:, :, None] * on_demand[None, :, :]).reshape(-1),
            "spot_interruption_per_hour": np.repeat(hazard.reshape(-1), n_types),
        }
    )

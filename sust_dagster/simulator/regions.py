"""The five regions of the fake cloud: place, grid, price level.

Belongs here: constants of a region, each with where it comes from. Does not belong here: anything that varies
by hour (carbon.py, prices.py, outages.py) or by pair (network.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """One cloud region.

    ``grid_*_g_per_kwh`` are mean and range of carbon intensity (founding design, section 6). ``solar`` and
    ``wind`` set the day/night swing: solar grids are cleanest at 13:00 local time, wind grids at 02:00, hydro and
    nuclear are flat. ``weather`` is the size of the autocorrelated noise. All three are in units of the logit of
    the position within the range. ``price_index`` is the on-demand price relative to us-east-1.
    """

    region_id: str
    name: str
    continent: str
    utc_offset_hours: float
    grid_zone: str
    grid_mean_g_per_kwh: float
    grid_min_g_per_kwh: float
    grid_max_g_per_kwh: float
    solar: float
    wind: float
    weather: float
    price_index: float


#: Swing and weather were chosen near the hourly 2022 profiles of the zones behind the regions (PJM: 3 % swing and
#: a tenth of weather; Ireland: weather far above its night/day swing; western India: 7 % solar swing).
#: Price indices approximate AWS's public on-demand prices of one general-purpose size (m5.large).
REGIONS: tuple[Region, ...] = (
    Region("us-east-1", "US East (N. Virginia)", "america", -5.0, "US-MIDA-PJM", 350, 250, 450, 0.30, 0.0, 0.5, 1.000),
    Region("us-west-2", "US West (Oregon)", "america", -8.0, "US-NW-PACW", 90, 50, 150, 0.15, 0.0, 0.6, 1.000),
    Region("eu-west-1", "Europe (Ireland)", "europe", 0.0, "IE", 300, 150, 450, 0.0, 0.25, 1.2, 1.115),
    Region("eu-north-1", "Europe (Stockholm)", "europe", 1.0, "SE-SE3", 30, 10, 80, 0.0, 0.20, 0.5, 1.063),
    Region("ap-south-1", "Asia Pacific (Mumbai)", "asia", 5.5, "IN-WE", 700, 600, 800, 0.90, 0.0, 0.6, 1.052),
)

REGION_IDS: tuple[str, ...] = tuple(r.region_id for r in REGIONS)
REGION_INDEX: dict[str, int] = {name: i for i, name in enumerate(REGION_IDS)}


def region_index(region_id: str) -> int:
    """Position of a region; ``ValueError`` names the regions there are."""
    try:
        return REGION_INDEX[region_id]
    except KeyError:
        raise ValueError(f"unknown region {region_id!r}; the fake cloud has {', '.join(REGION_IDS)}") from None

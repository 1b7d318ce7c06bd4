"""Carbon intensity of the grids: the generated truth and the signal people observe.

Belongs here: the generator, the step from truth to observed signal, and their tables. A replayed trace takes the
generator's place through :class:`GridSource` (replay.py).

The generated intensity of a region is

    g = min + (max - min) * logistic(shift + swing(local hour) + weather * noise)

which stays inside the region's range without piling up at its ends. ``shift`` is solved so that the mean over the
hours of the day and the noise is the region's stated mean. Noise is known at any hour alone (noise.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sust_dagster.simulator.clock import DAY_HOURS, Hours, hour_timestamps
from sust_dagster.simulator.columns import pick
from sust_dagster.simulator.noise import smooth_noise
from sust_dagster.simulator.regions import REGION_IDS, REGIONS, Region
from sust_dagster.simulator.streams import Floats, Stream
from sust_dagster.simulator.truth import (
    GRID_HOUR_BOUND,
    GRID_HOUR_ESTIMATED_BOUND,
    GRID_SYSTEM_BOUND,
    FactorErrors,
    sigma,
)

#: Intensities are stated to a milligram, as signals are published rounded.
DECIMALS = 3


@dataclass(frozen=True)
class Signal:
    """An observed signal: arrays of shape ``(hours, regions)``, intensities in g/kWh."""

    intensity: Floats
    lower: Floats
    upper: Floats
    estimated: NDArray[np.bool_]


class GridSource(Protocol):
    """Where intensities come from: generated, or replayed from a trace."""

    @property
    def version(self) -> str:
        """What identifies the source: seed or digest of the trace."""
        ...

    def true_g_per_kwh(self, hours: Hours) -> Floats:
        """Hidden truth, shape ``(hours, regions)``."""
        ...

    def observed(self, hours: Hours) -> Signal:
        """What the loop may see."""
        ...


def _swing(region: Region) -> Floats:
    """Day/night swing by UTC hour of the day: negative is cleaner."""
    local = (np.arange(DAY_HOURS) + 0.5 + region.utc_offset_hours) % DAY_HOURS
    turn = 2.0 * np.pi / DAY_HOURS
    return -region.solar * np.cos(turn * (local - 13.0)) - region.wind * np.cos(turn * (local - 2.0))


def _logistic(x: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-x))


@lru_cache(maxsize=16)
def _shift(region: Region) -> float:
    """The shift that makes the long-run mean the stated one: bisection over Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(48)
    weights = weights / weights.sum()
    spread = _swing(region)[:, None] + region.weather * nodes[None, :]
    wanted = (region.grid_mean_g_per_kwh - region.grid_min_g_per_kwh) / (
        region.grid_max_g_per_kwh - region.grid_min_g_per_kwh
    )
    low, high = -10.0, 10.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        mean = float((_logistic(middle + spread) @ weights).mean())
        low, high = (middle, high) if mean < wanted else (low, middle)
    return 0.5 * (low + high)


def bounds_of(intensity: Floats, estimated: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """95 % bounds of the truth around an observed intensity: region-systematic and hourly error together."""
    normal_hour = math.hypot(sigma(GRID_SYSTEM_BOUND), sigma(GRID_HOUR_BOUND))
    estimated_hour = math.hypot(sigma(GRID_SYSTEM_BOUND), sigma(GRID_HOUR_ESTIMATED_BOUND))
    factor = np.exp(1.96 * np.where(estimated, estimated_hour, normal_hour))
    return np.round(intensity / factor, DECIMALS), np.round(intensity * factor, DECIMALS)


def observation_error(errors: FactorErrors, hours: Hours) -> tuple[Floats, NDArray[np.bool_]]:
    """Observed over true intensity and the estimated flag, each of shape ``(hours, regions)``."""
    hourly, estimated = errors.grid_hour(hours)
    return hourly * np.array([errors.grid_system(r) for r in REGION_IDS]), estimated


@dataclass(frozen=True)
class GeneratedGrid:
    """The generated grids of one seed."""

    seed: int

    @property
    def version(self) -> str:
        return f"seed {self.seed}"

    def true_g_per_kwh(self, hours: Hours) -> Floats:
        """Hidden truth, shape ``(hours, regions)``, g/kWh."""
        stream = Stream.of(self.seed, "weather")
        columns = []
        for lane, region in enumerate(REGIONS):
            x = _shift(region) + _swing(region)[hours % DAY_HOURS]
            x = x + region.weather * smooth_noise(stream, hours, lane)
            span = region.grid_max_g_per_kwh - region.grid_min_g_per_kwh
            columns.append(np.round(region.grid_min_g_per_kwh + span * _logistic(x), DECIMALS))
        return np.column_stack(columns)

    def observed(self, hours: Hours) -> Signal:
        """Truth times the region's and the hour's error, with bounds."""
        error, estimated = observation_error(FactorErrors(self.seed), hours)
        intensity = np.round(self.true_g_per_kwh(hours) * error, DECIMALS)
        return Signal(intensity, *bounds_of(intensity, estimated), estimated)


def _grid_index(hours: Hours) -> tuple[pa.Array, pa.Array]:
    """Columns ts and region of a table with one row per hour and region."""
    n = len(REGION_IDS)
    return hour_timestamps(np.repeat(hours, n)), pick(REGION_IDS, np.tile(np.arange(n), hours.size))


def signal_table(source: GridSource, hours: Hours) -> pa.Table:
    """The observed signal, one row per hour and region, sorted by hour then region.

    Columns: ``ts, region, intensity_g_per_kwh, lower, upper`` (95 %), ``system_rel_lower, system_rel_upper,
    hour_rel_lower, hour_rel_upper`` (factors), ``estimated``.
    """
    signal = source.observed(hours)
    ts, region = _grid_index(hours)
    estimated = signal.estimated.reshape(-1)
    hour_bound = np.where(estimated, GRID_HOUR_ESTIMATED_BOUND, GRID_HOUR_BOUND)
    system_bound = np.full(estimated.shape, GRID_SYSTEM_BOUND)
    return pa.table(
        {
            "ts": ts,
            "region": region,
            "intensity_g_per_kwh": signal.intensity.reshape(-1),
            "lower": signal.lower.reshape(-1),
            "upper": signal.upper.reshape(-1),
            "system_rel_lower": 1.0 / system_bound,
            "system_rel_upper": system_bound,
            "hour_rel_lower": 1.0 / hour_bound,
            "hour_rel_upper": hour_bound,
            "estimated": estimated,
        }
    )


def truth_table(source: GridSource, hours: Hours) -> pa.Table:
    """The hidden truth: ``ts, region, intensity_g_per_kwh``."""
    ts, region = _grid_index(hours)
    return pa.table({"ts": ts, "region": region, "intensity_g_per_kwh": source.true_g_per_kwh(hours).reshape(-1)})

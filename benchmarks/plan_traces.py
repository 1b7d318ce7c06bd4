"""What planning is worth on real grids: run-now, a static table, yesterday, our forecast, perfect foresight.

Run as ``python -m benchmarks.plan_traces [--coupled-days N]``; it needs the traces in ``../shared/data``.

The workload is the founding design's 990 jobs a day (CI 800, batch 50, training 10, dev/test 100, production 30), as
expected work of each kind and hour: arrivals even over the day, lengths at their means, 2.12 W per vCPU and 200 W per
GPU at a PUE of 1.135. Grids are hours of 2022 by zone (life cycle, flow-traced); days are February to December.
Every policy chooses by what it believes, and is judged by what was. Without limits each job is planned at its arrival,
with a forecast issued in that hour. With limits (egress budget, capacity) the day is planned as a whole at 00:00 UTC
by the coupled planner, on every n-th day.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from sust_dagster.agents.planner.choose import plan
from sust_dagster.agents.planner.forecast.models import MODELS, Sight, intensity
from sust_dagster.agents.planner.forecast.series import Series
from sust_dagster.agents.planner.kernels import best_places
from sust_dagster.agents.planner.problem import Limits, Objective, Places, Problem, evaluate, load

TRACES = Path(__file__).parents[2] / "shared/data/traces/electricity_maps_2022_lifecycle_hourly_wide.parquet"
KG = Objective.min_carbon()
#: Hours of 2022 before the first day that is planned; hours a window holds (24 of delay and a 24-hour run).
FIRST_DAY, LAST_DAY, WINDOW = 31, 361, 48
#: Hour since 1970 of 2022-01-01T00:00Z.
EPOCH_HOUR = 455_832

ZONES: Mapping[str, str] = {
    "us-east-1": "US-MIDA-PJM",
    "us-west-2": "US-NW-PACW",
    "eu-west-1": "IE",
    "eu-north-1": "SE-SE3",
    "ap-south-1": "IN-WE",
    "eu-west-2": "GB",
    "eu-central-1": "DE",
}
CONTINENT = {"us": "america", "eu": "europe", "ap": "asia"}
FIVE = ("us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1")

#: Name, regions, homes.
SETS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("5 regions, home us-east-1", FIVE, ("us-east-1",)),
    ("5 regions, homes spread", FIVE, FIVE),
    ("us-east-1 + us-west-2", FIVE[:2], ("us-east-1",)),
    ("4 without eu-north-1", tuple(r for r in FIVE if r != "eu-north-1"), ("us-east-1",)),
    ("EU three, home eu-west-1", ("eu-west-1", "eu-west-2", "eu-central-1"), ("eu-west-1",)),
)


@dataclass(frozen=True)
class Kind:
    """One line of the workload table; ``shares`` are those of the categories."""

    jobs: float
    hours: float
    vcpus: float
    gpus: float
    data_gb: float
    shares: Mapping[str, float]

    @property
    def kw(self) -> float:
        return (self.vcpus * 0.00212 + self.gpus * 0.2) * 1.135


KINDS = (
    Kind(800, 0.2, 4, 0, 0.5, {"balanced": 0.6, "urgent": 0.3, "sustainable": 0.1}),
    Kind(50, 2.0, 16, 0, 30.0, {"balanced": 0.2, "sustainable": 0.8}),
    Kind(10, 6.0, 8, 1, 80.0, {"sustainable": 1.0}),
    Kind(100, 8.0, 2, 0, 4.0, {"sustainable": 1.0}),
    Kind(30, 24.0, 4, 0, 20.0, {"urgent": 1.0}),
)
CATEGORIES = ("urgent", "balanced", "sustainable")
DELAYS = {"urgent": 0, "balanced": 4, "sustainable": 24}


def work(regions: tuple[str, ...], homes: tuple[str, ...], hour: int) -> Problem:
    """Expected work that arrives in one hour of the day, on an empty window."""
    rows = [
        (kind.jobs * share / 24 / len(homes), kind, regions.index(home), CATEGORIES.index(category))
        for kind in KINDS
        for category, share in kind.shares.items()
        for home in homes
    ]
    runs = np.array([r[0] for r in rows])
    kinds, home, category = [r[1] for r in rows], np.array([r[2] for r in rows]), np.array([r[3] for r in rows])
    size = len(regions)
    continent = np.array([CONTINENT[r[:2]] for r in regions])
    allowed = np.ones((len(CATEGORIES) * size, size), bool)
    allowed[:size] = continent[:, None] == continent[None, :]
    price = np.tile(0.02 * (1 - np.eye(size)), (len(CATEGORIES), 1))
    blank = np.zeros_like(price)
    return Problem(
        regions=regions,
        first_hour=0,
        carbon=np.zeros((size, WINDOW)),
        price=np.zeros((size, 1)),
        capacity=np.full((size, WINDOW), np.inf),
        available=np.ones((size, WINDOW), bool),
        places=Places(allowed, price, blank, blank),
        place=category * size + home,
        home=home,
        start_hours=np.full(len(rows), float(hour)),
        duration_hours=np.array([k.hours for k in kinds]),
        kw=runs * np.array([k.kw for k in kinds]),
        vcpus=runs * np.array([k.vcpus for k in kinds]),
        money=np.zeros(len(rows)),
        data_gb=runs * np.array([k.data_gb for k in kinds]),
        max_delay=np.array([DELAYS[CATEGORIES[c]] for c in category]),
    )


#: What each policy knows, by its name in the tables.
POLICIES: Mapping[str, str] = {
    "static table": "means",
    "yesterday": "yesterday",
    "28-day mean": "hour-of-day mean",
    "ours": "ridge",
    "perfect": "truth",
}


class Grid:
    """Hours of 2022 by region, kg per kWh, and what was believed of them; forecasts are made once per zone and hour."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table
        self._days = np.arange(FIRST_DAY, LAST_DAY)

    @cache  # noqa: B019 - one grid lives as long as the process
    def belief(self, region: str, policy: str, hour: int) -> np.ndarray:
        """Days x WINDOW: the hours from each day's issue on, as the policy believes them."""
        values = self._table[ZONES[region]].to_numpy(float) / 1000
        origins = self._days * 24 + hour
        if policy == "truth":
            return values[origins[:, None] + np.arange(WINDOW)]
        if policy == "means":
            return np.full((len(origins), WINDOW), values.mean())
        n = len(values)
        series = Series("", EPOCH_HOUR, values, np.zeros(n, np.int8), np.zeros(n, bool), np.zeros(n, np.int32), ("",))
        logs = MODELS[policy](Sight(series), origins, WINDOW)
        if policy == "ridge":  # as the product does while there is too little history for it
            logs = np.where(np.isnan(logs), MODELS["hour-of-day mean"](Sight(series), origins, WINDOW), logs)
        return intensity(logs)

    def beliefs(self, regions: tuple[str, ...], policy: str, hour: int) -> np.ndarray:
        """Days x regions x WINDOW."""
        return np.stack([self.belief(r, policy, hour) for r in regions], axis=1)


def uncoupled(regions: tuple[str, ...], homes: tuple[str, ...], grid: Grid) -> dict[str, float]:
    """Share of the carbon of running at once at home that each policy saves; every job planned at its arrival."""
    kg = dict.fromkeys(["run-now", *POLICIES], 0.0)
    for hour in range(24):
        truth = np.concatenate(list(grid.beliefs(regions, "truth", hour)), axis=1)
        one = work(regions, homes, 0)
        days = truth.shape[1] // WINDOW
        many = _repeated(one, days, truth)
        kg["run-now"] += evaluate(many, many.home, np.zeros(len(many), np.int64)).kg.sum()
        for name, policy in POLICIES.items():
            belief = np.concatenate(list(grid.beliefs(regions, policy, hour)), axis=1)
            found = best_places(replace(many, carbon=belief), KG)
            kg[name] += evaluate(many, found.region, found.delay).kg.sum()
    return {name: 1 - value / kg["run-now"] for name, value in kg.items() if name != "run-now"}


def _repeated(one: Problem, days: int, carbon: np.ndarray) -> Problem:
    """The same work in each day's window, the windows laid end to end: no run leaves its own."""
    n = len(one)
    size, hours = carbon.shape
    arrays = ("place", "home", "duration_hours", "kw", "vcpus", "money", "data_gb", "max_delay")
    return replace(
        one,
        carbon=carbon,
        capacity=np.full((size, hours), np.inf),
        available=np.ones((size, hours), bool),
        start_hours=np.repeat(np.arange(days) * float(WINDOW), n),
        **{name: np.tile(getattr(one, name), days) for name in arrays},
    )


def coupled(
    regions: tuple[str, ...], homes: tuple[str, ...], grid: Grid, limit: str, every: int
) -> tuple[dict[str, float], float, float]:
    """The same under a limit, each day planned as a whole at 00:00 UTC; largest gap and seconds per plan with it."""
    known = {name: grid.beliefs(regions, policy, 0) for name, policy in POLICIES.items()}
    day = _whole_day(regions, homes)
    kg = dict.fromkeys(["run-now", *known], 0.0)
    worst, plans, began = 0.0, 0, time.perf_counter()
    for at in range(0, LAST_DAY - FIRST_DAY, every):
        truth = _longer(known["perfect"][at])
        limited = _limited(replace(day, carbon=truth), limit)
        kg["run-now"] += evaluate(limited, limited.home, np.zeros(len(limited), np.int64)).kg.sum()
        for name, belief in known.items():
            found = plan(replace(limited, carbon=_longer(belief[at])), KG, effort="quick")
            worst, plans = max(worst, found.gap or 0.0), plans + 1
            kg[name] += evaluate(limited, found.region, found.delay).kg.sum()
    seconds = (time.perf_counter() - began) / plans
    return {name: 1 - value / kg["run-now"] for name, value in kg.items() if name != "run-now"}, worst, seconds


def _longer(window: np.ndarray) -> np.ndarray:
    """A window with its last day repeated: the runs of late arrivals end there, whoever plans them."""
    return np.concatenate([window, window[:, -24:]], axis=1)


def _whole_day(regions: tuple[str, ...], homes: tuple[str, ...]) -> Problem:
    hours = [work(regions, homes, hour) for hour in range(24)]
    size = len(regions)
    arrays = ("place", "home", "start_hours", "duration_hours", "kw", "vcpus", "money", "data_gb", "max_delay")
    return replace(
        hours[0],
        carbon=np.zeros((size, WINDOW + 24)),
        capacity=np.full((size, WINDOW + 24), np.inf),
        available=np.ones((size, WINDOW + 24), bool),
        **{name: np.concatenate([getattr(h, name) for h in hours]) for name in arrays},
    )


def _limited(day: Problem, limit: str) -> Problem:
    """The day under one limit.

    ``egress``: half of what the unlimited plan would spend on moved data. ``capacity``: per region 1.1 times its own
    peak as it is, and at least 15 % of the peak of all.
    """
    none = np.zeros(len(day), np.int64)
    if limit == "egress":
        free = best_places(day, KG)
        spent = evaluate(day, free.region, free.delay).egress_usd.sum()
        return replace(day, limits=Limits(egress_budget_usd=0.5 * float(spent)))
    now = load(day, day.home, none)
    peaks = np.maximum(1.1 * now.max(1), 0.15 * now.sum(0).max())
    return replace(day, capacity=np.repeat(peaks[:, None], day.hours, 1))


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--coupled-days", type=int, default=24, help="days planned under limits")
    days = arguments.parse_args().coupled_days
    if not TRACES.exists():
        print(f"{TRACES} is not here: nothing to measure")
        return
    grid = Grid(pd.read_parquet(TRACES))
    every = max(1, (LAST_DAY - FIRST_DAY) // days)
    for limit in ("none", "egress", "capacity"):
        print(f"\nlimit: {limit}; % less carbon than run-now")
        for name, regions, homes in SETS:
            if limit == "none":
                saved, note = uncoupled(regions, homes, grid), ""
            else:
                saved, gap, seconds = coupled(regions, homes, grid, limit, every)
                note = f"  largest gap {gap:.2%}, {seconds:.2f} s a plan"
            print(f"{name:28s} " + "  ".join(f"{k} {100 * v:6.2f}" for k, v in saved.items()) + note, flush=True)


if __name__ == "__main__":
    main()

"""Does a 90 % interval hold the truth in 90 % of worlds? Hidden factor errors, drawn by name, one world at a time.

The unit of counting is the world, not the job: all jobs of a world share its errors. The accepted bands are those of
alpha = 0.001 at 5,000 worlds. Truth is computed here, by plain sums over hours, and shares no code with the verifier,
nor with the truth of the scorecard (``agents.verifier.calibration``), whose fleets these are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from verifier_cases import (
    FIRST_HOUR,
    START,
    Run,
    claim_table,
    factors_of,
    leakage_table,
    signal_of,
    slice_table,
    verified,
)

from sust_dagster.agents.verifier.calibration.coverage import FLEET_SEED
from sust_dagster.agents.verifier.calibration.fleets import HOURS, REGIONS, stated_grid
from sust_dagster.agents.verifier.calibration.fleets import fleet as moved_jobs
from sust_dagster.agents.verifier.signal import HourlySignal
from sust_dagster.simulator.regions import region_index
from sust_dagster.simulator.truth import (
    GRID_HOUR_BOUND,
    GRID_HOUR_ESTIMATED_BOUND,
    GRID_SYSTEM_BOUND,
    POWER_BOUND,
    PUE_PROVIDER_BOUND,
    PUE_REGION_BOUND,
    FactorErrors,
)

Z95 = 1.959963984540054
WORLDS = 5000
#: 95 % bound of a grid figure as a whole, shared by region and hour in the stated proportion.
GRID_BOUND = 1.2


def true_grid(seed: int = FLEET_SEED) -> dict[str, np.ndarray]:
    """The made-up grid in g/kWh: dirty regions around 560 g, clean ones around 170 g."""
    return {region: 1000 * row for region, row in zip(REGIONS, stated_grid(seed), strict=True)}


def fleet(mix: str, jobs: int, seed: int = FLEET_SEED) -> list[Run]:
    """A made-up fleet as runs."""
    f = moved_jobs(mix, jobs, seed)
    where = [(REGIONS[before], REGIONS[after]) for before, after in zip(f.before, f.after, strict=True)]
    times = zip(f.start.tolist(), f.length.tolist(), f.shift.tolist(), f.kw.tolist(), strict=True)
    return [Run(f"o{i}", *where[i], start, length, shift, kw=kw) for i, (start, length, shift, kw) in enumerate(times)]


def true_savings(runs: list[Run], grid: dict[str, np.ndarray], errors: dict[str, np.ndarray]) -> np.ndarray:
    """Savings of each job in each world, kg, shape (jobs, worlds): plain sums over the hours of the run.

    ``errors`` by factor key, shape (worlds) or, for ``grid/<region>`` hours, (hours, worlds); all multiply.
    """
    out = []
    for run in runs:
        hours = np.arange(int(run.start), int(run.start + run.hours))

        def side(region: str, hours: np.ndarray, kwh: float) -> np.ndarray:
            place = errors["power"] * errors["provider"] * errors[f"site/{region}"] * errors[f"system/{region}"]
            return kwh * place * (grid[region][hours, None] / 1000 * errors[f"hour/{region}"][hours]).sum(axis=0)

        before = side(run.before, hours - int(run.shift_hours), run.kw * run.ratio * run.pue_before)
        out.append(before - side(run.after, hours, run.kw * run.pue_after))
    return np.array(out)


def drawn_errors(worlds: int, system: float, hour: float, seed: int) -> dict[str, np.ndarray]:
    """Log-normal errors of every factor from its 95 % bound."""
    random = np.random.default_rng(seed)

    def draw(bound: float, *shape: int) -> np.ndarray:
        return np.exp(math.log(bound) / Z95 * random.standard_normal((*shape, worlds)))

    errors = {"power": draw(POWER_BOUND), "provider": draw(PUE_PROVIDER_BOUND)}
    for region in REGIONS:
        errors[f"site/{region}"] = draw(PUE_REGION_BOUND)
        errors[f"system/{region}"] = draw(system)
        errors[f"hour/{region}"] = draw(hour, HOURS)
    return errors


class Trial:
    """One fleet, verified once, against many hidden truths."""

    def __init__(self, mix: str, systematic: float, jobs: int = 400, worlds: int = WORLDS) -> None:
        spread = math.log(GRID_BOUND)
        # A bound of exactly 1 is a factor without error.
        system, hour = math.exp(spread * math.sqrt(systematic)), math.exp(spread * math.sqrt(1 - systematic))
        runs, grid = fleet(mix, jobs), true_grid()
        self.result = verified(runs, signal_of(grid, system=system, hour=hour), factors_of(*REGIONS))
        self.truth = true_savings(runs, grid, drawn_errors(worlds, system, hour, seed=1))
        columns = self.result.outcomes
        self.point = -columns["measured_carbon_delta_kg"].to_numpy()
        self.lower, self.upper = -columns["carbon_ci_upper"].to_numpy(), -columns["carbon_ci_lower"].to_numpy()
        self.sd, self.credit = columns["carbon_sd_kg"].to_numpy(), columns["credited_kg"].to_numpy()
        self.box = -columns["carbon_bounds_upper"].to_numpy(), -columns["carbon_bounds_lower"].to_numpy()

    def of_jobs(self, lower: np.ndarray, upper: np.ndarray) -> float:
        return float(((lower[:, None] <= self.truth) & (self.truth <= upper[:, None])).mean())

    def of_portfolio(self, half: float) -> float:
        return float((np.abs(self.truth.sum(axis=0) - self.point.sum()) <= half).mean())

    @property
    def half(self) -> float:
        p = self.result.portfolios.to_pylist()[0]
        return (p["savings_ci_upper"] - p["savings_ci_lower"]) / 2


@cache
def trial(mix: str, systematic: float) -> Trial:
    return Trial(mix, systematic)


MIXES = [
    ("one-way", 1.0), ("one route", 1.0), ("both ways", 1.0), ("in time", 1.0),
    ("one-way", 0.5), ("both ways", 0.5), ("in time", 0.5), ("one-way", 0.0), ("in time", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("mix", "systematic"), MIXES)
def test_ninety_per_cent_is_ninety_per_cent(mix, systematic):
    t = trial(mix, systematic)
    assert 0.886 <= t.of_jobs(t.lower, t.upper) <= 0.914
    assert 0.886 <= t.of_portfolio(t.half) <= 0.914


@pytest.mark.parametrize("systematic", [1.0, 0.0])
def test_a_loss_is_not_understated(systematic):
    """A log-normal error makes a loss skew towards a larger loss: its credit has a bound of its own."""
    t = trial("in time, the wrong way", systematic)
    total = t.truth.sum(axis=0)
    assert t.point.sum() < 0
    assert 0.886 <= t.of_portfolio(t.half) <= 0.914
    assert (total < t.credit.sum()).mean() <= 0.055
    # Negative control: the lower end of the symmetric interval, credited, is an overclaim too often.
    assert (total < t.point.sum() - t.half).mean() > 0.06


@pytest.mark.parametrize(("mix", "systematic"), MIXES)
def test_credited_grams_are_rarely_an_overclaim(mix, systematic):
    t = trial(mix, systematic)
    total = t.truth.sum(axis=0)
    assert (total < t.credit.sum()).mean() <= 0.055
    # Negative control: claiming the point overclaims in half of all worlds.
    assert 0.45 <= (total < t.point.sum()).mean() <= 0.55


@pytest.mark.parametrize(
    ("mix", "systematic"), [("one-way", 1.0), ("one route", 1.0), ("one-way", 0.5), ("one-way", 0.0)]
)
def test_quadrature_over_jobs_is_found_out(mix, systematic):
    """Negative control: treating jobs as independent holds the truth in less than a fifth of the worlds."""
    t = trial(mix, systematic)
    assert t.of_portfolio(1.6448536 * math.sqrt((t.sd**2).sum())) < 0.2


@pytest.mark.parametrize("systematic", [1.0, 0.5, 0.0])
def test_the_box_is_no_interval_of_ninety_per_cent(systematic):
    """Negative control: the guaranteed box, read as an interval, covers far more and is far wider."""
    for mix in ("one-way", "in time"):
        if (mix, systematic) not in MIXES:
            continue
        t = trial(mix, systematic)
        assert t.of_jobs(*t.box) > 0.97
        assert (t.box[1] - t.box[0]).sum() > 1.5 * (t.upper - t.lower).sum()
        total = t.truth.sum(axis=0)
        assert ((t.box[0].sum() <= total) & (total <= t.box[1].sum())).mean() > 0.97


def test_adding_up_job_intervals_is_too_wide_where_errors_cancel():
    t = trial("both ways", 1.0)
    assert ((t.upper - t.lower) / 2).sum() > 3 * t.half


# The simulator's own truth: observed signal = truth x error, a world at a time, through the whole calculation. -------


def observed(grid: dict[str, np.ndarray], errors: FactorErrors) -> HourlySignal:
    """What the provider of the signal reports in the world of these errors, with its stated boxes."""
    hour, estimated = errors.grid_hour(np.arange(FIRST_HOUR, FIRST_HOUR + HOURS))
    rows = [region_index(r) for r in REGIONS]
    shared = np.array([errors.grid_system(r) for r in REGIONS])
    values = np.array([grid[r] for r in REGIONS]) / 1000 * shared[:, None] * hour[:, rows].T
    bound = np.where(estimated[:, rows].T, GRID_HOUR_ESTIMATED_BOUND, GRID_HOUR_BOUND)
    full = np.full(values.shape, GRID_SYSTEM_BOUND)
    flags = estimated[:, rows].T
    return HourlySignal("average", "lifecycle", REGIONS, FIRST_HOUR, values, flags, 1 / full, full, 1 / bound, bound)


def coverage_of_the_simulated_truth(worlds: int) -> tuple[float, float, float]:
    """(jobs, portfolio, overclaim) over worlds of the simulator's hidden errors."""
    runs, grid = fleet("one-way", 12) + fleet("in time", 12, seed=10), true_grid()
    runs = [replace(r, outcome=f"o{i}") for i, r in enumerate(runs)]
    one = np.ones(1)
    flat: dict[str, np.ndarray] = {f"{k}/{r}": one for k in ("site", "system") for r in REGIONS}
    flat |= {f"hour/{r}": np.ones((HOURS, 1)) for r in REGIONS}
    names = [r.outcome for r in runs]
    tables = {"slices": slice_table(runs), "claims": claim_table(names), "leakage": leakage_table(names)}
    inside, held, over = [], [], []
    for seed in range(worlds):
        errors = FactorErrors(seed)
        signal = observed(grid, errors)
        shared = errors.pue(REGIONS[0])
        sites = {f"site/{r}": np.array([errors.pue(r) / shared]) for r in REGIONS}
        truth = true_savings(
            runs, grid, flat | {"power": np.array([errors.power()]), "provider": np.array([shared])} | sites
        )
        result = verified(runs, signal, factors_of(*REGIONS), draws=400, **tables)
        columns, total, truth = result.outcomes, result.portfolios.to_pylist()[0], truth[:, 0]
        delta_low, delta_high = columns["carbon_ci_lower"].to_numpy(), columns["carbon_ci_upper"].to_numpy()
        inside.append(((delta_low <= -truth) & (-truth <= delta_high)).mean())
        held.append(total["savings_ci_lower"] <= truth.sum() <= total["savings_ci_upper"])
        over.append(truth.sum() < total["credited_kg"])
    return float(np.mean(inside)), float(np.mean(held)), float(np.mean(over))


def test_coverage_of_the_simulated_truth_500_worlds():
    jobs, portfolio, over = coverage_of_the_simulated_truth(500)
    # alpha = 0.001 at 500 worlds
    assert 0.856 <= jobs <= 0.944
    assert 0.856 <= portfolio <= 0.944
    assert over <= 0.085


@pytest.mark.slow
def test_coverage_of_the_simulated_truth_5000_worlds():
    jobs, portfolio, over = coverage_of_the_simulated_truth(5000)
    assert 0.886 <= jobs <= 0.914
    assert 0.886 <= portfolio <= 0.914
    assert over <= 0.055


@pytest.mark.parametrize("picked", [False, True], ids=["any moves", "moves that look good"])
def test_a_fleet_that_saves_nothing_earns_nothing(picked):
    """Both regions are truly alike; what differs is the error of their figures. Picking by it earns nothing either."""
    credited, first_design, size = [], [], []
    random = np.random.default_rng(21)
    level = np.full(HOURS, 300.0) + np.tile([-1.0, 1.0], HOURS // 2)
    for _ in range(120):
        report = {
            r: level
            * math.exp(math.log(GRID_SYSTEM_BOUND) / Z95 * random.standard_normal())
            * np.exp(math.log(GRID_HOUR_BOUND) / Z95 * random.standard_normal(HOURS))
            for r in ("A", "B")
        }
        runs = []
        for i in range(8):
            start, where = int(random.integers(0, HOURS - 3)), ["A", "B"]
            look = [report[r][start : start + 2].sum() for r in where]
            if random.random() < 0.5 if not picked else look[0] < look[1]:
                where.reverse()
            runs.append(Run(f"o{i}", where[0], where[1], start, 2))
        claims = claim_table([r.outcome for r in runs], executed_on=START)
        rows = verified(runs, signal_of(report), claims=claims, draws=60).outcomes.to_pylist()
        credited.append(sum(r["credited_kg"] for r in rows))
        # Negative control: the founding rule pays half of every positive point, and takes nothing back.
        first_design.append(sum(0.5 * max(-r["measured_carbon_delta_kg"], 0.0) for r in rows))
        size.append(sum(r["counterfactual_carbon_kg"] for r in rows))
    error = np.std(credited) / math.sqrt(len(credited))
    assert np.mean(credited) + 3 * error < 0
    assert np.mean(first_design) > 0.01 * np.mean(size)

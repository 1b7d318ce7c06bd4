"""How fast a portfolio's interval is, next to a plain numpy pass over the same sensitivities.

Run as ``python -m benchmarks.portfolio_interval [jobs ...]``; the default is one million jobs, up to eight named
factors each.

The plain pass squares and adds the scaled sensitivities once: what quadrature over jobs would do, which is wrong but
touches every number once. Intervals are made for the whole fleet and by team and month; credits by team and month.
The last line makes the sensitivities themselves from metered slices (one per job), which is done once per outcome.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from sust_dagster.agents.accountant import NamedFactor
from sust_dagster.agents.verifier import HourlySignal
from sust_dagster.agents.verifier.counterfactual import Slices, cut
from sust_dagster.agents.verifier.credit import euler_credits
from sust_dagster.agents.verifier.sensitivity import LeakageTerms, Sensitivities, sensitivities, terms
from sust_dagster.agents.verifier.uncertainty import Z90, portfolios

REGIONS, HOURS, TEAMS, MONTHS = 10, 720, 40, 6
NAMES = ("power/simple/v1", "pue/simple/v1/aws", *(f"pue/simple/v1/aws/r{i}" for i in range(REGIONS)))


def fleet(jobs: int, seed: int = 5) -> tuple[Slices, HourlySignal]:
    """Jobs of one hour each, moved in time and from the dirtier half of the regions to the cleaner."""
    random = np.random.default_rng(seed)
    before, after = random.integers(0, REGIONS // 2, jobs), random.integers(REGIONS // 2, REGIONS, jobs)
    hour, shift = random.integers(24, HOURS, jobs), random.integers(0, 24, jobs)
    none = np.full(jobs, -1)
    zero = np.zeros(jobs, np.int64)
    keys = [np.stack([zero, zero + 1, region + 2, none], axis=1) for region in (before, after)]
    slices = Slices(
        jobs, np.arange(jobs), np.arange(jobs), hour * 3_600_000_000, (hour + 1) * 3_600_000_000,
        random.lognormal(0, 1, jobs), np.ones(jobs), before, after, shift * 3_600_000_000,
        np.full(jobs, 1.1), np.full(jobs, 1.1), keys[0], keys[1], NAMES,
    )  # fmt: skip
    full = np.ones((REGIONS, HOURS))
    dirtier = np.where(np.arange(REGIONS) < REGIONS // 2, 0.4, 0.0)[:, None]
    signal = HourlySignal(
        "average", "lifecycle", tuple(f"r{i}" for i in range(REGIONS)), 0,
        random.uniform(0.02, 0.3, full.shape) + dirtier, full < 0, full * 0.8, full * 1.25, full * 0.95, full * 1.05,
    )  # fmt: skip
    return slices, signal


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few goes."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def run(jobs: int) -> None:
    """One size: prints the figures."""
    slices, signal = fleet(jobs)
    factors = {name: NamedFactor(name, 1 / 1.2, 1.2, "95% lognormal") for name in NAMES}
    empty = np.empty(0, np.int64)

    def make() -> tuple[np.ndarray, Sensitivities]:
        pieces = cut(slices, signal)
        leak = LeakageTerms(empty, np.empty(0), empty, empty)
        return pieces.counterfactual_kg - pieces.actual_kg, sensitivities(terms(pieces, slices, leak, signal, factors))

    start = time.perf_counter()
    savings, s = make()
    made = time.perf_counter() - start
    outcome, key, scaled, keys = s.outcome, s.key, s.scaled_kg, len(s.keys)
    random = np.random.default_rng(6)
    whole, team_month = np.zeros(jobs, np.int64), random.integers(0, TEAMS * MONTHS, jobs)

    def plain() -> float:
        return Z90 * float(np.sqrt((scaled**2).sum()))

    def fleet_interval() -> object:
        return portfolios(savings, whole, 1, outcome, key, scaled, keys)

    def by_team() -> object:
        return portfolios(savings, team_month, TEAMS * MONTHS, outcome, key, scaled, keys)

    def credits_by_team() -> object:
        total = portfolios(savings, team_month, TEAMS * MONTHS, outcome, key, scaled, keys)
        return euler_credits(savings, team_month, outcome, scaled, total)

    base = seconds(plain)
    print(f"{jobs:>11,} jobs  {len(scaled):>11,} sensitivities of {keys:,} factors  plain numpy pass {base:.3f} s")
    for name, work in (
        ("one interval", fleet_interval),
        (f"{TEAMS * MONTHS} team-month intervals", by_team),
        ("the same with credits", credits_by_team),
    ):
        spent = seconds(work)
        print(
            f"    {name:28} {spent:7.3f} s  {jobs / spent:>12,.0f} jobs/s  ratio to the plain pass {spent / base:6.1f}"
        )
    total = portfolios(savings, whole, 1, outcome, key, scaled, keys)
    print(
        f"    half-width {Z90 * total.sd[0] / abs(total.savings[0]):.1%} of the saving, by quadrature "
        f"{plain() / abs(total.savings[0]):.2%};  making the sensitivities {made:.2f} s",
        flush=True,
    )


def main(sizes: tuple[int, ...] = (1_000_000,)) -> None:
    """Print seconds, jobs/s and the ratio to a plain numpy pass, per size."""
    for jobs in sizes:
        run(jobs)


if __name__ == "__main__":
    main(tuple(int(a.replace("_", "")) for a in sys.argv[1:]) or (1_000_000,))

"""What planning under binding capacity costs and proves: seconds, proven gap, memory, next to greedy planners.

Run as ``python -m benchmarks.plan_scale [--only NAME] [--jobs N]``; without the traces of ``../shared/data`` the grid
is made up, and the first line says so.

One day's jobs of the founding design's kinds (CI, batch, training, dev/test, production) arrive over 24 hours in five
regions (homes 50/10/20/5/15 %) and may start up to 24 hours late in any of them; the objective is carbon. A region may
hold 1.1 times its own peak, and at least 15 % of the peak of all, so that the clean regions are full. Cases:

* ``day``: the seed's 990 jobs, all different: few jobs are the hard size, one job fills a good part of a region.
* ``classes``: N jobs that are equal but for kind, category, home and hour of arrival: about a thousand classes.
* ``different``: N jobs, each with a length, size and start of its own.

The gap is (plan - proven lower bound) / plan, in carbon. Peers on the same arrays: all jobs in order of arrival, each
to its cleanest place with room (first come, first served); the same with the least movable first; and every job at its
cleanest place whatever the capacity, which no cloud could run. The plain peer of the seconds is one pass over the bytes
of the arrays, as in ``plan_rules``.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.plan_rules import TRACES, arrays, best, plain_pass
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.choose import plan
from sust_dagster.agents.planner.core import core_of, overloads
from sust_dagster.agents.planner.moves import State, jobs_of, sweep, tables_of
from sust_dagster.agents.planner.problem import Floats, Ints, Objective, Places, Problem, evaluate, load
from sust_dagster.agents.planner.rules import plan_rules

KG = Objective.min_carbon()
REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "eu-north-1", "ap-south-1")
ZONES = ("US-MIDA-PJM", "US-NW-PACW", "IE", "SE-SE3", "IN-WE")
HOMES = (0.50, 0.10, 0.20, 0.05, 0.15)
#: Hour of 2022 the day begins in (1 July), and the hours a plan may use: 24 of arrivals, 24 of delay, 24 of running.
FIRST, HOURS = 181 * 24, 72
#: Jobs a day, hours, vCPUs, GPUs, category shares (urgent 0 h, balanced 4 h, sustainable 24 h): the seed's table.
KINDS = (
    (800, 0.2, 4, 0, ((0, 0.3), (4, 0.6), (24, 0.1))),
    (50, 2.0, 16, 0, ((4, 0.2), (24, 0.8))),
    (10, 6.0, 8, 1, ((24, 1.0),)),
    (100, 8.0, 2, 0, ((24, 1.0),)),
    (30, 24.0, 4, 0, ((0, 1.0),)),
)
#: Case, jobs, effort, and the targets it is held against: seconds and gap.
CASES = (
    ("day", 990, "normal", "60 s, 3 %"),
    ("day", 990, "quick", ""),
    ("classes", 1_000_000, "normal", "10 s, 0.1 %"),
    ("different", 100_000, "normal", "20 s, 0.4 %"),
    ("different", 1_000_000, "normal", "60 s, 0.5 %"),
)


def intensities() -> tuple[Floats, str]:
    """Regions x HOURS kg per facility kWh."""
    if not TRACES.is_file():
        values = np.random.default_rng(1).uniform(0.02, 0.8, (len(ZONES), HOURS))
        return values, "made-up intensities (the traces are not there)"
    import pandas as pd

    table = pd.read_parquet(TRACES, columns=list(ZONES))
    return table.to_numpy(float).T[:, FIRST : FIRST + HOURS] / 1000, f"1 July 2022 of {TRACES.name}"


def day_of(n: int, carbon: Floats, *, different: bool, seed: int = 7) -> Problem:
    """``n`` jobs of one day; ``different`` gives each its own start, length and size."""
    random = np.random.default_rng(seed)
    rows = [
        (count * share, hours, vcpus, gpus, delay)
        for count, hours, vcpus, gpus, shares in KINDS
        for delay, share in shares
    ]
    parts = np.array([r[0] for r in rows])
    kind = random.choice(len(rows), n, p=parts / parts.sum())
    hours, vcpus, gpus, delay = (np.array([r[k] for r in rows], float)[kind] for k in (1, 2, 3, 4))
    start = random.uniform(0, 24, n)
    if different:
        hours = np.minimum(hours * random.lognormal(-0.08, 0.4, n), 24.0)
        vcpus = np.maximum(np.round(vcpus * random.lognormal(0.0, 0.3, n) * 4) / 4, 0.25)
    else:
        start = np.floor(start)
    size = len(REGIONS)
    home = random.choice(size, n, p=HOMES)
    blank = np.zeros((size, size))
    problem = Problem(
        regions=REGIONS,
        first_hour=455_832 + FIRST,
        carbon=carbon * 1.1,
        price=np.ones((size, 1)),
        capacity=np.full((size, HOURS), np.inf),
        available=np.ones((size, HOURS), bool),
        places=Places(np.ones((size, size), bool), blank, blank, blank),
        place=home,
        home=home,
        start_hours=start,
        duration_hours=hours,
        kw=vcpus * 0.005 + gpus * 0.3,
        vcpus=vcpus,
        money=vcpus,
        data_gb=np.zeros(n),
        max_delay=delay.astype(np.int64),
    )
    now = load(problem, home, np.zeros(n, np.int64))
    caps = np.maximum(1.1 * now.max(1), 0.15 * now.sum(0).max())
    return replace(problem, capacity=np.repeat(caps[:, None], HOURS, 1))


def greedy(problem: Problem, order: Ints) -> float:
    """kg of a planner that takes each job in turn to its cleanest place with room."""
    core = core_of(problem, KG)
    state = State.empty(core)
    free = tables_of(core, KG, np.zeros(core.problem.capacity.size + 2 + len(REGIONS)))
    rank = np.empty(len(problem), np.int64)
    rank[order] = np.arange(len(problem))
    sweep(core, jobs_of(core), free, state, np.argsort(rank[core.jobs], kind="stable"))
    region = np.where(state.placed, state.region, core.problem.home)
    delay = np.where(state.placed, state.delay, -core.earliest)
    regions, delays = core.whole(region, delay)
    return float(np.nansum(evaluate(problem, regions, delays).kg))


def run(case: str, n: int, effort: str, target: str) -> None:
    """One case: prints its figures."""
    carbon, source = intensities()
    problem = day_of(n, carbon, different=case != "classes")
    plan(day_of(2_000, carbon, different=case != "classes"), KG, effort="quick")  # compiles
    began = time.perf_counter()
    made = plan(problem, KG, effort=effort)
    seconds = time.perf_counter() - began
    now = float(evaluate(problem, problem.home, np.zeros(n, np.int64)).kg.sum())
    free = plan_rules(problem, KG)
    over = np.maximum(load(problem, free.region, free.delay) - problem.capacity, 0.0)
    too_much = over.sum() / (problem.vcpus * problem.duration_hours).sum()
    arrival = greedy(problem, np.argsort(problem.start_hours, kind="stable"))
    urgent = greedy(problem, np.lexsort((problem.start_hours, problem.max_delay)))
    plain = best(lambda: plain_pass(problem), 3)
    held = load(problem, made.region, made.delay)
    broken = violations(problem, made.region, made.delay).num_rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    asked = f" (asked: {target})" if target else ""
    print(
        f"{case:<10}{n:>10,} jobs, {effort}: {seconds:6.2f} s, gap {made.carbon_gap:.3%}{asked}; {made.formulation}; "
        f"{seconds / plain:,.0f} plain passes of {sum(a.nbytes for a in arrays(problem)) / 1e6:,.0f} MB\n"
        f"    kg less than run-now: plan {1 - made.objective / now:.2%}, bound {1 - made.lower_bound / now:.2%}, "
        f"first come {1 - arrival / now:.2%}, least movable first {1 - urgent / now:.2%}; "
        f"without capacity {1 - free.objective / now:.2%}, with {too_much:.0%} of its vCPU-hours beyond capacity\n"
        f"    limits broken: {broken}; hours full to 99 %: {(held > 0.99 * problem.capacity).mean():.0%}; overloaded "
        f"{int(overloads(problem, held).sum())}; peak {peak:.2f} GB; "
        f"{source}",
        flush=True,
    )


def main() -> None:
    """Each case in a process of its own, so that its peak memory is its own."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--only", choices=sorted({c[0] for c in CASES}), help="one case")
    arguments.add_argument("--jobs", type=int, help="this many jobs in place of each case's own")
    arguments.add_argument("--case", type=int, help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.case is not None:
        case, n, effort, target = CASES[asked.case]
        run(case, asked.jobs or n, effort, target)
        return
    for at, (case, *_) in enumerate(CASES):
        if asked.only in (None, case):
            size = ["--jobs", str(asked.jobs)] if asked.jobs else []
            command = [sys.executable, "-m", "benchmarks.plan_scale", "--case", str(at), *size]
            subprocess.run(command, check=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    main()

"""How fast the exact planner is where nothing couples jobs, next to one plain pass over the same bytes.

Run as ``python -m benchmarks.plan_rules [jobs ...]``; the default is one million jobs.

Every job is different (length, size, arrival, data) and may go to any of 30 regions at any of 25 starts. The plain peer
reads each array of the problem once and writes as many bytes as the plan has, with no arithmetic but a sum. Both are
the best of several runs, after one that compiles. "Regions mixed" deals each hour's intensities out anew among the
regions, so that none is clean throughout and none can be passed over unlooked at: the search's worst case.
Intensities are real hours of 2022 where the traces are there (``../shared/data``), else made up; the first line says
which.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sust_dagster import reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.planner import tables
from sust_dagster.agents.planner.candidates import Candidates, Power, World, candidates
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.jobs import read_jobs
from sust_dagster.agents.planner.outcome import Choice, plan_table
from sust_dagster.agents.planner.problem import Objective, Problem
from sust_dagster.agents.planner.rules import plan_rules
from sust_dagster.agents.planner.windows import Pairs, Regions
from sust_dagster.connectors.grid import FileGrid, hourly, open_grid
from sust_dagster.world.schemas import TIMESTAMP

TRACES = Path(__file__).parents[2] / "shared/data/traces/electricity_maps_2022_lifecycle_hourly_wide.parquet"
REGIONS = 30
FIRST_HOUR = 455_832 + 24 * 31  # 2022-02-01T00:00Z
HOURS = 96
HOUR_US = 3_600_000_000


def regions_and_intensities() -> tuple[tuple[str, ...], np.ndarray, str]:
    """30 regions (AWS first) and their kg/kWh of four days in February 2022."""
    known = reference.regions()
    everywhere = tuple(known["region"].to_pylist())
    if not TRACES.is_file():
        names = everywhere[:REGIONS]
        values = np.random.default_rng(1).uniform(0.02, 0.8, (REGIONS, HOURS))
        return names, values, "made-up intensities (the traces are not there)"
    source = open_grid(TRACES)
    assert isinstance(source, FileGrid)
    names = tuple(islice((r for r in everywhere if source.holds(r)), REGIONS))
    axes = tables.Axes(names, FIRST_HOUR, HOURS)
    start, end = (np.datetime64(h, "h").astype("datetime64[us]").item() for h in (FIRST_HOUR, FIRST_HOUR + HOURS))
    rows = hourly(source, start.replace(tzinfo=UTC), end.replace(tzinfo=UTC), names, gap_policy="flag_missing").table
    return names, tables.hourly(rows, "intensity_kgco2_kwh", axes), f"Electricity Maps hours of 2022, {TRACES.name}"


def jobs_table(n: int, regions: tuple[str, ...], seed: int = 3) -> pa.Table:
    """Jobs of the sustainable category, all different."""
    random = np.random.default_rng(seed)

    def words(values: tuple[str, ...], codes: np.ndarray) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(values)).cast(pa.string())

    one = np.zeros(n)
    start = FIRST_HOUR * HOUR_US + (random.uniform(0, 24, n) * 3600).astype(np.int64) * 1_000_000
    return pa.table(
        {
            "job_id": pa.array(np.char.add("job-", np.char.zfill(np.arange(n).astype("U9"), 9))),
            "workload_id": words(tuple(f"w{i}" for i in range(60)), random.integers(0, 60, n)),
            "team_id": words(("a", "b", "c"), random.integers(0, 3, n)),
            "cloud_provider": words(("aws",), one),
            "region": words(regions, random.integers(0, len(regions), n)),
            "category": words(("sustainable",), one),
            "requested_start": pa.array(start).cast(TIMESTAMP),
            "duration_hours": np.clip(random.lognormal(0.3, 1.0, n), 0.05, 24.0),
            "vcpus": random.integers(1, 33, n).astype(float),
            "gpus": random.integers(0, 2, n).astype(float),
            "data_gb": random.lognormal(-3, 2, n),
            "cost_usd": random.uniform(0.01, 20.0, n),
        }
    )


def best(work: Callable[[], object], times: int = 5) -> float:
    """Least seconds of several runs."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def arrays(problem: Problem) -> list[np.ndarray]:
    own = [getattr(problem, f.name) for f in dataclasses.fields(problem)]
    places = [getattr(problem.places, f.name) for f in dataclasses.fields(problem.places)]
    return [a for a in (*own, *places) if isinstance(a, np.ndarray)]


def plain_pass(problem: Problem) -> None:
    """Read every array once, write what a plan has: region, delay and score."""
    for array in arrays(problem):
        array.sum()
    for kind in (np.int64, np.int64, np.float64):
        np.zeros(len(problem), kind).fill(1)


def run(n: int) -> None:
    """One size: prints the figures."""
    names, intensity, source = regions_and_intensities()
    facts = Regions.of(names, reference.regions())
    world = World(facts, FIRST_HOUR, intensity, Pairs(tables.egress(None, names), tables.latency(None, names)))
    power = Power.simple(FactorSet.from_table(reference.shipped_factors()))
    table = jobs_table(n, names)
    made: list[Candidates] = []

    def make() -> None:
        made[:] = [candidates(read_jobs(table), world, power)]

    preparing = best(make, 2)
    problem = made[0].problem
    tried = len(names) * int(problem.max_delay.max() + 1)
    print(f"{n:,} jobs, {len(names)} regions x {tried // len(names)} starts, {os.cpu_count()} cores; {source}")
    plain = best(lambda: plain_pass(problem))
    megabytes = sum(a.nbytes for a in arrays(problem)) / 1e6
    mixed = dataclasses.replace(problem, carbon=np.random.default_rng(5).permuted(problem.carbon, axis=0))
    cases = (
        ("min-carbon", problem, Objective.min_carbon()),
        ("min-carbon, regions mixed", mixed, Objective.min_carbon()),
        ("effective-cost", problem, Objective.effective_cost(75.0)),
    )
    for name, case, objective in cases:
        plan = plan_rules(case, objective)
        spent = best(lambda case=case, objective=objective: plan_rules(case, objective))
        print(
            f"  {name:<26} {spent:6.3f} s  {n * tried / spent / 1e6:>9,.0f} million places/s  "
            f"ratio to one plain pass over {megabytes:,.0f} MB ({plain:.3f} s): {spent / plain:.1f}  "
            f"score {plan.objective:,.2f}  moved {int(((plan.region != problem.home) | (plan.delay > 0)).sum()):,}"
        )
    choice = Choice(problem, cases[-1][2], plan.region, plan.delay, np.zeros(n, np.uint8))
    rows = best(lambda: plan_table(made[0], choice, 75.0), 2)
    check = best(lambda: violations(problem, plan.region, plan.delay), 1)
    with tempfile.TemporaryDirectory() as folder:
        written = plan_table(made[0], choice, 75.0)
        writing = best(lambda: pq.write_table(written, Path(folder) / "plan.parquet", compression="zstd"), 1)
    print(
        f"  jobs table to arrays {preparing:.2f} s, plan to rows {rows:.2f} s, Parquet {writing:.2f} s, "
        f"independent replay {check:.2f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2:.2f} GB",
        flush=True,
    )


def main(sizes: tuple[int, ...] = (1_000_000,)) -> None:
    """Print seconds, places per second and the ratio to a plain pass, per size."""
    for n in sizes:
        run(n)


if __name__ == "__main__":
    main(tuple(int(a.replace("_", "")) for a in sys.argv[1:]) or (1_000_000,))

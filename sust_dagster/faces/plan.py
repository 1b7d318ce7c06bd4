"""`sust plan`: from plain files to a plan of every job, its summary, and the frontier.

Belongs here: the order of the steps and the files written. Does not belong here: reading (``plan_inputs``), planning
(``agents.planner``), what is said of the plan (``plan_summary``), drawing (``frontier_chart``).

A plan is replayed by the independent checker before it is written; one that breaks a limit is never written.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
from rich.progress import Progress

from sust_dagster.agents.planner.candidates import INPUT_REASONS
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.choose import plan as choose_plan
from sust_dagster.agents.planner.frontier import Solve, frontier
from sust_dagster.agents.planner.outcome import Choice, plan_table, word, words_of
from sust_dagster.agents.planner.problem import TIE, Objective, Plan, Problem
from sust_dagster.agents.planner.replay import replay
from sust_dagster.agents.planner.robust import Robust, robust_choice
from sust_dagster.agents.planner.sensitivity import sensitivity
from sust_dagster.agents.planner.withdraw import settle
from sust_dagster.connectors.plans import PlanFileError
from sust_dagster.faces.plan_finer import write_finer
from sust_dagster.faces.plan_inputs import PlanFiles, PlanInputs
from sust_dagster.faces.plan_summary import (
    OBJECTIVES,
    Effort,
    Formulation,
    Made,
    ObjectiveName,
    PlanOptions,
    plan_summary,
)
from sust_dagster.faces.simulate import replaced


def plan_files(
    files: PlanFiles,
    options: PlanOptions,
    out: Path,
    bars: Progress,
    *,
    frontier_file: Path | None = None,
    finer_file: Path | None = None,
) -> dict[str, Any]:
    """Write the plan of every job to ``out``; returns the summary.

    ``frontier_file``: a CSV of the Pareto frontier to write, with a plot and the sensitivities beside it.
    ``finer_file``: Parquet of starts at any moment and of suspended runs, where nothing couples the jobs. Raises
    :class:`PlanFileError` and the grid's errors for bad input, ``RuntimeError`` where a plan breaks a limit.
    """
    started = time.perf_counter()
    _refuse_overwriting(files.given, [f for f in (out, frontier_file, finer_file) if f])
    steps = bars.add_task("plan", total=4 + sum(f is not None for f in (frontier_file, finer_file)))
    inputs = PlanInputs(files, options.limits, options.penalty_usd_per_ms)
    bars.advance(steps)
    solve, quickly = _solver(options.formulation, options.effort), _solver(options.formulation, "quick")
    other = next(name for name in OBJECTIVES if name != options.objective)
    made = {
        name: _made(inputs, options, name, s, quickly) for name, s in ((options.objective, solve), (other, quickly))
    }
    chosen = made[options.objective]
    bars.advance(steps)
    table = plan_table(chosen.loaded.found, chosen.choice, options.carbon_price_usd_per_t)
    _replayed(chosen, table, options)
    bars.advance(steps)
    with replaced(out) as part:
        pq.write_table(table, part, compression="zstd", store_schema=False)
    bars.advance(steps)
    summary = plan_summary(made, options, table)
    if frontier_file is not None:
        summary |= _write_frontier(chosen, quickly, frontier_file)
        bars.advance(steps)
    if finer_file is not None:
        summary |= write_finer(chosen, finer_file)
        bars.advance(steps)
    source = chosen.loaded.source
    return {
        **summary,
        "grid": list(files.grid),
        "grid_files": dict(source.files),
        "intensity_method": " and ".join(source.methods),
        "out": str(out),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _solver(formulation: Formulation, effort: Effort) -> Solve:
    """``effort`` counts where limits couple jobs; what is beside the plan is made quickly, with its own gap."""

    def solve(problem: Problem, objective: Objective) -> Plan:
        return choose_plan(problem, objective, formulation, effort)

    return solve


def _refuse_overwriting(inputs: Sequence[str], outputs: Sequence[Path]) -> None:
    for out in outputs:
        if out.is_dir():
            raise PlanFileError("is a folder; the result is one file", file=str(out), fix="give a file name")
        for given in inputs:
            if Path(given).expanduser().resolve() == out.expanduser().resolve():
                raise PlanFileError("the result would overwrite an input", file=given, fix="give another name")


def _made(inputs: PlanInputs, options: PlanOptions, name: ObjectiveName, solve: Solve, quickly: Solve) -> Made:
    loaded = inputs.candidates(strict_latency=name == "min-carbon")
    objective, problem = options.weights(name), loaded.found.problem
    narrower = options.worst_case or (options.own_gain and problem.coupled)
    # The bound of a plan from fewer places is that of the plan from all, which is not wanted itself.
    plan = (quickly if narrower else solve)(problem, objective)
    if narrower:
        robust = Robust(loaded.quantiles if options.worst_case else None)
        choice = robust_choice(problem, objective, robust, solve, quickly)
        plan = replace(plan, proven_optimal=False)
    else:
        choice = _plain(problem, objective, plan)
    uncounted = [INPUT_REASONS.index(r) for r in ("no_cost", "no_duration")]
    counted = choice.planned & ~np.isin(loaded.found.reason[loaded.found.rows], uncounted)
    return Made(loaded, choice, plan, counted)


def _plain(problem: Problem, objective: Objective, plan: Plan) -> Choice:
    """The solver's plan; moves that gain nothing themselves are taken back, or named where others rest on them."""
    why = words_of(plan.reason)
    choice = Choice(problem, objective, plan.region, plan.delay, why)
    gain = choice.before.score(objective) - choice.after.score(objective)
    idle = choice.moved & ~(gain > TIE * np.abs(np.nan_to_num(choice.before.score(objective))))
    if not idle.any():
        return choice
    region, delay, stays = settle(problem, plan.region, plan.delay, idle)
    why = np.where(stays, word("makes_room"), np.where(idle, word("no_own_gain"), why)).astype(np.uint8)
    return Choice(problem, objective, region, delay, why)


def _replayed(made: Made, table: pa.Table, options: PlanOptions) -> None:
    """Raise where the plan breaks what no plan may break."""
    choice, loaded = made.choice, made.loaded
    broken = violations(choice.problem, choice.region, choice.delay)
    broken = broken.filter(broken.column("by_plan"))
    kinds = pc.unique(broken.column("kind")).to_pylist()
    count = broken.num_rows
    if not count:
        rows = replay(
            loaded.found.jobs, table, loaded.regions, loaded.pairs.latency_ms,
            strict_latency=options.objective == "min-carbon", alone=not choice.problem.coupled,
        )  # fmt: skip
        count, kinds = rows.num_rows, pc.unique(rows.column("kind")).to_pylist()
    if count:
        fix = "; rules alone keeps no shared limit: use --formulation auto" if options.formulation == "rules" else ""
        raise RuntimeError(f"the plan breaks {count:,} limits on replay ({', '.join(kinds)}) and is not written{fix}")


def _write_frontier(made: Made, solve: Solve, path: Path) -> dict[str, Any]:
    from sust_dagster.faces.frontier_chart import html, png

    choice = made.choice
    points = frontier(choice.problem, solve)
    scenarios = sensitivity(choice.problem, choice.objective, solve, choice.region, choice.delay)
    beside = {
        "frontier": path,
        "frontier_png": path.with_suffix(".png"),
        "frontier_html": path.with_suffix(".html"),
        "sensitivity": path.with_name(f"{path.stem}.sensitivity.csv"),
    }
    with replaced(beside["frontier"]) as part:
        pcsv.write_csv(points, part)
    with replaced(beside["sensitivity"]) as part:
        pcsv.write_csv(scenarios, part)
    now, then = ((t.cost_usd, t.kg) for t in (made.before, made.after))
    with replaced(beside["frontier_png"]) as part:
        png(points, now, then, part)
    with replaced(beside["frontier_html"]) as part:
        html(points, scenarios, now, then, part)
    knees = points.filter(points.column("knee")).to_pylist()
    return {
        **{name: str(file) for name, file in beside.items()},
        "knee": knees[0] if knees else None,
        "sensitivities": scenarios.to_pylist(),
    }

"""What `sust plan` says of its plan: both objectives and both baselines side by side, as a document and as a table.

Belongs here: what was asked (:class:`PlanOptions`), what came of it (:class:`Made`), the summary and its printed form.
Does not belong here: making the plan or writing files (``faces.plan``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.planner.baselines import period_means, run_now, static_table
from sust_dagster.agents.planner.candidates import INPUT_REASONS, Candidates
from sust_dagster.agents.planner.checker import violations
from sust_dagster.agents.planner.outcome import WORDS, Choice, Totals
from sust_dagster.agents.planner.problem import Flags, Limits, Objective, Plan
from sust_dagster.agents.planner.windows import PENALTY_USD_PER_MS
from sust_dagster.faces.console import number, print_rows, stdout
from sust_dagster.faces.plan_inputs import Loaded

ObjectiveName = Literal["effective-cost", "min-carbon"]
Formulation = Literal["auto", "rules", "cp-sat", "scale"]
Effort = Literal["quick", "normal", "thorough"]

OBJECTIVES: tuple[ObjectiveName, ...] = ("effective-cost", "min-carbon")
#: Hours named for what their capacity is worth.
_SCARCE = 10
_UNITS: Mapping[str, str] = {"effective-cost": "USD", "min-carbon": "kgCO2e"}


@dataclass(frozen=True)
class PlanOptions:
    """What is asked of the plan."""

    objective: ObjectiveName = "effective-cost"
    carbon_price_usd_per_t: float = 75.0
    limits: Limits = field(default_factory=Limits)
    formulation: Formulation = "auto"
    effort: Effort = "normal"
    """Budget of the coupled solvers, a count and no time."""
    worst_case: bool = False
    own_gain: bool = False
    """Whether each move must gain by itself, also where it could make room for others."""
    penalty_usd_per_ms: float = PENALTY_USD_PER_MS

    def weights(self, name: ObjectiveName) -> Objective:
        if name == "min-carbon":
            return Objective.min_carbon()
        return Objective.effective_cost(self.carbon_price_usd_per_t)


@dataclass(frozen=True)
class Made:
    """A plan under one objective."""

    loaded: Loaded
    choice: Choice
    plan: Plan
    counted: Flags
    """The problem's jobs that have both carbon and cost: what totals are over."""

    @property
    def before(self) -> Totals:
        return Totals.of(self.choice.before, self.counted, self.choice.objective)

    @property
    def after(self) -> Totals:
        return Totals.of(self.choice.after, self.counted, self.choice.objective)

    @property
    def lower_bound(self) -> float | None:
        """The plan's bound on what is counted: jobs without both figures are the same in every plan."""
        if self.plan.lower_bound is None:
            return None
        if self.plan.proven_optimal:
            return self.after.score
        solved = Choice(self.choice.problem, self.choice.objective, self.plan.region, self.plan.delay, self.choice.why)
        counted = Totals.of(solved.after, self.counted, self.choice.objective).score
        return min(self.plan.lower_bound + counted - self.plan.objective, self.after.score)

    @property
    def gap(self) -> float | None:
        bound, value = self.lower_bound, self.after.score
        if bound is None or value == bound:
            return None if bound is None else 0.0
        return (value - bound) / abs(value) if value else None

    @property
    def carbon_gap(self) -> float | None:
        """The same distance over the carbon part of the objective: what of the carbon a better plan could still save.

        The gap of an objective that is mostly money says nothing about carbon.
        """
        bound, carbon = self.lower_bound, self.choice.objective.per_kg * self.after.kg
        if bound is None or self.after.score == bound:
            return None if bound is None else 0.0
        return (self.after.score - bound) / carbon if carbon else None


def plan_summary(made: Mapping[ObjectiveName, Made], options: PlanOptions, table: pa.Table) -> dict[str, Any]:
    """The document of ``--json``, but for the files; ``table`` is the plan's rows."""
    chosen = made[options.objective]
    plan, found = chosen.plan, chosen.loaded.found
    counts = _counts(table, found)
    findings = [f"limit relaxed: {text}" for text in plan.relaxed]
    if counts["jobs"] and not counts["planned"]:
        findings.append("no job could be planned")
    return {
        "objective": chosen.after.score,
        "objective_name": options.objective,
        "objective_unit": _UNITS[options.objective],
        "lower_bound": chosen.lower_bound,
        "gap": chosen.gap,
        "carbon_gap": chosen.carbon_gap,
        "proven_optimal": plan.proven_optimal,
        "formulation": plan.formulation,
        "effort": options.effort,
        "why": plan.why,
        "carbon_price_usd_per_t": options.carbon_price_usd_per_t,
        "robust": "worst-case" if options.worst_case else "mean",
        "counts": counts,
        "kg_before": chosen.before.kg,
        "kg_after": chosen.after.kg,
        "cost_before_usd": chosen.before.cost_usd,
        "cost_after_usd": chosen.after.cost_usd,
        "egress_usd": chosen.after.egress_usd,
        "objectives": {name: _under(made[name]) for name in OBJECTIVES},
        "baselines": _baselines(chosen),
        "capacity_prices": _scarce(chosen),
        "relaxed": list(plan.relaxed),
        "findings": findings,
        "notices": [*chosen.loaded.notices, *plan.notes],
    }


def _scarce(made: Made) -> list[dict[str, Any]]:
    """The hours whose capacity is worth most, by the plan's own prices: what one more vCPU-hour there would save."""
    prices, problem = made.plan.capacity_price, made.choice.problem
    if prices is None:
        return []
    best = np.argsort(-prices, axis=None, kind="stable")[:_SCARCE]
    cells = [(int(at) // problem.hours, int(at) % problem.hours) for at in best]
    return [
        {
            "region": problem.regions[r],
            "ts": f"{np.datetime64(problem.first_hour + h, 'h').astype('datetime64[s]')}Z",
            "saves_per_vcpu_hour": float(prices[r, h]),
        }
        for r, h in cells
        if prices[r, h] > 0
    ]


def _counts(table: pa.Table, found: Candidates) -> dict[str, Any]:
    actions = {r["values"]: r["counts"] for r in pc.value_counts(table.column("action_type")).to_pylist()}
    reasons = {r["values"]: r["counts"] for r in pc.value_counts(table.column("reason")).to_pylist() if r["values"]}
    ordered = {name: int(reasons[name]) for name in WORDS if name in reasons}
    excluded = {name: n for name, n in ordered.items() if name in INPUT_REASONS}
    shifts = {name: int(actions.get(name, 0)) for name in ("region_shift", "time_shift", "do_nothing")}
    return {
        "jobs": len(found.jobs),
        "planned": len(found.jobs) - sum(excluded.values()),
        "moved": shifts["region_shift"] + shifts["time_shift"],
        **shifts,
        "excluded": excluded,
        "stays": {name: n for name, n in ordered.items() if name not in INPUT_REASONS and name != "makes_room"},
        "makes_room": ordered.get("makes_room", 0),
    }


def _under(made: Made) -> dict[str, Any]:
    before, after = made.before, made.after
    return {
        "score_before": before.score,
        "score_after": after.score,
        "lower_bound": made.lower_bound,
        "gap": made.gap,
        "carbon_gap": made.carbon_gap,
        "formulation": made.plan.formulation,
        "moved": int(made.choice.moved.sum()),
        "kg_before": before.kg,
        "kg_after": after.kg,
        "cost_before_usd": before.cost_usd,
        "cost_after_usd": after.cost_usd,
        "egress_usd": after.egress_usd,
        "relaxed": list(made.plan.relaxed),
    }


def _baselines(made: Made) -> dict[str, Any]:
    problem, objective = made.choice.problem, made.choice.objective
    means = made.loaded.annual
    table = static_table(problem, objective, period_means(problem) if means is None else means)
    now = run_now(problem, objective)
    totals = {
        name: asdict(Totals.of(choice.after, made.counted, objective))
        for name, choice in (("run_now", now), ("static_table", table))
    }
    totals["static_table"] |= {
        "moved": int(table.moved.sum()),
        "basis": "means of the grid file's hours" if means is None else "annual means of the reference table",
        "limits_broken": _broken(table) if problem.coupled else 0,
    }
    return totals


def _broken(choice: Choice) -> int:
    found = violations(choice.problem, choice.region, choice.delay)
    return int(pc.sum(found.column("by_plan")).as_py() or 0)


def print_plan(result: Mapping[str, Any]) -> None:
    """The summary for people, on stdout."""
    counts = result["counts"]
    now, static = result["baselines"]["run_now"], result["baselines"]["static_table"]
    rows = [
        _cells("run now", now["kg"], now["kg"], now["cost_usd"], 0.0, 0, None),
        _cells(
            "static region table", static["kg"], now["kg"], static["cost_usd"], static["egress_usd"], static["moved"],
            None,
        ),
    ]  # fmt: skip
    for name, made in result["objectives"].items():
        chosen = " (this plan)" if name == result["objective_name"] else ""
        keys = ("kg_after", "kg_before", "cost_after_usd", "egress_usd", "moved", "carbon_gap")
        figures = (made[key] for key in keys)
        rows.append(_cells(f"{name}{chosen}", *figures))
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0] if name}
    aligned = [{name: f"{text:>{widths.get(name, 0)}}" for name, text in row.items()} for row in rows]
    print_rows(result["out"], aligned)
    actions = ", ".join(f"{name} {counts[name]:,}" for name in ("region_shift", "time_shift", "do_nothing"))
    stdout.print(f"  {counts['jobs']:,} jobs: {actions}", soft_wrap=True)
    kept = {**counts["excluded"], **counts["stays"]}
    if kept:
        stdout.print("  " + ", ".join(f"{name} {n:,}" for name, n in kept.items()), soft_wrap=True, style="dim")
    bound = "no bound" if result["lower_bound"] is None else f"lower bound {number(result['lower_bound'])}"
    proof = "proven optimal" if result["proven_optimal"] else bound
    stdout.print(
        f"  {result['objective_name']} {number(result['objective'])} {result['objective_unit']}, {proof}; "
        f"{result['formulation']}: {result['why']}",
        markup=False,
        soft_wrap=True,
    )
    for dear in result["capacity_prices"][:1]:
        stdout.print(
            f"  most wanted: {dear['region']} at {dear['ts'][:16]}Z, "
            f"{number(dear['saves_per_vcpu_hour'], result['objective_unit'])} for each more vCPU-hour",
            markup=False,
            soft_wrap=True,
        )
    if static["limits_broken"]:
        stdout.print(f"  the static table breaks {static['limits_broken']:,} limits", soft_wrap=True, style="dim")
    finer = result.get("finer")
    if finer:
        before, *modes = [(name, value) for name, value in finer.items() if name != "file"]
        said = ", ".join(f"{name.rsplit('_', 1)[0].replace('_', ' ')} {_change(v, before[1])}" for name, v in modes)
        stdout.print(f"  at other starts: {said} ({finer['file']})", markup=False, soft_wrap=True)
    knee = result.get("knee")
    if knee:
        stdout.print(
            f"  knee of the frontier: {number(knee['kg_savings'], 'kg')} saved for "
            f"{number(knee['cost_increase_usd'], 'USD')} more ({result['frontier']})",
            markup=False,
            soft_wrap=True,
        )


def _change(value: float, before: float) -> str:
    return f"{100 * (value / before - 1):+.2f} %" if before else "0 %"


def _cells(
    title: str, kg: float, kg_before: float, usd: float, egress: float, moved: int, gap: float | None
) -> dict[str, str]:
    return {
        "": title,
        "kgCO2e": number(kg, digits=4),
        "change": f"{100 * (kg / kg_before - 1):+.1f} %" if kg_before and kg != kg_before else "",
        "USD": f"{usd:,.2f}",
        "egress USD": f"{egress:,.2f}",
        "jobs moved": f"{moved:,}",
        "gap (of carbon)": "" if gap is None else f"{100 * gap:.2f} %",
    }

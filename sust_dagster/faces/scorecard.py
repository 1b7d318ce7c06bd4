"""The scorecard of a simulated project: what was claimed beside what truly happened, in two worlds hour by hour.

Belongs here: `scorecard.json` and `baseline_vs_optimized.csv`. Figures of steps that are not built yet are null, never
invented. Does not belong here: the twin worlds themselves (``simulator.twins``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from sust_dagster.connectors.sources import fake_cloud, untouched_cloud
from sust_dagster.faces.console import number, stdout
from sust_dagster.faces.simulate import replaced
from sust_dagster.faces.verify import in_words, summed_up
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.simulator.dependencies import dependencies
from sust_dagster.simulator.twins import broken, deferred, static_table, world
from sust_dagster.world.decisions import proposal_of


def write_scorecard(project: Project) -> dict[str, Any]:
    """Write `scorecard.json` and `baseline_vs_optimized.csv` of a simulated project; returns the scorecard.

    kg without a prefix are true kg of the jobs asked for, each over its whole run; ``claimed_kg`` and
    ``cost_delta_usd`` are what the plans of executed recommendations promised.
    """
    start, end = project.start, project.last_hour_end()
    with_it, without = fake_cloud(project), untouched_cloud(project)
    _write_hours(with_it.hourly(start, end), without.hourly(start, end), project.root / "baseline_vs_optimized.csv")
    before, after = world(without, start, end), world(with_it, start, end)
    static = world(static_table(without, start, end), start, end)
    promises, quo = broken(with_it, start, end), broken(without, start, end)
    made = _decisions(project)
    card = {
        "days": (end - start).days,
        "jobs": without.jobs(start, end).num_rows,
        **made,
        **_outcomes(project),
        "true_kg": before.true_kg - after.true_kg,
        "true_cost_delta_usd": after.cost_usd - before.cost_usd,
        "baseline_kg": before.true_kg,
        "optimized_kg": after.true_kg,
        "static_table_kg": static.true_kg,
        "static_table_cost_delta_usd": static.cost_usd - before.cost_usd,
        "baseline_stated_kg": before.stated_kg,
        "optimized_stated_kg": after.stated_kg,
        "baseline_cost_usd": before.cost_usd,
        "optimized_cost_usd": after.cost_usd,
        "sla_violations": promises.total - quo.total,
        "sla_violations_by_kind": {
            "late": promises.late,
            "slow": promises.slow,
            "elsewhere": promises.elsewhere,
            "start_before_dependency": promises.start_before_dependency,
        },
        "dependent_jobs": dependencies(without, start, end).waiting,
        "deferred_jobs": deferred(with_it, start, end),
    }
    with replaced(project.root / "scorecard.json") as part:
        Path(part).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def print_scorecard(card: Mapping[str, Any]) -> None:
    """What was claimed and what truly happened, side by side, on stdout."""
    share = 1 - card["optimized_kg"] / card["baseline_kg"] if card["baseline_kg"] else 0.0
    of_baseline = f"{100 * share:.1f} % of {number(card['baseline_kg'], 'kg')}"
    states = f"{card['recommended']:,} recommended, {card['executed']:,} executed"
    saved = f"claimed {number(card['claimed_kg'], 'kg')}, true {number(card['true_kg'], 'kg')}"
    for line in (
        f"{states}, {card['deferred_jobs']:,} jobs deferred, {card['sla_violations']:,} promises broken",
        f"carbon saved: {saved} ({of_baseline})",
        f"cost: estimated {card['cost_delta_usd']:+,.2f} USD, true {card['true_cost_delta_usd']:+,.2f} USD",
        in_words(card),
    ):
        stdout.print(f"  {line}", markup=False, soft_wrap=True)


def _outcomes(project: Project) -> dict[str, Any]:
    """What was verified, over all settled outcomes; null where there is none."""
    with ProjectResource(root=str(project.root)) as resource:
        return summed_up(resource.handle("copilot").read_lake("outcomes"))


def _decisions(project: Project) -> dict[str, Any]:
    """Recommendations by what became of them, and what the executed ones promised."""
    with ProjectResource(root=str(project.root)) as resource:
        events = resource.handle("executor").read_books("decision_events").to_pylist()
    last = {e["recommendation_id"]: e["to_status"] for e in sorted(events, key=lambda e: e["sequence"])}
    first = {e["recommendation_id"]: e for e in events if e["sequence"] == 0}
    states = pc.value_counts(pa.array(list(last.values()), pa.string())).to_pylist()
    done = [proposal_of([first[r]]) for r, state in sorted(last.items()) if state in ("executed", "verified")]
    return {
        "recommended": len(last),
        "by_state": {s["values"]: s["counts"] for s in sorted(states, key=lambda s: s["values"])},
        "executed": len(done),
        "claimed_kg": -sum(p["est_carbon_delta_kg"] for p in done),
        "cost_delta_usd": sum(p["est_cost_delta_usd"] for p in done),
    }


def _write_hours(optimized: pa.Table, baseline: pa.Table, path: Path) -> None:
    """Both worlds by the hour things ran in."""
    columns = {"hour": baseline["ts"]}
    for name, kind in (("stated_kg", "kg"), ("true_kg", "true_kg"), ("cost_usd", "usd")):
        columns |= {f"baseline_{kind}": baseline[name], f"optimized_{kind}": optimized[name]}
    with replaced(path) as part:
        pcsv.write_csv(pa.table(columns), part)

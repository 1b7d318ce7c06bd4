"""`sust calibration`: does a stated 90 % hold the truth in 90 % of hidden worlds, and did a project's plan intervals?

Belongs here: the scorecard as a file, a table and a picture (``calibration_chart``), and a project's outcomes with
their action types. Does not belong here: any counting (``agents.verifier.calibration``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.progress import Progress

from sust_dagster.agents.verifier.calibration import plan_interval_calibration, plan_interval_report, scorecard
from sust_dagster.agents.verifier.calibration.scorecard import LINE_COUNT
from sust_dagster.faces.calibration_chart import draw
from sust_dagster.faces.console import print_rows, say, stdout
from sust_dagster.faces.simulate import replaced
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project

JSON_FILE, PNG_FILE = "calibration.json", "calibration.png"

#: Outcomes whose recommendation the lake no longer knows.
UNKNOWN_ACTION = "unknown"

_COLUMNS = (
    "recommendation_id", "executed_on", "claimed_delta_kg", "plan_ci_lower", "plan_ci_upper",
    "measured_carbon_delta_kg",
)  # fmt: skip


def run_calibration(worlds: int, seed: int, out: Path, project: Project | None, bars: Progress) -> dict[str, Any]:
    """Score every fleet over hidden worlds and, with a project, its plan intervals; write file and picture to ``out``.

    Returns the document of ``calibration.json``: one seed and number of worlds (and project) always make the same
    bytes. Raises ``ValueError`` for too few worlds.
    """
    task = bars.add_task("hidden worlds", total=worlds * LINE_COUNT)
    card = scorecard(worlds, seed, lambda done: bars.advance(task, done))
    document = card.document()
    if project is not None:
        document["project"] = plans = project_plans(outcomes_of(project))
        document["passed"] = card.passed and all(row["passed"] is not False for row in plans["plan_intervals"])
    with replaced(out / JSON_FILE) as part:
        Path(part).write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with replaced(out / PNG_FILE) as part:
        draw(document, part)
    return document


def outcomes_of(project: Project) -> pa.Table:
    """Outcomes of a project with the action type of their recommendation."""
    with ProjectResource(root=str(project.root)) as resource:
        handle = resource.handle("copilot")
        rows = handle.read_lake("outcomes", columns=list(_COLUMNS))
        proposed = handle.read_lake("recommendations", columns=["recommendation_id", "action_type"])
    at = pc.index_in(rows["recommendation_id"], proposed["recommendation_id"].combine_chunks())
    action = pc.fill_null(proposed["action_type"].combine_chunks().take(at.combine_chunks()), UNKNOWN_ACTION)
    return rows.append_column("action_type", action)


def project_plans(outcomes: pa.Table) -> dict[str, Any]:
    """How the plan intervals of outcomes did, and what their executed outcomes would have them be, by action type."""
    return {
        "outcomes": outcomes.num_rows,
        "plan_intervals": plan_interval_report(outcomes).to_pylist(),
        "calibrated": plan_interval_calibration(outcomes).to_pylist(),
    }


# -- for people -------------------------------------------------------------------------------------


def print_calibration(document: Mapping[str, Any]) -> None:
    """The card as tables on stdout, each failure as a finding on stderr."""
    low, high = document["band"]
    print_rows(
        f"{document['worlds']:,} hidden worlds, seed {document['seed']}: a true 90 % lies in {low:.3f} to {high:.3f}, "
        f"a true 5 % is at most {document['overclaim_limit']:.3f}",
        [_fleet_row(line) for line in document["fleets"]],
    )
    stdout.print("  * negative controls: wrong methods, which the same counting has to find out\n")
    print_rows("fleets that save nothing", [_null_row(line) for line in document["null_fleets"]])
    stdout.print()
    print_rows(
        "winner's curse: plan intervals of what is picked among 24 forecasts",
        [_selection_row(line) for line in document["winners_curse"]],
    )
    if "project" in document:
        _print_plans(document["project"])
    for finding in findings(document):
        say("finding", finding, "red")


def findings(document: Mapping[str, Any]) -> list[str]:
    """Why lines failed, one text each."""
    lines: list[tuple[str, Sequence[str]]] = [(f"{_fleet(line)}: ", line["reasons"]) for line in document["fleets"]]
    lines += [(f"{line['fleet']} that save nothing: ", line["reasons"]) for line in document["null_fleets"]]
    lines += [
        (f"winner's curse at {100 * s['forecast_error']:.0f} %: ", s["reasons"]) for s in document["winners_curse"]
    ]
    plans = document.get("project", {}).get("plan_intervals", ())
    lines += [(f"plan intervals of {p['action_type']}: ", [_why(p)]) for p in plans if p["passed"] is False]
    return [name + why for name, reasons in lines for why in reasons]


def _why(plan: Mapping[str, Any]) -> str:
    too = "too narrow" if plan["reason"] == "too_narrow" else "too wide"
    return (
        f"{too}: {plan['inside_share']:.3f} of settled outcomes inside, not 0.900 "
        f"[99.9 %: {plan['share_lower']:.3f} to {plan['share_upper']:.3f}]"
    )


def _fleet(line: Mapping[str, Any]) -> str:
    share = line["systematic_share"]
    return line["fleet"] if share is None else f"{line['fleet']} ({share:.1f})"


def _verdict(line: Mapping[str, Any]) -> str:
    if line["passed"] is None:
        return line["reason"].replace("_", " ")
    reasons: Sequence[str] = line.get("reasons") or [r for r in (line.get("reason"),) if r]
    return "passed" if line["passed"] else f"FAILED: {'; '.join(reasons).replace('_', ' ')}"


def _fleet_row(line: Mapping[str, Any]) -> dict[str, str]:
    return {
        "fleet (systematic)": _fleet(line),
        "job": f"{line['coverage_jobs']:.3f}",
        "portfolio": f"{line['coverage_portfolio']:.3f}",
        "half-width": f"{100 * line['half_width_of_point']:.0f} %",
        "credit": f"{100 * line['credited_of_point']:.0f} %",
        "credit > truth": f"{line['overclaim_share']:.3f}",
        "point > truth *": f"{line['point_overclaim_share']:.3f}",
        "quadrature *": f"{line['quadrature_share']:.3f}",
        "box *": f"{line['box_portfolio_share']:.3f}, {line['box_width_of_interval']:.1f}x",
        "verdict": _verdict(line),
    }


def _null_row(line: Mapping[str, Any]) -> dict[str, str]:
    return {
        "moves": line["fleet"],
        "credit of 8 jobs": f"{line['credited_kg']:+.3f} kg (se {line['credited_se_kg']:.3f})",
        "of counterfactual": f"{line['credited_percent']:+.2f} % (se {line['credited_se_percent']:.2f})",
        "half of each gain *": f"{line['founding_percent']:+.2f} %",
        "verdict": _verdict(line),
    }


def _selection_row(line: Mapping[str, Any]) -> dict[str, str]:
    return {
        "forecast error": f"{100 * line['forecast_error']:.0f} %",
        "calibrated on executed": f"{line['executed_share']:.3f}",
        "band": f"{line['band_lower']:.3f} to {line['band_upper']:.3f}",
        "on all forecasts *": f"{line['all_forecasts_share']:.3f}",
        "claimed / measured": f"{line['claimed_over_measured']:.2f}",
        "verdict": _verdict(line),
    }


def _print_plans(plans: Mapping[str, Any]) -> None:
    made = {row["action_type"]: row for row in plans["calibrated"]}
    stdout.print()
    print_rows(
        f"plan intervals of {plans['outcomes']:,} outcomes",
        [_plan_row(row, made.get(row["action_type"])) for row in plans["plan_intervals"]],
    )


def _plan_row(row: Mapping[str, Any], made: Mapping[str, Any] | None) -> dict[str, str]:
    known = row["inside_share"] is not None
    over = row["claimed_over_measured"]
    if made is None:
        would = ""
    elif made["reason"]:
        would = made["reason"].replace("_", " ")
    else:
        would = f"{made['ratio_lower']:+.2f} to {made['ratio_upper']:+.2f}"
    return {
        "action": row["action_type"],
        "settled": f"{row['settled']:,} of {row['outcomes']:,}",
        "worth": f"{row['effective']:.0f}" if known else "-",
        "inside": f"{row['inside_share']:.3f}" if known else "-",
        "99.9 %": f"{row['share_lower']:.3f} to {row['share_upper']:.3f}" if known else "-",
        "claimed / measured": "-" if over is None else f"{over:.2f}",
        "90 % of measured / claimed": would,
        "verdict": _verdict(row),
    }

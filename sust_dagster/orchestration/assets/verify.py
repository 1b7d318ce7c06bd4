"""VERIFY: what executed changes truly saved, from settled data, with an interval and its evidence.

Belongs here: the asset the verifier writes. A run covers whole months of execution as far as they are asked for: credit
is a share of what a team saved in a month, so every row of the month has it from the same total. Rows that stay as they
were are no commit; data that changed since restates them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.portfolio import portfolio_of
from sust_dagster.agents.verifier.sufficiency import GATES
from sust_dagster.agents.verifier.uncertainty import Z90
from sust_dagster.orchestration.declarations import asset_properties, column_lineage
from sust_dagster.orchestration.evidence_desk import write_evidence
from sust_dagster.orchestration.io_managers import between, window_of
from sust_dagster.orchestration.partitions import SINGLE_RUN
from sust_dagster.orchestration.previews import words_table
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import (
    Divergences,
    VerificationDesk,
    VerifiedDay,
    outcome_rows,
)
from sust_dagster.world.schemas import OUTCOMES


class VerifyConfig(dg.Config):
    """When to verify."""

    at: str = ""
    """Moment of verifying, ISO 8601 UTC; empty: the project's present. Nothing later is looked at."""


_ADD_UP, _ALL, _EVIDENCE = "credits_add_up_to_the_bound", "every_execution_has_an_outcome", "evidence_is_there"
_CHECKS = {
    _ADD_UP: "The credits of a team and month add up to the lower bound of what it saved, to 1e-9.",
    _ALL: "Every change that was executed on these days has exactly one outcome.",
    _EVIDENCE: "Every outcome names a bundle, and the file of that name holds what hashes to it.",
}
#: Not blocking: it takes runs out of the comparison, no figure falls by it.
_DRAW = "the_draw_was_obeyed"
_DRAW_TEXT = "What the lot left alone was moved by nobody, and its share is what was asked for."


_SIDES = ("lower", "upper")
_LINEAGE = column_lineage(
    {
        "measured_carbon_delta_kg": {
            "emissions": ["energy_kwh", "pue", "kg_location"],
            "grid_intensity": ["intensity_kgco2_kwh"],
            "executions": ["baseline", "detail"],
        },
        "counterfactual_carbon_kg": {
            "emissions": ["energy_kwh", "pue"],
            "grid_intensity": ["intensity_kgco2_kwh"],
            "executions": ["baseline", "detail"],
        },
        "actual_carbon_kg": {"emissions": ["kg_location"]},
        **{
            bound: {"grid_intensity": [f"{error}_rel_{side}" for error in ("system", "hour") for side in _SIDES]}
            for bound in ("carbon_ci_lower", "carbon_ci_upper")
        },
        "measured_cost_delta_usd": {"emissions": ["cost_usd"], "activity_ledger": ["usage_hours", "instance_type"]},
        "claimed_delta_kg": {"executions": ["baseline"]},
        "runs": {"emissions": ["job_id"]},
    }
)


def build(daily: dg.PartitionsDefinition) -> list[dg.AssetsDefinition]:
    """The assets of this step, over the project's days of execution."""

    @dg.asset(
        io_manager_key="lake",
        deps=["executions", "emissions", "activity_ledger", "grid_intensity"],
        partitions_def=daily,
        backfill_policy=SINGLE_RUN,
        check_specs=[
            *(dg.AssetCheckSpec(n, asset="outcomes", blocking=True, description=text) for n, text in _CHECKS.items()),
            dg.AssetCheckSpec(_DRAW, asset="outcomes", description=_DRAW_TEXT),
        ],
        **asset_properties("outcomes", "verifier"),
    )
    def outcomes(
        context: dg.AssetExecutionContext, project: ProjectResource, config: VerifyConfig
    ) -> Iterator[dg.Output[pa.Table] | dg.AssetCheckResult]:
        start, end = window_of(context)
        now = datetime.fromisoformat(config.at) if config.at else project.project.present()
        desk = VerificationDesk(project)
        day = desk.verify(start.replace(day=1), end, now)
        rows, metadata = OUTCOMES.empty(), {"run_rows": 0}
        if day is not None:
            rows = outcome_rows(day, write_evidence(project, day))
            desk.record(rows, now)
            metadata = {**_metadata(rows, day), **_divergence(desk.watch(day, now))}
        yield dg.Output(between(rows, "executed_on", start, end), metadata=metadata)
        yield from checked(project, rows, day)

    return [outcomes]


def checked(project: ProjectResource, rows: pa.Table, day: VerifiedDay | None) -> Iterator[dg.AssetCheckResult]:
    """What must hold of the rows, asked of the rows, the books and the files."""
    off = 0.0
    for total in day.verified.portfolios.to_pylist() if day else ():
        team, month = (pc.equal(rows.column(n), pa.scalar(total[n])) for n in ("team_id", "month"))
        credited = math.fsum(rows.filter(pc.and_(team, month)).column("credited_kg").drop_null().to_pylist())
        off = max(off, abs(credited - total["credit_bound_kg"]) / max(1.0, abs(total["savings_kg"])))
    yield dg.AssetCheckResult(passed=off <= 1e-9, check_name=_ADD_UP, metadata={"largest_difference": off})
    executed = sorted(case.recommendation_id for case in day.cases) if day else []
    found = sorted(rows.column("recommendation_id").to_pylist())
    yield dg.AssetCheckResult(passed=executed == found, check_name=_ALL, metadata={"executed": len(executed)})
    folder = project.project.evidence_root
    wrong = [sha for sha in rows.column("evidence_chain").to_pylist() if sha is None or not _holds(folder, sha)]
    yield dg.AssetCheckResult(
        passed=not wrong,
        check_name=_EVIDENCE,
        metadata={"bundles": rows.num_rows, **({"wrong": ", ".join(map(str, wrong[:5]))} if wrong else {})},
    )
    yield _draw(day)


def _draw(day: VerifiedDay | None) -> dg.AssetCheckResult:
    """Whether the hold-out was left alone; no draw, or nothing to draw from, is no fault."""
    found = day.comparison.balance.to_pylist()[0] if day else {"reason": "no_eligible_groups"}
    obeyed = found["reason"] not in ("holdout_moved", "share_off")
    said = {name: value for name, value in found.items() if value is not None}
    return dg.AssetCheckResult(passed=obeyed, check_name=_DRAW, severity=dg.AssetCheckSeverity.WARN, metadata=said)


def _holds(folder: Path, sha: str) -> bool:
    file = folder / f"{sha}.json"
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha


def _metadata(rows: pa.Table, day: VerifiedDay) -> Mapping[str, Any]:
    """What was claimed, verified and credited of the outcomes with a number; the others by the gates that closed."""
    known = rows.filter(pc.is_valid(rows.column("measured_carbon_delta_kg")))
    claimed, credited = -_total(known, "claimed_delta_kg") + 0.0, _total(known, "credited_kg")
    whole = portfolio_of(known)
    statuses = Counter(rows.column("verification_status").to_pylist())
    gates = Counter(g for r in rows.column("reason").drop_null().to_pylist() for g in r.split(";"))
    figures: dict[str, Any] = {}
    said = f"none of {rows.num_rows:,} outcomes has a number yet"
    if whole is not None:
        said = (
            f"**{whole.savings_kg:,.3f} kg** verified (90 %: {whole.lower_kg:,.3f} to {whole.upper_kg:,.3f}) of "
            f"{claimed:,.3f} kg claimed for the same {known.num_rows:,} of {rows.num_rows:,} outcomes; "
            f"{credited:,.3f} kg credited"
        )
        figures = {
            "claimed_kg": claimed,
            "verified_kg": whole.savings_kg,
            "verified_ci90_lower_kg": whole.lower_kg,
            "verified_ci90_upper_kg": whole.upper_kg,
            "credited_kg": credited,
        }
    return {
        "summary": dg.MetadataValue.md(said),
        "portfolios": _portfolios(day.verified.portfolios),
        "status": words_table(("status", "outcomes"), sorted(statuses.items()), right=(1,)),
        "gates_closed": words_table(
            ("gate", "outcomes", "what it says"),
            [(gate.removeprefix("sufficiency."), n, GATES.get(gate, "")) for gate, n in gates.most_common()],
            right=(1,),
        ),
        "usage_ratios": _ratios(day.comparison.ratios),
        "verified_from": f"{day.until - timedelta(hours=1):%Y-%m-%d %H:00} UTC is the last hour looked at",
        "run_rows": rows.num_rows,
        **figures,
        "dagster/column_lineage": _LINEAGE,
    }


def _ratios(table: pa.Table) -> dg.MetadataValue:
    """What moved runs used over what held-out ones did, with its interval, and from how many runs."""
    ends = [[r["ratio"] * math.exp(side * Z90 * r["log_sd"]) for side in (-1.0, 1.0)] for r in table.to_pylist()]
    return words_table(
        ("pool", "usage ratio [90 %]", "moved", "left alone", "without a number because"),
        [
            (r["pool"], f"{r['ratio']:.4f} [{low:.4f}, {high:.4f}]", r["n_treated"], r["n_control"], r["reason"] or "–")
            for r, (low, high) in zip(table.to_pylist(), ends, strict=True)
        ],
        right=(1, 2, 3),
    )


def _total(rows: pa.Table, column: str) -> float:
    return math.fsum(rows.column(column).drop_null().to_pylist())


def _divergence(found: Divergences) -> Mapping[str, Any]:
    """How many alerts, and which kinds of action drift from their estimates."""
    drifting = [
        (r["scope"], f"{r['mean_sigmas']:+.2f}", f"{r['drifting_since']:%Y-%m-%d}")
        for r in found.drift.to_pylist()
        if r["drifting"]
    ]
    return {
        "over_three_sigmas": found.alerts.num_rows,
        "drifting": words_table(("action", "mean distance, σ", "since"), drifting, right=(1,)),
    }


def _portfolios(table: pa.Table) -> dg.MetadataValue:
    """Savings of each team and month with their interval and credit, as a table."""
    return words_table(
        ("team", "month", "n", "saved, kg [90 %]", "credited"),
        [
            (
                r["team_id"],
                f"{r['month']:%Y-%m}",
                r["outcomes"],
                f"{r['savings_kg']:,.3f} [{r['savings_ci_lower']:,.3f}, {r['savings_ci_upper']:,.3f}]",
                f"{r['credited_kg']:,.3f}",
            )
            for r in table.to_pylist()
        ],
        right=(2, 3, 4),
    )

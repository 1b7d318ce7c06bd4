"""`sust verify`: what executed changes truly saved, as one Dagster run, and the outcomes as they stand.

Belongs here: which days, and what is told. Does not belong here: the verification (the asset and its desk), evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster.agents.verifier.portfolio import portfolio_of
from sust_dagster.faces.runs import open_instance, run_job
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import UNSETTLED
from sust_dagster.settings import Project


def run_verify(project: Project, start: datetime | None, end: datetime | None) -> dict[str, Any]:
    """Verify what was executed on the days of ``[start, end)`` (default: all of the project) and sum it up.

    Raises ``ValueError`` for a range that holds no whole day of the project, ``RunError`` where the run failed.
    """
    now = project.present()
    first = max(start or project.start, project.start).replace(hour=0, minute=0, second=0, microsecond=0)
    last = min(end or now, now) - timedelta(microseconds=1)
    if last < first:
        raise ValueError(f"no day of the project lies between {first:%Y-%m-%d} and {end or now:%Y-%m-%d}")
    config = {"ops": {"outcomes": {"config": {"at": now.isoformat()}}}}
    with open_instance(project) as instance:
        defs = build_defs(project, with_marts=False)
        run_job(defs, instance, "daily_verify", days=(first, last), reason="asked for", config=config)
    with ProjectResource(root=str(project.root)) as resource:
        rows = resource.handle("copilot").read_lake("outcomes", first, last + timedelta(days=1))
    return summed_up(rows)


def summed_up(rows: pa.Table) -> dict[str, Any]:
    """Outcomes by status, and the total of those that have a number with its interval; null where none has."""
    counts = pc.value_counts(rows.column("verification_status")).to_pylist()
    late = pc.fill_null(pc.match_substring(rows.column("reason"), UNSETTLED), False)
    verified = rows.filter(pc.is_valid(rows.column("measured_carbon_delta_kg")))
    total = portfolio_of(verified)
    return {
        "outcomes": rows.num_rows,
        "outcomes_by_status": {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: c["values"])},
        "outcomes_unsettled": pc.sum(late).as_py() or 0,
        "verified_kg": None if total is None else total.savings_kg,
        "verified_ci90_lower_kg": None if total is None else total.lower_kg,
        "verified_ci90_upper_kg": None if total is None else total.upper_kg,
        "credited_kg": None if total is None else pc.sum(verified.column("credited_kg")).as_py(),
        "claimed_of_verified_kg": None if total is None else -pc.sum(verified.column("claimed_delta_kg")).as_py(),
        "verified_cost_delta_usd": pc.sum(verified.column("measured_cost_delta_usd")).as_py(),
    }


def in_words(found: Mapping[str, Any]) -> str:
    """The verified total in one line."""
    if found["verified_kg"] is None:
        return f"verified: nothing yet; {found['outcomes_unsettled']:,} of {found['outcomes']:,} outcomes wait for data"
    low, high = found["verified_ci90_lower_kg"], found["verified_ci90_upper_kg"]
    waiting = f", {found['outcomes_unsettled']:,} not settled" if found["outcomes_unsettled"] else ""
    claimed, credited = found["claimed_of_verified_kg"], found["credited_kg"]
    return (
        f"verified: {found['verified_kg']:,.1f} kg [90 %: {low:,.1f} to {high:,.1f}] of {claimed:,.1f} kg claimed, "
        f"credited {credited:,.1f} kg; {found['outcomes']:,} outcomes{waiting}"
    )

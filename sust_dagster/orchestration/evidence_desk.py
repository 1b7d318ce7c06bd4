"""Evidence at the lake, the books and the log: bundles written beside the lake and committed to.

Belongs here: gathering what a verification was made from, the files, the leaves. Does not belong here: what a bundle
holds (``agents.verifier.evidence``), checking one (``faces.evidence``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster import __version__
from sust_dagster.agents.verifier.evidence import Bundle, Record, bundles
from sust_dagster.agents.verifier.runs import EMISSIONS_COLUMNS, LEDGER_COLUMNS
from sust_dagster.connectors.market import market_at, workload_register
from sust_dagster.connectors.run_log import PRICE_SCHEMA, list_prices
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import Case, VerifiedDay, outcome_rows
from sust_dagster.world.lake import Lake

#: Tables of the lake whose rows are in a bundle.
EVIDENCE_TABLES = ("activity_ledger", "emissions", "grid_intensity", "placements")

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def write_evidence(project: ProjectResource, day: VerifiedDay) -> dict[str, str]:
    """Write the bundle of each outcome of a verification, commit to those that are new; outcome id → SHA-256.

    A file is there whole or not at all; one that is there already is left. Files come before their leaves: a crash
    between the two leaves files that the next verification of the same days commits to.
    """
    folder = project.project.evidence_root
    made = {}
    for bundle in bundles(record_of(project, day)):
        _write(folder, bundle)
        made[bundle.outcome_id] = bundle.sha256
    handle = project.handle("verifier")
    with handle.transaction() as transaction:
        # The newest leaf of a subject is its evidence now; saying the same again would say nothing.
        known = _committed(transaction.read_books("log_commitments", {"kind": "bundle"}, columns=["leaf"]))
        for outcome, sha256 in made.items():
            if (outcome, sha256) not in known:
                transaction.commit_bundle(outcome, sha256)
    return made


def record_of(project: ProjectResource, day: VerifiedDay) -> Record:
    """Everything a verification was made from, read again from where it came from.

    Raises ``RuntimeError`` where the lake was restated meanwhile: its files would not be those of the rows.
    """
    handle, lake = project.handle("verifier"), Lake(project.project.lake_root)
    slots = {table: lake.slots(table) for table in EVIDENCE_TABLES}
    jobs = pc.unique(day.moved.runs.column("run_id").cast(pa.string()))
    first, end = _span(day)
    emissions = _of_jobs(handle.read_lake("emissions", first, end, columns=EMISSIONS_COLUMNS), jobs)
    ledger = _of_jobs(handle.read_lake("activity_ledger", first, end, columns=LEDGER_COLUMNS), jobs)
    ids = [c.recommendation_id for c in day.cases]
    approvals = handle.read_books("approvals", {"recommendation_id": ids}).to_pylist()
    prices = list_prices(project.project, first, day.until)
    homes = _homes(project, day.cases)
    for table, before in slots.items():
        after = lake.slots(table)
        changed = [slot for slot, sha in before.items() if after.get(slot) != sha]
        if changed:
            raise RuntimeError(f"{table}: {changed[0]} was restated while its evidence was gathered: verify again")
    return Record(
        cases=day.cases,
        moved=day.moved,
        claims=day.claims,
        grid=day.grid,
        factors=day.factors,
        factor_set=day.factor_set,
        verified=day.verified,
        outcomes=outcome_rows(day, {}),
        emissions=emissions,
        ledger=ledger,
        prices=PRICE_SCHEMA.empty_table() if prices is None else prices,
        register=workload_register(project.project),
        latency=market_at(project.project, first).latency,
        homes=homes,
        approvals=sorted(approvals, key=lambda row: (row["signed_at"], row["approval_id"])),
        slots=slots,
        accounting_method=project.project.method,
        code_version=__version__,
        seed=project.project.seed,
    )


def _write(folder: Path, bundle: Bundle) -> None:
    path = folder / f"{bundle.sha256}.json"
    try:
        if path.read_bytes() == bundle.data:
            return
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{bundle.sha256}.{os.getpid()}.tmp"
    temporary.write_bytes(bundle.data)
    temporary.replace(path)


def _committed(leaves: pa.Table) -> set[tuple[str, str]]:
    said = [json.loads(leaf) for leaf in leaves.column("leaf").to_pylist()]
    return {(leaf["subject"], leaf["sha256"]) for leaf in said}


def _of_jobs(table: pa.Table, jobs: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table.column("job_id"), jobs))


def _span(day: VerifiedDay) -> tuple[datetime, datetime]:
    """The hours that the verification read the runs' usage from."""
    hours = [
        datetime.fromisoformat(row["requested_hour"])
        for case in day.cases
        for intent in case.intents
        for row in intent["payload"]["change"].get("placements", ())
    ]
    first = min(hours) if hours else min(c.executed["occurred_at"] for c in day.cases)
    first = first.replace(minute=0, second=0, microsecond=0)
    return first, max(day.until, first + _HOUR)


def _homes(project: ProjectResource, cases: Sequence[Case]) -> dict[tuple[str, str], str]:
    """Home region of each group of a frozen plan, by recommendation and group."""
    planned = sorted({datetime.fromisoformat(c.proposal["planned_for"]) for c in cases})
    columns = ["recommendation_id", "job_id", "home_region"]
    found: list[dict[str, Any]] = (
        project.handle("verifier").read_lake("placements", planned[0], planned[-1] + _DAY, columns=columns).to_pylist()
    )
    return {(r["recommendation_id"], r["job_id"]): r["home_region"] for r in found}

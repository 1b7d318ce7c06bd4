"""Evidence at the lake, the books and the log: bundles written beside the lake and committed to.

Belongs here: gathering what a verification was made from, the files, the leaves. Does not belong here: what a bundle
holds (``agents.verifier.evidence``), checking one (``faces.evidence``).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster import __version__
from sust_dagster.agents.verifier.evidence import COMPARISONS, Bundle, Compared, Record, bundles, comparisons
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import VerifiedDay, outcome_rows, slots_of
from sust_dagster.world.lake import slot_name


def write_evidence(project: ProjectResource, day: VerifiedDay) -> dict[str, str]:
    """Write the bundle of each outcome of a verification, commit to those that are new; outcome id → SHA-256.

    A file is there whole or not at all; one that is there already is left. Files come before their leaves: a crash
    between the two leaves files that the next verification of the same days commits to.
    """
    folder = project.project.evidence_root
    record, made = record_of(project, day), {}
    for document in record.comparisons:
        _write(folder / COMPARISONS, document)
    for bundle in bundles(record):
        _write(folder, bundle)
        made[bundle.outcome_id] = bundle.sha256
    handle = project.handle("verifier")
    with handle.transaction() as transaction:
        # The newest leaf of a subject is its evidence now; saying the same again would say nothing.
        newest = _newest(transaction.read_books("log_commitments", {"kind": "bundle"}))
        for outcome, sha256 in made.items():
            if newest.get(outcome) != sha256:
                transaction.commit_bundle(outcome, sha256)
    return made


def record_of(project: ProjectResource, day: VerifiedDay) -> Record:
    """Everything a verification was made from: the very rows it read, and what the books hold of its cases.

    Raises ``RuntimeError`` where the lake was restated since the verification began, or rows came from a file that was
    not there then: the files that the evidence names would not be those of the rows.
    """
    ids = [c.recommendation_id for c in day.cases]
    approvals = project.handle("verifier").read_books("approvals", {"recommendation_id": ids}).to_pylist()
    _same_files(day, slots_of(project.project))
    homes = (day.homes[name].to_pylist() for name in ("recommendation_id", "job_id", "home_region"))
    settings = project.project
    return Record(
        cases=day.cases,
        moved=day.moved,
        claims=day.claims,
        grid=day.grid,
        factors=day.factors,
        factor_set=day.factor_set,
        verified=day.verified,
        outcomes=outcome_rows(day, {}),
        emissions=day.emissions,
        ledger=day.ledger,
        prices=day.prices,
        register=day.register,
        latency=day.latency,
        needs=day.needs,
        comparison=day.comparison,
        comparisons=comparisons(
            day.comparison, day.slots["emissions"], seed=settings.seed, share=settings.holdout_share
        ),
        homes={(recommendation, group): home for recommendation, group, home in zip(*homes, strict=True)},
        approvals=sorted(approvals, key=lambda row: (row["signed_at"], row["approval_id"])),
        slots=day.slots,
        accounting_method=settings.method,
        code_version=__version__,
        seed=settings.seed,
    )


def _same_files(day: VerifiedDay, now: Mapping[str, Mapping[str, str]]) -> None:
    """The files of the lake that were there before the rows were read are there still, and hold all of the rows."""
    hours = pc.unique(pc.floor_temporal(day.emissions["started_at"], unit="hour")).to_pylist()
    held = {slot_name("hour", hour) for hour in hours}
    for table, before in day.slots.items():
        changed = [slot for slot, sha in before.items() if now[table].get(slot) != sha]
        if table in ("activity_ledger", "emissions"):
            changed += sorted(held - set(before))
        if changed:
            raise RuntimeError(f"{table}: {changed[0]} was restated while its evidence was gathered: verify again")


def _write(folder: Path, document: Bundle | Compared) -> None:
    path = folder / f"{document.sha256}.json"
    try:
        if path.read_bytes() == document.data:
            return
    except FileNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{document.sha256}.{secrets.token_hex(8)}.tmp"
    temporary.write_bytes(document.data)
    temporary.replace(path)


def _newest(leaves: pa.Table) -> dict[str, str]:
    """The bundle that each outcome's newest leaf names."""
    ordered = leaves.sort_by("leaf_index").column("leaf").to_pylist()
    return {leaf["subject"]: leaf["sha256"] for leaf in map(json.loads, ordered)}

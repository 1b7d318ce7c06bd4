"""`sust execute`: what carrying out approved recommendations would change exactly, and doing it.

Belongs here: the dry run over the execution desk, the one Dagster run that acts, results as plain values. Does not
belong here: what may be executed and how (``orchestration.execution_desk``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sust_dagster.orchestration.executing import execution_desk
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project


def moment_of(project: Project, at: str) -> datetime:
    """The moment to act at: ``at`` (ISO 8601), else the project's present. Raises ``ValueError`` for no such moment."""
    if not at:
        return project.present()
    moment = datetime.fromisoformat(at)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def dry_runs(project: Project, recommendations: Sequence[str], now: datetime) -> list[dict[str, Any]]:
    """The exact change of each recommendation (default: of everything approved) and what speaks against it."""
    with ProjectResource(root=str(project.root)) as resource:
        desk = execution_desk(resource, now)
        found = [desk.dry_run(r, now) for r in recommendations or desk.due()]
    return [
        {
            "recommendation_id": run.recommendation_id,
            "target": run.target,
            "state": run.state,
            "would_execute": run.ok,
            "against": [f"{c.name}: {c.why}" for c in run.checks if not c.ok],
            "problem": run.problem,
            "fell_back": [f.as_json() for f in run.fell_back],
            "change": None if run.preview is None else dict(run.preview.change),
            "text": None if run.preview is None else run.preview.text,
        }
        for run in found
    ]


def execute_approved(project: Project, now: datetime) -> dict[str, Any]:
    """Carry out everything approved, as one Dagster run of the day; what became of it, by recommendation state.

    Raises ``RunError`` when the run fails.
    """
    from sust_dagster.faces.runs import open_instance, run_job
    from sust_dagster.orchestration.build import build_defs

    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    config = {"ops": {"executions": {"config": {"at": now.isoformat()}}}}
    before = _states(project)
    defs = build_defs(project, with_marts=False)
    with open_instance(project) as instance:
        run_job(defs, instance, "execute_approved", days=(day, day), reason="asked for by a person", config=config)
    after = _states(project)
    changed = {r: s for r, s in after.items() if before.get(r) != s}
    names = ("executed", "failed", "executing")
    done = {name: sorted(r for r, state in changed.items() if state == name) for name in names}
    return {"at": now.isoformat(), **done, "held": sorted(r for r, s in after.items() if s == "approved")}


def _states(project: Project) -> dict[str, str]:
    with ProjectResource(root=str(project.root)) as resource:
        events = resource.handle("executor").read_books(
            "decision_events", columns=["recommendation_id", "sequence", "to_status"]
        )
    ordered = sorted(events.to_pylist(), key=lambda e: e["sequence"])
    return {e["recommendation_id"]: e["to_status"] for e in ordered}

"""`sust backfill` and `sust restate`: a range of hours again, as one Dagster run.

Belongs here: which range, what the lake committed, and the report of differences. Unchanged hours make no commit;
a changed hour is a restatement whose old version stays readable.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pcsv
from rich.progress import Progress

from sust_dagster.faces.hours import missing_ranges
from sust_dagster.faces.runs import open_instance, run_job
from sust_dagster.orchestration.assets.marts import DBT_PROJECT
from sust_dagster.orchestration.build import build_defs
from sust_dagster.orchestration.jobs import HOURLY_ASSETS
from sust_dagster.orchestration.restated import restated, verify_command
from sust_dagster.settings import Project
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import EMISSION_FACTORS


def run_backfill(
    project: Project,
    start: datetime | None,
    end: datetime | None,
    reason: str,
    bars: Progress,
    *,
    only_missing: bool = False,
    marts: bool = True,
) -> dict[str, Any]:
    """Sense and model ``[start, end)`` (default: the project's hours); returns what was committed.

    Raises ``RunError`` when a step or a blocking check fails, ``ValueError`` for a range outside the project.
    """
    window = _within(project, start, end)
    lake = Lake(project.lake_root)
    before = {t: lake.version(t) for t in HOURLY_ASSETS}
    marts = marts and DBT_PROJECT.is_dir()
    task = bars.add_task("load the definitions", total=1)
    defs = build_defs(project, with_marts=marts)
    bars.update(task, completed=1)
    with open_instance(project) as instance:
        run_job(defs, instance, "factors")
        windows = missing_ranges(instance, *window) if only_missing else [window]
        for part in windows:
            _run_hours(defs, instance, part, reason, bars)
        if marts:
            task = bars.add_task("build and test the marts", total=1)
            run_job(defs, instance, "daily_marts")
            bars.update(task, completed=1)
    return {
        "start": window[0].isoformat(),
        "end": window[1].isoformat(),
        "hours": sum(_hours(w) for w in windows),
        "runs": len(windows),
        **_commits(lake, before),
    }


def run_restatement(
    project: Project,
    start: datetime | None,
    end: datetime | None,
    reason: str,
    out: Path,
    bars: Progress,
    *,
    factors: Path | None = None,
    reviewer: str = "",
) -> dict[str, Any]:
    """Account ``[start, end)`` again with the factors active now and write what changed to ``out``.

    ``factors``: a CSV of new factor versions, proposed by the accountant and activated by ``reviewer``.
    """
    from sust_dagster.agents.accountant.restate import diff_report
    from sust_dagster.orchestration.resources import ProjectResource

    window = _within(project, start, end)
    lake = Lake(project.lake_root)
    before = lake.version("emissions")
    if before is None:
        raise ValueError(f"{project.root} has no emissions to restate; run `sust backfill` first")
    if factors is not None:
        now = datetime.now(UTC)
        with ProjectResource(root=str(project.root)) as resource:
            proposed = resource.factor_store.propose(_read_factors(factors), now=now)
            for factor_id in proposed.column("factor_id").to_pylist():
                resource.factor_store.review(factor_id, "activate", reviewer=reviewer, reason=reason, now=now)
    defs = build_defs(project, with_marts=False)
    with open_instance(project) as instance:
        _run_hours(defs, instance, window, reason, bars, job="restate_emissions", tables=1)
    old = lake.read("emissions", *window, as_of=before)
    report = diff_report(old, lake.read("emissions", *window))
    out.parent.mkdir(parents=True, exist_ok=True)
    pcsv.write_csv(report, out)
    total = next((r for r in report.to_pylist() if r["scope"] == "total"), {})
    figures = {k: v for k, v in total.items() if k not in ("scope", "item")}
    found = {"reason": reason, "report": str(out), **_commits(lake, {"emissions": before}), **figures}
    return {**found, **_awaiting(project)}


def _awaiting(project: Project) -> dict[str, Any]:
    """How many outcomes rest on data that was restated since, and what verifies them again."""
    found = restated(project, project.present())
    days = found.days(project)
    return {
        "outcomes_restated": len(found.outcomes),
        "next": "" if days is None else f"{verify_command(*days)}: it verifies these outcomes again",
    }


def _run_hours(
    defs: Any, instance: Any, window: tuple[datetime, datetime], reason: str, bars: Progress,
    *, job: str = "hourly_sense_and_model", tables: int = len(HOURLY_ASSETS),
) -> None:  # fmt: skip
    hours = _hours(window)
    task = bars.add_task(f"sense and model {hours} hours in one run", total=hours * tables)
    run_job(
        defs, instance, job, window=window, reason=reason,
        progress=lambda _, stored: bars.advance(task, stored),
    )  # fmt: skip
    bars.update(task, completed=hours * tables)


def _hours(window: tuple[datetime, datetime]) -> int:
    return int((window[1] - window[0]).total_seconds() // 3600)


def _within(project: Project, start: datetime | None, end: datetime | None) -> tuple[datetime, datetime]:
    first, last = project.start, project.last_hour_end()
    start, end = start or first, end or last
    if not first <= start < end <= last:
        raise ValueError(f"{start}..{end} is not within the project's hours, {first}..{last}")
    return start, end


def _commits(lake: Lake, before: dict[str, int | None]) -> dict[str, Any]:
    """New versions and restated slots by table since ``before``."""
    commits = {t: (lake.version(t) or 0) - (v or 0) for t, v in before.items()}
    restated = {
        t: len([1 for version, *_ in lake.restatements(t) if v is None or version > v]) for t, v in before.items()
    }
    return {"commits": commits, "restated_hours": restated}


def _read_factors(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV of factors: an empty cell is none, a time without a zone is UTC.

    Raises ``ValueError`` naming line and column of a cell that does not fit.
    """
    kinds = {c.name: c.type for c in EMISSION_FACTORS.columns}
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        for cells in reader:
            row = {}
            for name, cell in cells.items():
                try:
                    row[name] = _cell(cell, kinds.get(name))
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {reader.line_num}, column {name}: {error}") from error
            rows.append(row)
    return rows


def _cell(text: str | None, kind: pa.DataType | None) -> Any:
    if text is None or not text.strip():
        return None
    if kind is None:
        raise ValueError("there is no such column")
    if pa.types.is_timestamp(kind):
        value = datetime.fromisoformat(text.strip())
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return float(text) if pa.types.is_floating(kind) else int(text)
    return text.strip()

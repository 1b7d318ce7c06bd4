"""The access log holds every read of a run, those after its last write as well."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dagster_worlds import HOUR, START, billed, fill, focus_bill, run

from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.settings import Project
from sust_dagster.world.access import World
from sust_dagster.world.books import Books

Reads = Counter[tuple[str, str]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Reads that were made through handles, counted where they are made."""
    counted: Reads = Counter()
    count = World.count_read

    def counting(self: World, agent: str, table: str) -> None:
        counted[agent, table] += 1
        count(self, agent, table)  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(World, "count_read", counting)
    return counted


def logged(project: Project) -> Reads:
    """Reads as the access log has them."""
    found: Reads = Counter()
    with Books(project.books_address) as books:
        for entry in books.read("access_log", {"verb": "read", "allowed": True}).to_pylist():
            found[entry["agent"], entry["table_name"]] += int(entry["detail"].removeprefix("reads="))
    return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return billed(tmp_path / "project", focus_bill(2), hours=2)


def test_every_read_of_runs_is_logged(project: Project, made: Reads) -> None:
    fill(project)
    assert made["accountant", "emission_factors"] >= 2 and made["ingestor", "activity_ledger"] >= 1
    assert logged(project) == made
    before = made.copy()
    run(project, window=(START, START + 2 * HOUR))  # writes nothing: all of its reads are after the last write
    assert made.total() > before.total()
    assert logged(project) == made


def test_without_closing_reads_would_be_lost(project: Project, made: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(ProjectResource, "close", lambda self: None)
    fill(project)
    assert logged(project) != made


def test_a_failed_run_logs_its_reads_too(project: Project, made: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    run(project, "factors")
    Path(project.billing[0]).write_bytes(b"PAR1 no bill")
    assert not run(project, window=(START, START + 2 * HOUR), ok=False).success
    assert logged(project) == made


def test_a_resource_of_ones_own_is_closed_by_its_block(project: Project, made: Reads) -> None:
    with ProjectResource(root=str(project.root)) as resource:
        resource.install_factors()
        resource.handle("accountant").read_books("emission_factors")
    assert made and logged(project) == made
    resource.close()  # there is nothing left to close
    assert resource.handle("accountant").read_books("emission_factors").num_rows, "it opens again when needed"
    resource.close()
    assert logged(project) == made

"""Evidence holds the very rows that were verified, and only while the lake's files are still those of the rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from evidence_worlds import DAY, HOUR, NOW, START, make_project

from sust_dagster.orchestration.evidence_desk import record_of, write_evidence
from sust_dagster.orchestration.resources import ProjectResource
from sust_dagster.orchestration.verification_desk import VerificationDesk, VerifiedDay
from sust_dagster.world.lake import Lake, slot_name

AFTER = START + 4 * HOUR


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_project(tmp_path_factory.mktemp("gathering") / "project").root)


@pytest.fixture
def resource(root: Path, tmp_path: Path) -> Iterator[ProjectResource]:
    shutil.copytree(root, tmp_path / "project")
    with ProjectResource(root=str(tmp_path / "project")) as made:
        yield made


def verified(resource: ProjectResource) -> VerifiedDay:
    day = VerificationDesk(resource).verify(START, START + DAY, NOW)
    assert day is not None
    return day


def restate(resource: ProjectResource, table: str, agent: str, column: str) -> str:
    """Another number in every row of one hour of a table; the slot."""
    hour = next(AFTER + i * HOUR for i in range(24) if slot_name("hour", AFTER + i * HOUR) in _slots(resource, table))
    rows = Lake(resource.project.lake_root).read(table, hour, hour + HOUR)
    at = rows.column_names.index(column)
    field = rows.schema.field(at)
    changed = rows.set_column(at, field, pc.multiply(rows[column], 1.5).cast(field.type))
    resource.world.handle(agent).write_lake(table, changed, hour, hour + HOUR, reason="a test")
    return slot_name("hour", hour)


def _slots(resource: ProjectResource, table: str) -> dict[str, str]:
    return Lake(resource.project.lake_root).slots(table)


@pytest.mark.parametrize(
    ("table", "agent", "column"),
    [
        ("emissions", "accountant", "energy_kwh"),
        ("activity_ledger", "ingestor", "cost_usd"),
        ("grid_intensity", "accountant", "intensity_kgco2_kwh"),
    ],
)
def test_what_was_restated_since_it_was_read_is_no_evidence(
    resource: ProjectResource, table: str, agent: str, column: str
) -> None:
    day = verified(resource)
    slot = restate(resource, table, agent, column)
    said = f"{table}: {slot} was restated while its evidence was gathered: verify again"
    with pytest.raises(RuntimeError, match=said):
        write_evidence(resource, day)
    assert not list(resource.project.evidence_root.glob("*.json"))
    # Verified again it is, and what it holds are the new rows.
    assert len(write_evidence(resource, verified(resource))) == len(day.cases)


def test_rows_of_a_file_that_came_later_are_no_evidence(resource: ProjectResource) -> None:
    """As if the hour had been written between the look at the files and the reading of the rows."""
    day = verified(resource)
    slot = slot_name("hour", day.emissions["started_at"][0].as_py())
    early = {table: {s: sha for s, sha in held.items() if s != slot} for table, held in day.slots.items()}
    with pytest.raises(RuntimeError, match=f"{slot} was restated while its evidence was gathered"):
        record_of(resource, replace(day, slots=early))
    # An hour that holds no row of these runs is nobody's matter.
    empty = replace(day, emissions=day.emissions.slice(0, 0), slots=early)
    assert record_of(resource, empty).slots == early


def test_the_record_is_what_was_read(resource: ProjectResource) -> None:
    day = verified(resource)
    record = record_of(resource, day)
    jobs = pc.unique(day.moved.runs["run_id"].cast(pa.string()))
    lake = Lake(resource.project.lake_root)
    for table, held in (("emissions", record.emissions), ("activity_ledger", record.ledger)):
        own = lake.read(table, columns=held.column_names)
        assert held.num_rows and held.equals(own.filter(pc.is_in(own["job_id"], jobs)))
    assert set(record.homes.values()) == {"us-east-1"}
    assert record.slots["emissions"] == _slots(resource, "emissions")

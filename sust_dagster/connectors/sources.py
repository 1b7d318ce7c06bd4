"""Which sources a project reads: its settings turned into a billing source and a grid source.

Belongs here: the choice, and nothing else. A simulated cloud, a replayed trace, files and URLs are interchangeable
behind the two protocols.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache

from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.connectors.billing import BillingSource, FileBilling, TableBilling, load_mapping
from sust_dagster.connectors.billing.simulated import SimulatedBilling
from sust_dagster.connectors.grid import GridSource, open_grid
from sust_dagster.connectors.grid.simulated import SimulatedGrid
from sust_dagster.connectors.schedulers.placement_file import in_force, placements_path, read_content, rows_of
from sust_dagster.reference import instances
from sust_dagster.reference import regions as reference_regions
from sust_dagster.settings import Project
from sust_dagster.simulator.cloud import FakeCloud
from sust_dagster.simulator.regions import REGION_IDS
from sust_dagster.simulator.replay import Replay

#: A range that holds every published grid trace.
_ALL_TIME = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def fake_cloud(project: Project) -> FakeCloud:
    """The simulated cloud of a project as it is now, with what was placed in it.

    Its grid replays a file where the project names one.
    """
    return _changed_cloud(project.seed, project.grid_replay, read_content(placements_path(project.root)))


def untouched_cloud(project: Project) -> FakeCloud:
    """The twin of :func:`fake_cloud` in which nothing was ever placed: what would have been. For scoring only."""
    return _fake_cloud(project.seed, project.grid_replay)


@lru_cache(maxsize=4)
def _changed_cloud(seed: int, replay: str, placements: bytes) -> FakeCloud:
    """``placements`` is the content of their file: a new content makes a new cloud."""
    cloud = _fake_cloud(seed, replay)
    return cloud.with_placements(in_force(rows_of(placements))) if placements else cloud


@lru_cache(maxsize=2)
def _fake_cloud(seed: int, replay: str) -> FakeCloud:
    if not replay:
        return FakeCloud(seed)
    trace = open_grid(replay).read(*_ALL_TIME, REGION_IDS)
    return FakeCloud(seed, replay=Replay(trace, wrap="hour_of_year"))


def open_billing(project: Project) -> BillingSource:
    """Where the project's activity comes from."""
    if project.source == "simulated":
        # Asked for at each read: what is placed while the project is open is in the next bill.
        return TableBilling(lambda start, end: SimulatedBilling(fake_cloud(project)).read(start, end), "simulated")
    return FileBilling(project.billing)


def open_grid_source(project: Project) -> GridSource:
    """Where the project's grid intensity comes from."""
    if project.grid == "simulated":
        return SimulatedGrid(fake_cloud(project))
    return open_grid(project.grid)


def regions_of(project: Project) -> Sequence[str]:
    """Regions the project keeps grid intensity for."""
    if project.grid == "simulated":
        return REGION_IDS
    return reference_regions().column("region").to_pylist()


def ingest_options(project: Project) -> IngestOptions:
    """How the project's bills become activity: mapping, instance types, currency rates."""
    return IngestOptions(mapping=load_mapping(project.mapping), instances=instances(), fx_usd=project.fx_usd)

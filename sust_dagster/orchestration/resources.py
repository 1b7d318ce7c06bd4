"""Resources: how a step reaches the world and the outside.

Belongs here: the project resource, which opens the lake and the books once per process and hands each agent
a handle that refuses what the agent may not do. No business rule.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from typing import Self

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from sust_dagster import __version__, reference
from sust_dagster.agents.accountant import FactorSet
from sust_dagster.agents.ingestor import IngestOptions
from sust_dagster.connectors.billing import BillingSource
from sust_dagster.connectors.grid import GridSource
from sust_dagster.connectors.instruments import read_instruments
from sust_dagster.connectors.sources import ingest_options, open_billing, open_grid_source, regions_of
from sust_dagster.settings import Project, load_project
from sust_dagster.world.access import AgentHandle, World
from sust_dagster.world.books import Books
from sust_dagster.world.factor_store import FactorStore, Seeded
from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import Agent


class ProjectResource(dg.ConfigurableResource):
    """The project in ``root``: its settings, its world and its sources.

    Dagster closes it when a run ends; whoever makes one of their own uses it in a ``with`` block.
    """

    root: str

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - Dagster's signature
        self.close()

    def close(self) -> None:
        """Write down the last reads and close the books, if they were opened; they open again when needed."""
        world = self.__dict__.pop("world", None)
        if world is not None:
            world.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def project(self) -> Project:
        return load_project(self.root)

    @cached_property
    def world(self) -> World:
        return World(Lake(self.project.lake_root), Books.open(self.project.books_address))

    def handle(self, agent: Agent) -> AgentHandle:
        """What this agent, and no other, may read and write."""
        return self.world.handle(agent)

    @cached_property
    def billing(self) -> BillingSource:
        return open_billing(self.project)

    @cached_property
    def grid(self) -> GridSource:
        return open_grid_source(self.project)

    @cached_property
    def regions(self) -> Sequence[str]:
        return regions_of(self.project)

    @property
    def instances(self) -> pa.Table:
        """Instance types of the reference tables."""
        return reference.instances()

    @cached_property
    def instruments(self) -> pa.Table | None:
        """Market instruments of the project, if it names a file of them."""
        return read_instruments(self.project.instruments) if self.project.instruments else None

    @cached_property
    def ingest_options(self) -> IngestOptions:
        """Mapping, instance types and currency rates of the project."""
        return ingest_options(self.project)

    @property
    def factor_store(self) -> FactorStore:
        return FactorStore(self.handle("accountant"))

    def install_factors(self) -> Seeded:
        """Put the factors shipped with this release into the books; safe to run again."""
        return self.factor_store.seed_shipped(
            reference.shipped_factors(), package_version=__version__, now=datetime.now(UTC)
        )

    def factor_epochs(self, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime, FactorSet]]:
        """``[start, end)`` cut where a factor version begins or ceases to be valid, each part with its set."""
        versions = self.handle("accountant").read_books("emission_factors", columns=["valid_from", "valid_to"])
        named = (pc.unique(versions.column(name)).to_pylist() for name in ("valid_from", "valid_to"))
        instants = {t for times in named for t in times if t}
        edges = [start, *sorted(t for t in instants if start < t < end), end]
        for first, last in pairwise(edges):
            yield first, last, FactorSet.from_table(self.factor_store.active(first))

"""How dbt reads the world: a dbt-duckdb plugin over the lake and the books, and the sources it offers.

Belongs here: the plugin (loaded by name from ``dbt_project/profiles.yml``) and the generator of
``sources.yml`` from ``world/schemas.py``. Run this module to write that file anew; a test holds it current.
The adapter's own Delta plugin is not used: see :meth:`sust_dagster.world.lake.Lake.dataset`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import yaml
from dbt.adapters.duckdb.plugins import BasePlugin
from dbt.adapters.duckdb.utils import SourceConfig

from sust_dagster.world.lake import Lake
from sust_dagster.world.schemas import TABLES

SOURCES_FILE = Path(__file__).parents[2] / "dbt_project" / "models" / "sources.yml"

#: Lake and book tables that marts are built from.
LAKE_SOURCES = ("activity_ledger", "quarantine", "grid_intensity", "emissions", "outcomes")
BOOK_SOURCES = ("emission_factors",)


class Plugin(BasePlugin):
    """Offers lake tables as Arrow datasets (scanned with push-down) and book tables as Arrow tables."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:  # noqa: ARG002 - the same for all projects
        self.lake = Lake(os.environ.get("SUST_LAKE_URL", "../demo/lake"))
        self.books_url = os.environ.get("SUST_BOOKS_URL", "sqlite:///../demo/books.db")

    def load(self, source_config: SourceConfig) -> pa.Table | pads.Dataset:
        table = source_config.identifier
        if table == "lake_files":
            return self.lake.inventory(LAKE_SOURCES)
        if TABLES[table].home == "lake":
            return self.lake.dataset(table)
        from sust_dagster.world.books import Books

        with Books.open(self.books_url) as books:
            return books.read(table)

    def default_materialization(self) -> str:
        return "view"


def sources_yaml() -> str:
    """``sources.yml``: every source table with its columns, docs and the asset that makes it."""

    def table(name: str) -> dict[str, Any]:
        spec = TABLES[name]
        return {
            "name": name,
            "description": spec.doc,
            "meta": {"dagster": {"asset_key": [name]}, "plugin": "lake"},
            "columns": [
                {"name": c.name, "description": f"{c.doc} [{c.unit}]" if c.unit else c.doc} for c in spec.stored
            ],
        }

    files = {
        "name": "lake_files",
        "description": "Active file of every slot of the lake, with its hash and the time of its commit.",
        "meta": {"plugin": "lake", "dagster": {"asset_key": ["lake_files"]}},
    }
    document = {
        "version": 2,
        "sources": [
            {"name": "lake", "schema": "lake", "tables": [*(table(n) for n in LAKE_SOURCES), files]},
            {"name": "books", "schema": "books", "tables": [table(n) for n in BOOK_SOURCES]},
        ],
    }
    header = "# Derived from sust_dagster/world/schemas.py by `python -m sust_dagster.orchestration.dbt_lake`.\n"
    return header + yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


if __name__ == "__main__":
    SOURCES_FILE.write_text(sources_yaml())

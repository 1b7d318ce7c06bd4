"""From a table's declaration to what Dagster shows of it: description, column schema, owner, kinds.

Belongs here: the translation, once, so no asset repeats its columns. Column docs come from ``world/schemas.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from sust_dagster.world.schemas import TABLES, Agent, TableSpec

#: Groups of the UI, in the order of the loop.
GROUP_BY_AGENT: Mapping[Agent, str] = {
    "ingestor": "sense",
    "accountant": "model",
    "planner": "decide",
    "governance": "decide",
    "executor": "act",
    "verifier": "verify",
    "learner": "learn",
    "copilot": "learn",
}


def table_schema(spec: TableSpec) -> dg.TableSchema:
    """Columns of a table with type, unit and meaning."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=c.name,
                type=str(c.type),
                description=f"{c.doc} [{c.unit}]" if c.unit else c.doc,
                constraints=dg.TableColumnConstraints(nullable=c.nullable, unique=spec.key == (c.name,)),
            )
            for c in spec.columns
        ]
    )


def asset_properties(table: str, agent: Agent) -> dict[str, Any]:
    """Keyword arguments shared by ``@asset`` and ``AssetOut`` for a table that ``agent`` writes."""
    spec = TABLES[table]
    return {
        "description": spec.doc,
        "group_name": GROUP_BY_AGENT[agent],
        "owners": [f"team:{agent}"],
        "kinds": {"deltalake" if spec.home == "lake" else "sqlite", "pyarrow"},
        "metadata": {
            "agent": agent,
            "dagster/column_schema": table_schema(spec),
            "dagster/table_name": table,
            "home": spec.home,
            "key": ", ".join(spec.key),
            **({"partitioned_by": f"{spec.time_column}, by {spec.partition} (UTC)"} if spec.time_column else {}),
        },
    }


def column_lineage(upstream: Mapping[str, Mapping[str, Sequence[str]]]) -> dg.TableColumnLineage:
    """Lineage from ``{column: {upstream table: [upstream columns]}}``."""
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key=dg.AssetKey(table), column_name=name)
                for table, names in sources.items()
                for name in names
            ]
            for column, sources in upstream.items()
        }
    )

"""Bring the tables, guards and views of a database up to the declarations.

Belongs here: what can be derived: missing tables, missing columns that may be null, triggers, views. Whatever
needs a decision (a new required column, a changed type) is refused here and written in a revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from sust_dagster.world.books_schema import METADATA, guards


def reconcile(connection: sa.Connection) -> None:
    """Create what is declared and not there yet; never change or remove what is."""
    METADATA.create_all(connection)
    operations = Operations(MigrationContext.configure(connection))
    inspector = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        present = {c["name"] for c in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name in present:
                continue
            if not column.nullable:
                raise RuntimeError(
                    f"{table.name}.{column.name} is new and required: the revision must add and fill it first"
                )
            operations.add_column(table.name, sa.Column(column.name, column.type, comment=column.comment))
    for statement in guards(connection.dialect.name):
        connection.execute(sa.text(statement))

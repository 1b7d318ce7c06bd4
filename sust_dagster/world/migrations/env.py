"""Alembic's entry: runs the revisions on the connection that ``books`` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from sust_dagster.world.books_schema import METADATA
from sust_dagster.world.migrations import VERSION_TABLE

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("the books migrate themselves: open them with sust_dagster.world.books.Books.open(url)")
context.configure(connection=connection, target_metadata=METADATA, version_table=VERSION_TABLE)
context.run_migrations()

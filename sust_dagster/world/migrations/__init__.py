"""How books that exist become books as declared: Alembic revisions, shipped with the package.

Belongs here: one revision per change of the declarations (``r0002_...py``, copying the shape of the newest), and
``reconcile``, which brings tables, guards and views up to the declarations. A revision does by hand only
what that cannot: filling a new required column, moving data. There is no way down: the books are append-only.
"""

from __future__ import annotations

#: The revision this release writes and reads.
HEAD = "0002"

#: Where a database notes its revision; not Alembic's default name, which Dagster uses in the same database.
VERSION_TABLE = "books_version"

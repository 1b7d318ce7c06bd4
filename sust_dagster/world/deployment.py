"""Files an operator applies, derived from the declarations: SQL of the books, roles, object-store policies.

Belongs here: writing them to ``deploy/``. Run this module after the declarations or the permission matrix changed; a
test holds the files current.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sust_dagster.world.books_schema import postgres_script
from sust_dagster.world.permissions import object_store_policy, postgres_grants

FOLDER = Path(__file__).parents[2] / "deploy"

#: Where the policy's paths point; operators replace it with their own.
EXAMPLE_LAKE = "s3://example-lake/sust"


def files() -> Mapping[str, str]:
    """Relative path → content of every derived file."""
    source = "sust_dagster/world by `python -m sust_dagster.world.deployment`"
    policy = json.dumps(object_store_policy(EXAMPLE_LAKE), indent=2, sort_keys=True)
    return {
        "postgres/1_books.sql": f"-- Derived from {source}. Run as the owner of the database.\n{postgres_script()}",
        "postgres/2_roles.sql": f"-- Derived from {source}. Run as the owner, after 1_books.sql.\n{postgres_grants()}",
        "object_store_policy.json": policy + "\n",
    }


def write() -> None:
    """Write the files anew."""
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    write()

"""The books as first released: all tables, append-only guards, the state machine, the view of decisions."""

from __future__ import annotations

from alembic import op

from sust_dagster.world.migrations.reconcile import reconcile

revision = "0001"
down_revision = None

#: Digest of the declarations this revision leads to; a test says when they have moved on without a revision.
DECLARATION = "8b4b1ec445c76519a695ea616455864cd23b3c3e49d5e1ebabe1f92b22f661bf"


def upgrade() -> None:
    reconcile(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("the books are append-only: restore a backup instead")

"""Signatures: approvals and policy_reviews, alerts; the state machine asks for two people behind a high-risk plan."""

from __future__ import annotations

from alembic import op

from sust_dagster.world.migrations.reconcile import reconcile

revision = "0002"
down_revision = "0001"

#: Digest of the declarations this revision leads to; a test says when they have moved on without a revision.
DECLARATION = "71d66165d9cb432ff6de54e8f265578f57badb3189eeb3b8e811899eb483d762"


def upgrade() -> None:
    reconcile(op.get_bind())


def downgrade() -> None:
    raise NotImplementedError("the books are append-only: restore a backup instead")

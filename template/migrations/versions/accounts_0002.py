"""Roles of accounts."""

import sqlalchemy as sa
from alembic import op

revision = "accounts_0002"
down_revision = "accounts_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "account_roles",
        sa.Column(
            "account_id",
            sa.Uuid(),
            sa.ForeignKey(
                "accounts.id", name="fk_account_roles_account_id_accounts", ondelete="CASCADE"
            ),
            primary_key=True,
        ),
        sa.Column("role", sa.String(100), primary_key=True),
    )
    op.create_index("ix_account_roles_role", "account_roles", ["role"])


def downgrade() -> None:
    op.drop_table("account_roles")

"""Things.

A branch of their own, so that they depend on no other feature's tables.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "things_0001"
down_revision = None
branch_labels = ("things",)
depends_on = None

# MySQL keeps them as text, because the UUIDs of MariaDB have an order of their own.
ID = sa.Uuid().with_variant(sa.Uuid(native_uuid=False), "mysql")
# To the microsecond, which MySQL has to be asked for.
MOMENT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")


def upgrade() -> None:
    op.create_table(
        "things",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_things")),
        mysql_charset="utf8mb4",
    )


def downgrade() -> None:
    op.drop_table("things")

"""Accounts in a SQL database: each method is a transaction, and repeated if that is undone.

Reads are fresh: a replica might not know yet that a password was changed.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, select, update
from sqlalchemy.exc import IntegrityError

from app.accounts.repository import NameTaken, StoredAccount
from app.accounts.table import AccountRow
from app.database.engine import Database
from app.database.retry import retry_once


class SqlAccountRepository:
    """Keeps what `AccountRepository` promises."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_once
    async def create(self, name: str, password_hash: str) -> StoredAccount:
        row = AccountRow(name=name, password_hash=password_hash)
        try:
            async with self._database.writing() as session:
                session.add(row)
                await session.flush()
                return _stored(row)
        except IntegrityError:
            raise NameTaken(name) from None

    @retry_once
    async def get(self, account_id: UUID) -> StoredAccount | None:
        async with self._database.reading(fresh=True) as session:
            row = await session.get(AccountRow, account_id)
            return None if row is None else _stored(row)

    @retry_once
    async def find(self, name: str) -> StoredAccount | None:
        async with self._database.reading(fresh=True) as session:
            row = await session.scalar(select(AccountRow).where(AccountRow.name == name))
            return None if row is None else _stored(row)

    @retry_once
    async def set_password(
        self, account_id: UUID, password_hash: str, *, version: int
    ) -> StoredAccount | None:
        async with self._database.writing() as session:
            changed: Any = await session.execute(
                update(AccountRow)
                .where(AccountRow.id == account_id, AccountRow.version == version)
                .values(password_hash=password_hash, version=version + 1)
                .execution_options(synchronize_session=False)
            )
            assert isinstance(changed, CursorResult)
            row = await session.get(AccountRow, account_id)
            return _stored(row) if changed.rowcount == 1 and row is not None else None

    async def replace_hash(self, account: StoredAccount, password_hash: str) -> None:
        async with self._database.writing() as session:
            await session.execute(
                update(AccountRow)
                .where(AccountRow.id == account.id, AccountRow.version == account.version)
                .values(password_hash=password_hash)
                .execution_options(synchronize_session=False)
            )


def _stored(row: AccountRow) -> StoredAccount:
    return StoredAccount(row.id, row.name, row.password_hash, row.version)

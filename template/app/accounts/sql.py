"""Accounts in a SQL database: each method is a transaction, and repeated if that is undone.

Reads are fresh: a replica might not know yet that a password was changed, or a role taken away.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import CursorResult, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.accounts.repository import LastHolder, NameTaken, Page, StoredAccount
from app.accounts.table import AccountRoleRow, AccountRow
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
            return await _one(session, AccountRow.id == account_id)

    @retry_once
    async def find(self, name: str) -> StoredAccount | None:
        async with self._database.reading(fresh=True) as session:
            return await _one(session, AccountRow.name == name)

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
            if changed.rowcount != 1:
                return None
            return await _one(session, AccountRow.id == account_id)

    async def replace_hash(self, account: StoredAccount, password_hash: str) -> None:
        async with self._database.writing() as session:
            await session.execute(
                update(AccountRow)
                .where(AccountRow.id == account.id, AccountRow.version == account.version)
                .values(password_hash=password_hash)
                .execution_options(synchronize_session=False)
            )

    @retry_once
    async def page(self, *, after: str | None, limit: int) -> Page:
        query = select(AccountRow).order_by(AccountRow.name).limit(limit + 1)
        if after is not None:
            query = query.where(AccountRow.name > after)
        async with self._database.reading(fresh=True) as session:
            found = list(await session.scalars(query))
            rows = found[:limit]
            held = await session.execute(
                select(AccountRoleRow.account_id, AccountRoleRow.role).where(
                    AccountRoleRow.account_id.in_([row.id for row in rows])
                )
            )
        roles: dict[UUID, set[str]] = {}
        for account_id, role in held:
            roles.setdefault(account_id, set()).add(role)
        return Page(
            [_stored(row, roles.get(row.id, ())) for row in rows],
            rows[-1].name if len(found) > limit else None,
        )

    async def give_role(self, account_id: UUID, role: str) -> StoredAccount | None:
        try:
            return await self._give_role(account_id, role)
        except IntegrityError:  # somebody else has given it, or deleted the account
            return await self.get(account_id)

    @retry_once
    async def _give_role(self, account_id: UUID, role: str) -> StoredAccount | None:
        async with self._database.writing() as session:
            account = await _one(session, AccountRow.id == account_id)
            if account is not None and role not in account.roles:
                session.add(AccountRoleRow(account_id=account_id, role=role))
                await session.flush()
            return account and await _one(session, AccountRow.id == account_id)

    @retry_once
    async def take_role(
        self, account_id: UUID, role: str, *, keep_last: bool
    ) -> StoredAccount | None:
        async with self._database.writing() as session:
            # Locked until the end, and in one order: of two who take it from each other, the second
            # one waits, and then sees that it would be the last.
            holders = list(
                await session.scalars(
                    select(AccountRoleRow.account_id)
                    .where(AccountRoleRow.role == role)
                    .order_by(AccountRoleRow.account_id)
                    .with_for_update()
                )
            )
            if holders == [account_id] and keep_last:
                raise LastHolder(role)
            await session.execute(
                delete(AccountRoleRow).where(
                    AccountRoleRow.account_id == account_id, AccountRoleRow.role == role
                )
            )
            return await _one(session, AccountRow.id == account_id)


async def _one(session: AsyncSession, condition: Any) -> StoredAccount | None:
    """The account with its roles, in one round trip."""
    found = (
        await session.execute(
            select(AccountRow, AccountRoleRow.role)
            .outerjoin(AccountRoleRow, AccountRoleRow.account_id == AccountRow.id)
            .where(condition)
        )
    ).all()
    if not found:
        return None
    return _stored(found[0][0], filter(None, (role for _, role in found)))


def _stored(row: AccountRow, roles: Iterable[str] = ()) -> StoredAccount:
    return StoredAccount(row.id, row.name, row.password_hash, row.version, frozenset(roles))

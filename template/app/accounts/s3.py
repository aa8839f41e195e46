"""Accounts in S3: each one an object. Its id follows from its name, so that the name is unique.

Who has which role is one object for all accounts, so that of two who take a role from each other
one sees that nobody would have it. It suits hundreds who have roles, not all who have accounts.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import BaseModel, TypeAdapter

from app.accounts.repository import LastHolder, NameTaken, Page, StoredAccount
from app.database.bucket import Bucket, Conflict, Stored

_FOLDER = "accounts/"
_ROLES = "account-roles.json"
_Holders = dict[str, set[UUID]]
_HOLDERS = TypeAdapter(_Holders)


class _Record(BaseModel):
    """What an object holds."""

    name: str
    password_hash: str
    version: int = 1


class S3AccountRepository:
    """Keeps what `AccountRepository` promises."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def create(self, name: str, password_hash: str) -> StoredAccount:
        account_id, record = _id(name), _Record(name=name, password_hash=password_hash)
        async with self._bucket.deadline():
            try:
                await self._bucket.create(_key(account_id), _body(record))
            except Conflict:
                raise NameTaken(name) from None
        return _stored(account_id, record)

    async def get(self, account_id: UUID) -> StoredAccount | None:
        async with self._bucket.deadline():
            found, roles = await self._bucket.get_many([_key(account_id), _ROLES])
        if found is None:
            return None
        return _stored(account_id, _record(found.body), _holders(roles))

    async def find(self, name: str) -> StoredAccount | None:
        return await self.get(_id(name))

    async def set_password(
        self, account_id: UUID, password_hash: str, *, version: int
    ) -> StoredAccount | None:
        return await self._replace(account_id, password_hash, version=version, new=version + 1)

    async def replace_hash(self, account: StoredAccount, password_hash: str) -> None:
        version = account.version
        await self._replace(account.id, password_hash, version=version, new=version)

    async def page(self, *, after: str | None, limit: int) -> Page:
        async with self._bucket.deadline():
            start = None if after is None else f"{_FOLDER}{after}.json"
            keys = await self._bucket.keys(_FOLDER, after=start, limit=limit + 1)
            *bodies, roles = await self._bucket.get_many([*keys[:limit], _ROLES])
        ids = [UUID(key.removeprefix(_FOLDER).removesuffix(".json")) for key in keys[:limit]]
        held = _holders(roles)
        accounts = [
            _stored(account_id, _record(found.body), held)
            for account_id, found in zip(ids, bodies, strict=True)
            if found is not None
        ]
        return Page(accounts, str(ids[-1]) if len(keys) > limit else None)

    async def give_role(self, account_id: UUID, role: str) -> StoredAccount | None:
        if await self.get(account_id) is None:
            return None
        await self._change_roles(lambda held: held.setdefault(role, set()).add(account_id))
        return await self.get(account_id)

    async def take_role(
        self, account_id: UUID, role: str, *, keep_last: bool
    ) -> StoredAccount | None:
        def take(held: _Holders) -> None:
            if keep_last and held.get(role) == {account_id}:
                raise LastHolder(role)
            held.get(role, set()).discard(account_id)

        await self._change_roles(take)
        return await self.get(account_id)

    async def _change_roles(self, change: Callable[[_Holders], None]) -> None:
        """Change who has which role, from what it is now: again, if somebody else was first."""
        async with self._bucket.deadline():
            while True:
                found = await self._bucket.get(_ROLES)
                held = _holders(found)
                change(held)
                body = _HOLDERS.dump_json(held)
                with suppress(Conflict):
                    if found is None:
                        await self._bucket.create(_ROLES, body)
                    else:
                        await self._bucket.replace(_ROLES, body, etag=found.etag)
                    return

    async def _replace(
        self, account_id: UUID, password_hash: str, *, version: int, new: int
    ) -> StoredAccount | None:
        async with self._bucket.deadline():
            found = await self._bucket.get(_key(account_id))
            if found is None or (old := _record(found.body)).version != version:
                return None
            record = _Record(name=old.name, password_hash=password_hash, version=new)
            try:
                await self._bucket.replace(_key(account_id), _body(record), etag=found.etag)
            except Conflict:
                return None
        return _stored(account_id, record)


def _id(name: str) -> UUID:
    return uuid5(NAMESPACE_OID, f"account:{name}")


def _key(account_id: UUID) -> str:
    return f"{_FOLDER}{account_id}.json"


def _record(body: bytes) -> _Record:
    return _Record.model_validate_json(body)


def _body(record: _Record) -> bytes:
    return record.model_dump_json().encode()


def _holders(found: Stored | None) -> _Holders:
    return {} if found is None else _HOLDERS.validate_json(found.body)


def _stored(
    account_id: UUID, record: _Record, held: Mapping[str, set[UUID]] = MappingProxyType({})
) -> StoredAccount:
    roles = frozenset(role for role, holders in held.items() if account_id in holders)
    return StoredAccount(account_id, record.name, record.password_hash, record.version, roles)

"""Accounts in S3: each one an object. Its id follows from its name, so that the name is unique."""

from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import BaseModel

from app.accounts.repository import NameTaken, StoredAccount
from app.database.bucket import Bucket, Conflict


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
            found = await self._bucket.get(_key(account_id))
        return None if found is None else _stored(account_id, _record(found.body))

    async def find(self, name: str) -> StoredAccount | None:
        return await self.get(_id(name))

    async def set_password(
        self, account_id: UUID, password_hash: str, *, version: int
    ) -> StoredAccount | None:
        return await self._replace(account_id, password_hash, version=version, new=version + 1)

    async def replace_hash(self, account: StoredAccount, password_hash: str) -> None:
        version = account.version
        await self._replace(account.id, password_hash, version=version, new=version)

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
    return f"accounts/{account_id}.json"


def _record(body: bytes) -> _Record:
    return _Record.model_validate_json(body)


def _body(record: _Record) -> bytes:
    return record.model_dump_json().encode()


def _stored(account_id: UUID, record: _Record) -> StoredAccount:
    return StoredAccount(account_id, record.name, record.password_hash, record.version)

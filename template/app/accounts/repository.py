"""Where accounts are kept, whatever the database."""

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


class NameTaken(Exception):
    """There is an account of this name."""


@dataclass(frozen=True, slots=True)
class StoredAccount:
    id: UUID
    name: str
    password_hash: str
    version: int
    """Grows with every change of the password. Sessions of an earlier one are over."""


class AccountRepository(Protocol):
    """Every method raises DatabaseUnavailable when the database does not answer."""

    async def create(self, name: str, password_hash: str) -> StoredAccount:
        """Raises NameTaken."""

    async def get(self, account_id: UUID) -> StoredAccount | None: ...

    async def find(self, name: str) -> StoredAccount | None: ...

    async def set_password(
        self, account_id: UUID, password_hash: str, *, version: int
    ) -> StoredAccount | None:
        """The account with its new password; None if it is not at this version any more."""

    async def replace_hash(self, account: StoredAccount, password_hash: str) -> None:
        """Keep another hash of the same password, unless that was changed meanwhile."""

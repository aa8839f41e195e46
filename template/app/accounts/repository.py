"""Where accounts are kept, whatever the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from uuid import UUID


class NameTaken(Exception):
    """There is an account of this name."""


class LastHolder(Exception):
    """Nobody else has this role."""


@dataclass(frozen=True, slots=True)
class StoredAccount:
    id: UUID
    name: str
    password_hash: str
    version: int
    """Grows with every change of the password. Sessions of an earlier one are over."""
    roles: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Page:
    accounts: Sequence[StoredAccount]
    next: str | None
    """Where the next page begins; None: there is none."""


@runtime_checkable
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

    async def page(self, *, after: str | None, limit: int) -> Page:
        """So many accounts at most, in an order that does not change."""

    async def give_role(self, account_id: UUID, role: str) -> StoredAccount | None:
        """The account, which has the role now; None if there is none."""

    async def take_role(
        self, account_id: UUID, role: str, *, keep_last: bool
    ) -> StoredAccount | None:
        """The account without the role; None if there is none.

        Raises LastHolder, with `keep_last`, if nobody would have the role any more: also if two
        take it from each other at once.
        """

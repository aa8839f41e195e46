"""Roles of accounts: what people may do in this service. They are read with each request."""

from enum import StrEnum

import structlog

from app.accounts.repository import AccountRepository, StoredAccount

log = structlog.get_logger(__name__)


class Role(StrEnum):
    """Add yours here: lower case, digits, hyphens."""

    ADMIN = "admin"


class NoSuchAccount(Exception):
    """There is no account of this name."""


async def make_admin(accounts: AccountRepository, name: str) -> StoredAccount:
    """Give somebody who has registered the role of an admin: how the first one gets it.

    Raises:
        NoSuchAccount: nobody has registered this name.
        DatabaseUnavailable: the database did not answer.
    """
    account = await accounts.find(name.strip().lower())
    if account is None or (made := await accounts.give_role(account.id, Role.ADMIN)) is None:
        raise NoSuchAccount(f"there is no account {name!r}: register it first, then try again")
    log.info("accounts.role_given", account=str(made.id), role=Role.ADMIN, by="a command")
    return made

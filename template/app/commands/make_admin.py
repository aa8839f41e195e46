"""Make somebody who has registered an admin: how there is a first one."""

import argparse
import sys

from app.accounts.repository import AccountRepository
from app.accounts.roles import NoSuchAccount, make_admin
from app.core.service import Service


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add whom."""
    parser.add_argument("account", help="the name of the account")


async def run(service: Service, arguments: argparse.Namespace) -> int:
    """Return 1 if there is no such account."""
    accounts = service.find(AccountRepository)  # type: ignore[type-abstract]  # a Protocol
    try:
        account = await make_admin(accounts, arguments.account)
    except NoSuchAccount as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{account.name} is an admin")
    return 0

"""What admins may do: look at accounts, give roles, and take them away.

A role that is taken away is gone with the next request, in all processes. Each change is a line in
the log, with who made it.
"""

from typing import Annotated
from uuid import UUID

import structlog
from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import BaseModel

from app.accounts.repository import AccountRepository, LastHolder, StoredAccount
from app.accounts.roles import Role
from app.core.identity import Identity, RequireRole

log = structlog.get_logger(__name__)

require_admin = RequireRole(Role.ADMIN)
Admin = Annotated[Identity, Depends(require_admin)]


class AccountWithRoles(BaseModel):
    id: UUID
    name: str
    roles: list[str]


class Accounts(BaseModel):
    accounts: list[AccountWithRoles]
    next: str | None
    """What to send as `after` for the next page; None: there is none."""


def create_admin_router(accounts: AccountRepository) -> APIRouter:
    """Everything here asks for the role, also what is added later."""
    router = APIRouter(
        prefix="/admin/accounts", tags=["admin"], dependencies=[Depends(require_admin)]
    )

    @router.get("")
    async def list_accounts(
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Accounts:
        page = await accounts.page(after=after, limit=limit)
        return Accounts(accounts=[_shown(one) for one in page.accounts], next=page.next)

    @router.put("/{account_id}/roles/{role}", responses={404: {"description": "No such account"}})
    async def give_role(account_id: UUID, role: Role, admin: Admin) -> AccountWithRoles:
        account = await accounts.give_role(account_id, role)
        if account is None:
            raise HTTPException(404, "no such account")
        log.info("accounts.role_given", account=str(account_id), role=role, by=admin.subject)
        return _shown(account)

    @router.delete(
        "/{account_id}/roles/{role}",
        responses={
            404: {"description": "No such account"},
            409: {"description": "It is the last admin"},
        },
    )
    async def take_role(account_id: UUID, role: Role, admin: Admin) -> AccountWithRoles:
        try:
            account = await accounts.take_role(account_id, role, keep_last=role is Role.ADMIN)
        except LastHolder:
            raise HTTPException(409, "it is the last admin: make another one first") from None
        if account is None:
            raise HTTPException(404, "no such account")
        log.info("accounts.role_taken", account=str(account_id), role=role, by=admin.subject)
        return _shown(account)

    return router


def _shown(account: StoredAccount) -> AccountWithRoles:
    return AccountWithRoles(id=account.id, name=account.name, roles=sorted(account.roles))

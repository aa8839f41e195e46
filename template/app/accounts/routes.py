"""Registering, logging in and out, over HTTP.

Whether an account exists is not told at the login, neither in words nor by the time it takes.
Registering has to tell that a name is taken; where names are addresses of people, answer "look into
your mail" in both cases instead.
"""

import math
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Path, Request
from pydantic import SecretStr
from starlette.requests import HTTPConnection

from app.accounts.models import Account, Credentials, Device, LoggedIn, PasswordChange, Registration
from app.accounts.passwords import Passwords
from app.accounts.repository import AccountRepository, NameTaken, StoredAccount
from app.accounts.throttle import Throttle
from app.core.identity import Identities, Identity
from app.core.sessions import (
    LoginSessionDependency,
    Session,
    SessionDependency,
    UserDependency,
    get_session,
    open_session,
)

_VERSION = "account_version"
_DEVICE = "device"
_LONGEST_DEVICE = 200


def create_accounts_router(
    accounts: AccountRepository, passwords: Passwords, throttle: Throttle
) -> APIRouter:
    router = APIRouter(prefix="/accounts", tags=["accounts"])

    async def current_account(session: SessionDependency, user: UserDependency) -> StoredAccount:
        account = await _account_of(session, accounts)
        if account is None:
            raise HTTPException(401, "log in again")
        return account

    CurrentAccount = Annotated[StoredAccount, Depends(current_account)]

    async def check(request: Request, name: str, password: SecretStr) -> StoredAccount | None:
        address = _address(request)
        _refuse(await throttle.wait_for_login(name, address))
        account = await accounts.find(name)
        known_hash = account.password_hash if account else None
        if not await passwords.matches(password, known_hash):
            return None
        assert account is not None
        await throttle.forget_login(name, address)
        if passwords.is_outdated(account.password_hash):
            await accounts.replace_hash(account, await passwords.hash(password))
        return account

    @router.post(
        "",
        status_code=201,
        responses={409: {"description": "The name is taken"}, 429: {"description": "Too many"}},
    )
    async def register(new: Registration, request: Request) -> Account:
        _refuse(await throttle.wait_for_registration(_address(request)))
        try:
            account = await accounts.create(new.name, await passwords.hash(new.password))
        except NameTaken:
            raise HTTPException(409, "the name is taken") from None
        return _shown(account)

    @router.post(
        "/login",
        responses={
            401: {"description": "Wrong name or password"},
            429: {"description": "Too many tries"},
        },
    )
    async def log_in(
        credentials: Credentials, session: LoginSessionDependency, request: Request
    ) -> LoggedIn:
        account = await check(request, credentials.name, credentials.password)
        if account is None:
            raise HTTPException(401, "wrong name or password")
        session.log_in(str(account.id))
        session.data[_VERSION] = account.version
        session.data[_DEVICE] = request.headers.get("user-agent", "")[:_LONGEST_DEVICE]
        # Whoever changes the password does so in the database and then ends all sessions there are.
        # So this one is written first, and lasts if the password is still the same afterwards.
        await session.save()
        if not await is_current(account, session):
            raise HTTPException(401, "wrong name or password")
        return LoggedIn(account=_shown(account), csrf_token=session.csrf_token)

    async def is_current(account: StoredAccount, session: Session) -> bool:
        """Whether the account is as it was; else, and if nobody knows, the session is over."""
        found = None
        try:
            found = await accounts.get(account.id)
        finally:
            if found is None or found.version != account.version:
                session.log_out()
        return found is not None and found.version == account.version

    @router.post("/logout", status_code=204)
    async def log_out(session: SessionDependency) -> None:
        session.log_out()

    @router.post("/logout-everywhere", status_code=204)
    async def log_out_everywhere(session: SessionDependency, user: UserDependency) -> None:
        await session.log_out_everywhere()

    @router.get("/sessions")
    async def list_sessions(account: CurrentAccount, session: SessionDependency) -> list[Device]:
        return [
            Device(
                handle=one.handle,
                logged_in_at=one.began_at,
                last_seen_at=one.used_at,
                user_agent=str(one.data.get(_DEVICE, "")),
                is_this=one.is_this,
            )
            for one in await session.list_all()
        ]

    @router.delete(
        "/sessions/{handle}",
        status_code=204,
        responses={404: {"description": "No such session of yours"}},
    )
    async def end_session(
        handle: Annotated[str, Path(max_length=100)],
        account: CurrentAccount,
        session: SessionDependency,
    ) -> None:
        if not await session.end(handle):
            raise HTTPException(404, "you have no such session")

    @router.delete("/sessions", status_code=204)
    async def end_other_sessions(account: CurrentAccount, session: SessionDependency) -> None:
        """End all but this one."""
        await session.log_out_everywhere(keep_this=True)

    @router.get("/me")
    async def me(account: CurrentAccount, session: SessionDependency) -> LoggedIn:
        return LoggedIn(account=_shown(account), csrf_token=session.csrf_token)

    @router.put(
        "/password",
        responses={
            403: {"description": "Wrong current password"},
            409: {"description": "Changed meanwhile"},
            429: {"description": "Too many tries"},
        },
    )
    async def change_password(
        change: PasswordChange,
        account: CurrentAccount,
        session: SessionDependency,
        request: Request,
    ) -> LoggedIn:
        if await check(request, account.name, change.current) is None:
            raise HTTPException(403, "that is not the current password")
        new_hash = await passwords.hash(change.new)
        changed = await accounts.set_password(account.id, new_hash, version=account.version)
        if changed is None:
            raise HTTPException(409, "the password was changed meanwhile: log in again")
        session.data[_VERSION] = changed.version
        session.rotate()
        await session.log_out_everywhere(keep_this=True)
        return LoggedIn(account=_shown(changed), csrf_token=session.csrf_token)

    return router


def identify_by_session(identities: Identities, accounts: AccountRepository) -> None:
    """Have sessions say who asks. Their roles are those that the account has now."""

    async def by_session(connection: HTTPConnection) -> Identity | None:
        session = await open_session(connection)
        account = await _account_of(session, accounts)
        if account is None:
            return None
        return Identity(str(account.id), account.roles, proof="session")

    identities.by_session(by_session, get_session)


async def _account_of(session: Session, accounts: AccountRepository) -> StoredAccount | None:
    """The account of whoever is logged in; the session of one that has changed is over."""
    if session.user is None:
        return None
    account = await accounts.get(UUID(session.user))
    # Also where Redis did not hear that the password was changed.
    if account is None or session.data.get(_VERSION) != account.version:
        session.log_out()
        return None
    return account


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _refuse(wait: float) -> None:
    """429 if there are seconds to wait."""
    if wait:
        headers = {"retry-after": str(math.ceil(wait))}
        raise HTTPException(429, "too many tries: wait a little", headers)


def _shown(account: StoredAccount) -> Account:
    return Account(id=account.id, name=account.name)

"""Accounts, as clients see them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, Field, SecretStr, StringConstraints

# One spelling for each, so that nobody can be taken for somebody else.
Name = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True,
        to_lower=True,
        min_length=3,
        max_length=100,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._@+-]*$",
    ),
]
# Long is what makes a password strong. The upper limit bounds the work of hashing it.
NewPassword = Annotated[SecretStr, Field(min_length=12, max_length=200)]
Password = Annotated[SecretStr, Field(max_length=200)]


class Registration(BaseModel):
    name: Name
    password: NewPassword


class Credentials(BaseModel):
    name: Name
    password: Password


class PasswordChange(BaseModel):
    current: Password
    new: NewPassword


class Account(BaseModel):
    id: UUID
    name: str


class LoggedIn(BaseModel):
    """Who is logged in. Writes have to send `csrf_token` as the header `X-CSRF-Token`."""

    account: Account
    csrf_token: str


class Device(BaseModel):
    """A session of whoever asks."""

    handle: str
    """Names it in `DELETE /accounts/sessions/{handle}`; it is not what is in the cookie."""
    logged_in_at: datetime
    last_seen_at: datetime
    user_agent: str
    """What the browser called itself at the login, shortened. Anybody can write anything there."""
    is_this: bool

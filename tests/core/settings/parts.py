"""The parts of the settings, and services made of them."""

import os
from types import new_class
from unittest.mock import patch

import pytest

from app.settings.access import AccessSettings
from app.settings.browser import BrowserSettings
from app.settings.cache import CacheSettings
from app.settings.database import mysql, postgres, s3, sqlite
from app.settings.events import EventSettings
from app.settings.loading import SettingsError, load
from app.settings.locks import LockSettings
from app.settings.lua import LuaSettings
from app.settings.redis import RedisSettings
from app.settings.redlock import RedlockSettings
from app.settings.service import ServiceSettings
from app.settings.sessions import SessionSettings
from app.settings.signing import SigningSettings

Part = type[ServiceSettings]

PRODUCTION = {"ENVIRONMENT": "production", "TRUSTED_HOSTS": "orders.example"}

# In the order in which services have them.
FEATURES: tuple[Part, ...] = (
    AccessSettings,
    EventSettings,
    SessionSettings,
    RedlockSettings,
    LuaSettings,
    LockSettings,
    SigningSettings,
    CacheSettings,
    RedisSettings,
    BrowserSettings,
    ServiceSettings,
)
DATABASES: dict[str, Part] = {
    "postgres": postgres.DatabaseSettings,
    "mysql": mysql.DatabaseSettings,
    "sqlite": sqlite.DatabaseSettings,
    "s3": s3.DatabaseSettings,
}
# For those that may be on another host: what production takes, and what it refuses.
SAFE = {
    "postgres": {
        "DATABASE_URL": "postgresql+asyncpg://service:secret@db.example/orders?ssl=verify-full"
    },
    "mysql": {
        "DATABASE_URL": "mysql+asyncmy://service:secret@db.example/orders?ssl_ca=/etc/ca.pem"
    },
    "s3": {
        "S3_ENDPOINT_URL": "https://db.example",
        "S3_ACCESS_KEY_ID": "service",
        "S3_SECRET_ACCESS_KEY": "secret",
    },
}
UNSAFE = {
    "postgres": {"DATABASE_URL": "postgresql+asyncpg://service:postgres@db.example/orders"},
    "mysql": {"DATABASE_URL": "mysql+asyncmy://service:mysql@db.example/orders"},
    "s3": {
        "S3_ENDPOINT_URL": "http://db.example",
        "S3_ACCESS_KEY_ID": "service",
        "S3_SECRET_ACCESS_KEY": "minioadmin",
    },
}
REDIS_SETTINGS = [
    pytest.param(RedisSettings, "REDIS_URL", 1, id="redis"),
    pytest.param(SessionSettings, "SESSION_REDIS_URL", 1, id="sessions"),
    pytest.param(LuaSettings, "LOCK_REDIS_URL", 1, id="locks"),
    pytest.param(RedlockSettings, "REDLOCK_URLS", 3, id="redlock"),
]


def loaded(*parts: Part, **variables: str) -> ServiceSettings:
    """The settings of a service of these parts with these variables, and no others."""
    # The defaults that a service's own class has.
    given = {"SERVICE_NAME": "orders", "ACCESS_AUDIENCE": "orders"}
    if s3.DatabaseSettings in parts:
        given["DATABASE_URL"] = "s3://orders"
    with patch.dict(os.environ, given | variables, clear=True):
        settings: ServiceSettings = load(new_class("Settings", parts))
        return settings


def problems(*parts: Part, **variables: str) -> list[str]:
    """What a service of these parts says about these variables; nothing where it starts."""
    try:
        loaded(*parts, **variables)
    except SettingsError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []

"""The rules of `app/access.toml` on the servers of development and tests, as in production.

A server that was started here gets them, and a user `admin` for whoever has to look into it. A
given server (REDIS_URL) has its rules from its owner.
"""

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import AuthenticationError

from app.access import policy
from app.core.access.acl import acl_users
from app.core.redis import with_login
from app.settings import Settings, SettingsError, load_settings
from devservers import valkey
from devservers.guard import ServerUnavailable
from devservers.valkey import EmbeddedValkey, redis_server

ADMIN = "REDIS_ADMIN"
"""The variable with the login, as `user:password`, of a user who may do everything."""


@contextmanager
def redis_variables() -> Iterator[dict[str, str]]:
    """The variables that say where Redis is, and who may do everything there if we say that."""
    with redis_server(ping=ping) as server:
        if server.origin == "given":
            yield {"REDIS_URL": server.url}
        else:
            admin = os.environ.get(ADMIN) or new_admin()
            yield {"REDIS_URL": put_under_rules(server.url, admin), ADMIN: admin}


def admit(url: str, variables: Mapping[str, str]) -> str:
    """Give the rules to a server that was started for the service; returns its URL without a login.

    Args:
        url: of the server.
        variables: those of the service, as far as they are known.
    """
    return put_under_rules(url, variables.get(ADMIN) or os.environ.get(ADMIN) or new_admin())


def admit_service(variables: Mapping[str, str], settings: Settings) -> None:
    """Give the users of a service with these settings to the servers of these variables."""
    admin = variables.get(ADMIN) or os.environ.get(ADMIN, "")
    others = variables.get("REDLOCK_URLS", "").split(",")
    for url in filter(None, [variables["REDIS_URL"], *others]):
        grant(url, admin, settings)


def new_admin() -> str:
    return f"admin:{secrets.token_hex(16)}"


def put_under_rules(url: str, admin: str) -> str:
    """Give the rules to a server that has none yet; returns its URL without a login.

    Raises:
        ServerUnavailable: the settings of the service are wrong.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        raise ServerUnavailable(str(error)) from None
    with closing(Redis.from_url(url)) as redis:
        redis.execute_command("ACL", "SETUSER", *_admin_rules(admin))
    parts = urlsplit(url)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    grant(bare, admin, settings)
    if not admin.startswith("default:"):
        with closing(_connect(bare, admin)) as redis:
            redis.execute_command("ACL", "SETUSER", "default", "off")
    whole = with_login(bare, *admin.split(":", 1))
    print(f"redis: to look into it, redis-cli -u {whole}", file=sys.stderr)
    return bare


def grant(url: str, admin: str, settings: Settings) -> None:
    """Give the users of a service to a server, as `admin`, or as its default user."""
    users = acl_users(policy(settings.service_name), settings.redis_credentials)
    with closing(_connect(url, admin)) as redis:
        for user, rules in users.items():
            redis.execute_command("ACL", "SETUSER", user, "reset", *rules)


class RuledValkey(EmbeddedValkey):
    """One that has the rules from its start, and again when it is restarted.

    Its default user may do everything: who kills and empties servers has to look into them, too.
    """

    def __init__(self, settings: Settings | None = None, **configuration: str) -> None:
        """Says how to start it, for these settings, or those of the environment."""
        super().__init__(aclfile="users.acl", **configuration)  # type: ignore[arg-type]  # any of them
        self._settings = settings or load_settings()

    def _prepare(self) -> None:
        rules = acl_users(policy(self._settings.service_name), self._settings.redis_credentials)
        rules["default"] = ["on", "nopass", "~*", "&*", "+@all"]
        lines = [f"user {user} {' '.join(words)}\n" for user, words in rules.items()]
        (self.folder / "users.acl").write_text("".join(lines), "utf-8")


def own_valkey(settings: Settings | None = None, **configuration: str) -> EmbeddedValkey:
    """Make a Redis for the service that may be emptied, frozen and killed."""
    return RuledValkey(settings, **configuration)


def ping(url: str) -> None:
    """Raises an exception unless a given server answers, and lets the service in.

    With REDIS_ADMIN the server is given the users of the service before.
    """
    settings = load_settings()
    if admin := os.environ.get(ADMIN):
        grant(url, admin, settings)
    try:
        valkey.ping(settings.as_role(url, "service"))
    except AuthenticationError as error:
        raise ServerUnavailable(
            f"{error}: load deploy/redis/users.acl there, or set {ADMIN}=user:password to one who "
            "may do that"
        ) from error


def _admin_rules(admin: str) -> list[str]:
    user, _, password = admin.partition(":")
    return [user, "on", f">{password}", "~*", "&*", "+@all"]


def _connect(url: str, admin: str) -> Redis:
    return Redis.from_url(with_login(url, *admin.split(":", 1)) if admin else url)

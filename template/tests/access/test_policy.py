"""The policy, what follows from it, and what servers make of it are the same."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as ConnectionLost

from app.access import derived, policy
from app.core.access.acl import acl_file
from app.core.access.denials import is_denial
from app.settings import Settings
from devservers.access import grant
from devservers.valkey import EmbeddedValkey
from tests.access.matrix import Case, cases

# What would change the connection; and DEBUG, which servers refuse to everybody.
_APART = {
    "multi", "exec", "discard", "watch", "unwatch", "subscribe", "unsubscribe", "monitor", "select",
    "asking", "debug",
}  # fmt: skip
_CALL = "return redis.call(unpack(ARGV))"


class InstalledRedis(EmbeddedValkey):
    """The Redis of this machine, if it has one."""

    _name = "Redis"

    def _command(self) -> list[str]:
        return ["redis-server", *super()._command()[1:]]


@pytest.fixture(scope="module", params=["Valkey", "Redis"])
def server(request: pytest.FixtureRequest) -> Iterator[EmbeddedValkey]:
    if request.param == "Redis" and not _is_installed():
        pytest.skip("no redis-server is installed that has patterns to read only: Redis 7")
    with InstalledRedis() if request.param == "Redis" else EmbeddedValkey() as server:
        yield server


def _is_installed() -> bool:
    if shutil.which("redis-server") is None:
        return False
    told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)
    version = re.search(r"v=(\d+)", told.stdout)
    return version is not None and int(version[1]) >= 7


@pytest.fixture
def admin(server: EmbeddedValkey, settings: Settings) -> Iterator[Redis]:
    grant(server.url, "", settings)
    with Redis.from_url(server.url) as admin:
        yield admin


@pytest.fixture
def matrix(admin: Redis, settings: Settings) -> list[Case]:
    return list(cases(policy(settings.service_name), admin))


def test_what_follows_from_the_policy_is_written() -> None:
    old = [str(path) for path, text in derived().items() if path.read_text("utf-8") != text]
    assert not old, "run `make access` (or `python -m app.access write`)"


def test_with_the_acl_file_nobody_gets_in_without_a_role(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "users.acl"
    path.write_text(acl_file(policy(settings.service_name), settings.redis_credentials))
    with EmbeddedValkey(aclfile=str(path)) as server:
        with Redis.from_url(server.url) as redis, pytest.raises(AuthenticationError):
            redis.ping()
        for role in policy(settings.service_name).roles:
            with Redis.from_url(settings.as_role(server.url, role)) as redis:
                assert redis.ping()


def test_a_server_allows_what_the_policy_allows_and_nothing_else(
    admin: Redis, matrix: list[Case], settings: Settings
) -> None:
    pipeline = admin.pipeline(transaction=False)
    for case in matrix:
        user = settings.redis_credentials.user(case.role)
        pipeline.execute_command("ACL", "DRYRUN", user, *case.words)
    replies = pipeline.execute(raise_on_error=False)
    wrong = [
        (case, reply)
        for case, reply in zip(matrix, replies, strict=True)
        if (reply in (b"OK", "OK", True)) is not case.allowed
    ]
    assert not wrong
    assert {case.allowed for case in matrix} == {True, False}
    print(f"{len(matrix)} cases, {sum(case.allowed for case in matrix)} of them allowed")


def test_pipelines_and_transactions_are_denied_the_same(
    server: EmbeddedValkey, matrix: list[Case], settings: Settings
) -> None:
    """Executed, not only asked about; what a transaction is denied, it is when it is queued."""
    for begin, end in ([], []), (["MULTI"], ["DISCARD"]):
        for role, own in _by_role(matrix).items():
            if begin:  # some commands are refused to everybody there
                own = [case for case in own if "no_multi" not in case.flags]
            with Redis.from_url(settings.as_role(server.url, role)) as redis:
                redis.response_callbacks.clear()  # the replies as they are
                pipeline = redis.pipeline(transaction=False)
                for words in [begin, *(case.words for case in own), end]:
                    if words:
                        pipeline.execute_command(*words)
                replies = pipeline.execute(raise_on_error=False)[len(begin) :]
            for case, reply in zip(own, replies, strict=False):
                assert _is_denied(reply) is not case.allowed, (case, reply)


def test_lua_is_denied_the_same(
    server: EmbeddedValkey, matrix: list[Case], settings: Settings
) -> None:
    tried = 0
    for role, own in _by_role(matrix).items():
        if "eval" not in policy(settings.service_name).roles[role].commands:
            continue
        with Redis.from_url(settings.as_role(server.url, role)) as redis:
            redis.response_callbacks.clear()
            own = [case for case in own if "noscript" not in case.flags]
            pipeline = redis.pipeline(transaction=False)
            for case in own:
                pipeline.execute_command("EVAL", _CALL, 0, *case.words)
            replies = pipeline.execute(raise_on_error=False)
        for case, reply in zip(own, replies, strict=True):
            assert _is_denied(reply) is not case.allowed, (case, reply)
        tried += len(own)
    assert tried


def test_the_matrix_notices_a_rule_that_is_too_wide(
    admin: Redis, matrix: list[Case], settings: Settings
) -> None:
    """The control: with one right too many, what has to be denied is allowed."""
    user = settings.redis_credentials.user("cache")
    admin.execute_command("ACL", "SETUSER", user, "~*")
    forbidden = [case for case in matrix if case.role == "cache" and not case.allowed]
    replies = [admin.execute_command("ACL", "DRYRUN", user, *case.words) for case in forbidden]
    assert b"OK" in replies


def test_who_is_switched_off_is_gone_when_their_connections_are_closed(
    server: EmbeddedValkey, admin: Redis, settings: Settings
) -> None:
    user = settings.redis_credentials.user("service")
    with Redis.from_url(
        settings.as_role(server.url, "service"), single_connection_client=True
    ) as redis:
        redis.ping()
        admin.execute_command("ACL", "SETUSER", user, "off")
        redis.ping()  # its connection lives on
        assert admin.execute_command("CLIENT", "KILL", "USER", user) == 1
        with pytest.raises(ConnectionLost):
            redis.ping()


def _by_role(matrix: list[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = {}
    for case in matrix:
        if case.words[0].lower() not in _APART and "blocking" not in case.flags:
            found.setdefault(case.role, []).append(case)
    return found


def _is_denied(reply: object) -> bool:
    return isinstance(reply, ResponseError) and is_denial(reply)

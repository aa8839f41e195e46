"""A policy that is wrong is refused, with what is wrong in it and where."""

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from app.core.access import DEVELOPMENT_SECRET, Policy, PolicyError, RedisCredentials, load_policy
from app.core.access.acl import acl_file
from app.core.redis import parse_url, with_login
from devservers.valkey import EmbeddedValkey
from tests.core.access.conftest import POLICY


def load(tmp_path: Path, text: str, service: str = "orders") -> Policy:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    return load_policy(path, service=service)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('["get"]', '["get", "keys"]', "roles.reader.commands.1: 'keys' reaches beyond"),
        ('["get"]', '["scan"]', "'scan' reaches beyond"),
        ('["get"]', '["flushall"]', "'flushall' reaches beyond"),
        ('["get"]', '["config|get"]', "'config|get' reaches beyond"),
        ('["get"]', '["client"]', "'client' reaches beyond"),
        ('["get"]', '["acl|setuser"]', "'acl|setuser' reaches beyond"),
        ('["get"]', '["script|flush"]', "'script|flush' reaches beyond"),
        ('["get"]', '["@read"]', "'@read' is a category"),
        ('["get"]', '["@all"]', "'@all' is a category"),
        ('["get"]', '["GET"]', "is not the name of a command, in lower case"),
        ('["get"]', '["get +@all"]', "is not the name of a command"),
        ('["get"]', '["get\\n"]', "is not the name of a command"),
        ('read = ["{service}:reports*"]', 'read = ["*"]', "'*' is everything"),
        ('read = ["{service}:reports*"]', 'read = ["a ~*"]', "has blanks"),
        ('read = ["{service}:reports*"]', 'write = ["a"]', "roles.reader.write: Extra inputs"),
        ("[roles.reader]", '[roles."on nopass"]', "is no name of a role"),
        ("[roles.reader]", "[roles.readers]", "the role 'reader', which is not there"),
        ('"multi", "exec",', '"multi",', "connection has discard, multi of multi, exec, discard"),
        ("[connection]", "[connection", "Expected"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in POLICY
    with pytest.raises(PolicyError) as error:
        load(tmp_path, POLICY.replace(old, new))
    assert complaint in str(error.value)
    assert "wrong.toml" in str(error.value)


@pytest.mark.parametrize("service", ["", "*", "a b", "a\nb", "a[b]", "a\\"])
def test_the_name_of_a_service_is_no_pattern(tmp_path: Path, service: str) -> None:
    with pytest.raises(PolicyError, match="service name"):
        load(tmp_path, POLICY, service)


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"nowhere\.toml"):
        load_policy(tmp_path / "nowhere.toml", service="orders")


def test_passwords_differ_by_role_service_and_secret() -> None:
    found = {
        RedisCredentials(service, [secret]).password(role)
        for service in ("orders", "billing")
        for secret in ("one", "two")
        for role in ("reader", "writer")
    }
    assert len(found) == 8
    assert RedisCredentials("orders", [DEVELOPMENT_SECRET]).password("reader") == DEVELOPMENT_SECRET


@pytest.mark.parametrize("secrets", [[], [""], ["one", "one"], ["1", "2", "3", "4", "5"]])
def test_a_ring_of_secrets_has_some_and_each_once(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="access"):
        RedisCredentials("orders", secrets)


def test_the_acl_file_has_no_password_in_it(policy: Policy) -> None:
    credentials = RedisCredentials("orders", ["a secret"])
    text = acl_file(policy, credentials)
    assert "a secret" not in text
    assert credentials.password("reader") not in text


def test_secrets_are_rotated_without_a_moment_in_which_nobody_gets_in(
    policy: Policy, tmp_path: Path
) -> None:
    """New secret in front, new ACL file, ACL LOAD, deploy, drop the old one."""
    path = tmp_path / "users.acl"
    before, during, after = (
        RedisCredentials("orders", secrets) for secrets in (["old"], ["new", "old"], ["new"])
    )

    def who_gets_in(*asking: RedisCredentials) -> list[bool]:
        return [_gets_in(server, credentials) for credentials in asking]

    path.write_text(acl_file(policy, before) + "user operator on nopass +acl|load\n")
    with EmbeddedValkey(aclfile=str(path)) as server:
        operator = Redis(port=server.port, username="operator", password="any")
        assert who_gets_in(before, during) == [True, False]
        for credentials, expected in (during, [True, True]), (after, [False, True]):
            path.write_text(acl_file(policy, credentials) + "user operator on nopass +acl|load\n")
            operator.execute_command("ACL", "LOAD")
            assert who_gets_in(before, during) == expected
        operator.close()


def _gets_in(server: EmbeddedValkey, credentials: RedisCredentials) -> bool:
    url = with_login(server.url, credentials.user("reader"), credentials.password("reader"))
    with Redis.from_url(url) as redis:
        try:
            return bool(redis.ping())
        except AuthenticationError:
            return False


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/2",
        "redis://old:word@h:1/2",
        "redis+sentinel://:word@h:1,i:2/name/3?sentinel_password=x%40y",
        "rediss+cluster://h,i",
    ],
)
def test_a_url_with_another_login_names_the_same_servers(url: str) -> None:
    before, after = parse_url(url), parse_url(with_login(url, "a-b", "p/@:%?#="))
    assert (after.username, after.password) == ("a-b", "p/@:%?#=")
    assert (after.nodes, after.database, after.service, after.options, after.topology) == (
        before.nodes, before.database, before.service, before.options, before.topology,
    )  # fmt: skip

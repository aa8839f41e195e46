"""The command line: shows who may do what, writes what follows from it, and says if it is old."""

from pathlib import Path

import pytest

from app.core.access import DEVELOPMENT_SECRET, Policy, RedisCredentials, TokenRules, Verifier
from app.core.access.acl import acl_file
from app.core.access.cli import CommandLine, roles_module
from app.core.access.jwks import DevelopmentKeys
from tests.core.access.conftest import AUDIENCE, ISSUER

CREDENTIALS = RedisCredentials("orders", ["a secret"])


@pytest.fixture
def command(policy: Policy, tmp_path: Path) -> CommandLine:
    derived = {tmp_path / "deploy/users.acl": "the rules\n", tmp_path / "roles.py": "the roles\n"}
    return CommandLine(policy, CREDENTIALS, derived=derived, issuer=ISSUER, audience=AUDIENCE)


def run(command: CommandLine, *arguments: str) -> int:
    return command.run(arguments, name="access", about="")


def test_the_table_says_who_may_do_what(
    command: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = lines.index("reader: reads")
    assert lines[start : start + 5] == [
        "reader: reads",
        "reads only orders:reports*",
        "commands get",
        "given to whoever has readers in realm > roles",
        "given to whoever has read in scope",
    ]


def test_check_notices_what_is_old_or_missing(
    command: CommandLine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "check") == 1
    assert run(command, "write") == 0
    assert run(command, "check") == 0
    (tmp_path / "roles.py").write_text("changed by hand\n")
    capsys.readouterr()
    assert run(command, "check") == 1
    shown = capsys.readouterr().err
    assert "roles.py" in shown
    assert "users.acl" not in shown


def test_acl_and_login_follow_the_secrets(
    command: CommandLine, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "acl") == 0
    assert capsys.readouterr().out == acl_file(policy, CREDENTIALS)
    assert run(command, "login", "reader") == 0
    assert capsys.readouterr().out.split() == ["orders-reader", CREDENTIALS.password("reader")]


async def test_a_token_is_good_with_the_development_key(
    command: CommandLine, policy: Policy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "token", "ann", "groups=writers", "groups=others") == 0
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"])
    verifier = Verifier(DevelopmentKeys(DEVELOPMENT_SECRET), rules, policy)
    identity = await verifier.verify(capsys.readouterr().out.strip())
    assert (identity.subject, identity.redis_role) == ("ann", "writer")


@pytest.mark.parametrize("arguments", [["login", "nobody"], ["token", "ann", "groups"], ["x"]])
def test_wrong_arguments_are_said(
    command: CommandLine, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, *arguments)
    assert "error" in capsys.readouterr().err


def test_roles_become_a_type(policy: Policy) -> None:
    module: dict[str, object] = {}
    exec(roles_module(policy), module)
    role = module["Role"]
    assert [str(member) for member in role] == ["audit", "reader", "writer"]  # type: ignore[attr-defined]

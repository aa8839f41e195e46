"""Commands: what there is, what comes out, and how they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn

import pytest

from app.core.commands import main
from app.core.observability import logging
from app.core.service import Service
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG
from scripts.running import service_environment
from tests.core.commands import examples, process


@pytest.fixture(scope="module")
def redis() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(autouse=True)
def logs_to_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before, for the tests that follow."""
    monkeypatch.setattr(logging, "_stream", "stdout")


@pytest.fixture
def run(redis: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("REDIS_URL", redis.url)
    return lambda *arguments: main(examples, process.make, arguments)


def no_service() -> NoReturn:
    raise AssertionError("nothing is to be run")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_name_the_commands_are_listed(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(examples, no_service, arguments)
    except SystemExit as end:
        code = end.code
    assert code == 0
    listed = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "count-twice Count twice as far." in listed
    assert "incomplete Is no command yet." in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], ["no command 'nothing'", "count-twice"]),
        (["__init__"], ["no command '__init__'"]),
        (["count_twice"], ["no command 'count_twice'", "count-twice"]),
        (["count-twice"], ["required: number"]),
        (["count-twice", "x"], ["invalid int value"]),
        (["count-twice", "1", "--not"], ["--not"]),
    ],
)
def test_what_there_is_not_is_refused(
    arguments: list[str], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(examples, no_service, arguments)
    assert end.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [text for text in said if text not in output.err] == []


def test_a_module_that_is_no_command_is_named() -> None:
    with pytest.raises(TypeError, match=r"examples\.incomplete needs `async def run"):
        main(examples, no_service, ["incomplete"])


def test_a_module_that_does_not_compile_does_not_hide_the_others(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path_factory.mktemp("commands")
    (folder / "broken.py").write_text("def")
    monkeypatch.setattr(examples, "__path__", [*examples.__path__, str(folder)])
    assert main(examples, no_service, []) == 0
    listed = capsys.readouterr().out
    assert "no valid Python" in listed
    assert "count-twice" in listed


def test_each_argument_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(examples, no_service, ["count-twice", "--help"])
    assert end.value.code == 0
    assert "Count twice as far." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code", "result"), [("2", 0, "4\n"), ("-2", 3, "-4\n"), ("0", 1, "")]
)
def test_the_result_is_on_standard_output_and_all_else_is_not(
    run: object, number: str, code: int, result: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(run)
    assert run("count-twice", number) == code
    output = capsys.readouterr()
    assert output.out == result
    assert "count.begins" in output.err
    assert output.err.count("closed") == 1
    assert ("command.failed" in output.err) == (code == 1)


def test_a_start_that_fails_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> Service:
        raise OSError("no disk")

    assert main(examples, make, ["count-twice", "1"]) == 1
    assert "no disk" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_in_order(
    redis: EmbeddedValkey, sent: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", process.__name__, examples.__name__, "wait"],
        env=service_environment()
        | {"REDIS_URL": redis.url, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "waiting\n"
        command.send_signal(sent)
        out, error = command.communicate(timeout=HANG)
    assert command.returncode == code
    assert out == "cleaned up\n"
    assert "closed" in error
    assert "Traceback" not in error

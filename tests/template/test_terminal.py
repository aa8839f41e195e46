"""The questions as somebody sees and answers them, in a terminal of 80 columns."""

import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

import pytest
import yaml

from devservers.waiting import HANG
from tests.template.answers import QUESTIONS

COLUMNS = 80
# Copier puts a pictogram before a help text, and two blanks or an arrow before a choice.
ROOM = 75
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>78]")


class Terminal:
    """A program in a terminal: what it shows, and keys for it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._shown = ""

    def until(self, text: str) -> None:
        """Wait until it shows this."""
        deadline = time.monotonic() + HANG
        while text not in self._shown:
            ready, _, _ = select.select([self._fd], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} is not shown:\n{self._shown}"
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # it has ended
                data = b""
            assert data, f"{text!r} was never shown:\n{self._shown}"
            if b"\x1b[6n" in data:  # it asks where the cursor is
                os.write(self._fd, b"\x1b[1;1R")
            self._shown += ESCAPES.sub("", data.decode(errors="replace"))
        self._shown = self._shown.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())


@contextmanager
def terminal(folder: Path, *command: str) -> Iterator[Terminal]:
    pid, fd = pty.fork()
    if not pid:
        os.chdir(folder)
        os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
    ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    try:
        yield Terminal(fd)
    finally:
        os.close(fd)  # it is told by a SIGHUP
        os.waitpid(pid, 0)


@pytest.mark.slow
def test_yes_or_no_takes_an_enter(wiring: Path, tmp_path: Path) -> None:
    """With a question that a key alone answers, the Enter after it answers the next one."""
    with terminal(tmp_path, sys.executable, "-m", "copier", "copy", str(wiring), "out") as shown:
        for name, spec in QUESTIONS.items():
            if not spec.get("ask", True):
                continue
            shown.until(spec["help"].split("\n")[0])
            if spec["type"] == "bool":
                shown.press("y")
            shown.press("\x1b[B\r" if name == "events" else "\r")  # the next one, or what is there
        shown.until("README.md there explains")
    answers = yaml.safe_load((tmp_path / "out/.copier-answers.yml").read_text("utf-8"))
    expected = {name: spec["default"] for name, spec in QUESTIONS.items()}
    assert {name: answers[name] for name in expected} == expected | {"events": True}


def test_no_line_is_cut() -> None:
    for name, spec in QUESTIONS.items():
        texts = [*spec["help"].split("\n"), *spec.get("choices", ())]
        assert [text for text in texts if len(text) >= ROOM] == [], name


def test_what_refuses_an_answer_begins_with_the_remedy() -> None:
    """The end of a long message is cut."""
    for name, spec in QUESTIONS.items():
        for branch in re.findall(r"%}\s*([^{]+)", spec.get("validator", "")):
            assert re.match(r"(Use|Write|Leave out)\b", branch), f"{name}: {branch}"

"""Keeps one server, and ends it with its owner: a small process of its own.

A server that a test has started must not outlive the test, not even one that was killed with
SIGKILL and could not clean up. So the server is the child of a guardian, which reads orders from
its standard input. Only the owner holds the other end of that pipe. When the owner is gone, for
whatever reason, the kernel closes it: the guardian then ends the server and removes its folder.

It is run by its path, isolated, and imports nothing but the standard library, to start quickly.
`guard.py` is the owner's side. Arguments: the folder, and `remove` or `keep`. Orders and answers
are a line of JSON each:

    ["start", command, uid or null, signal that ends it]  -> its pid
    ["status"]                                            -> its exit code, null while it runs
    ["signal", number]                                    -> null
    ["kill"]                                              -> null, once it is gone
    ["adopt", pid]                                        -> null; this process group ends with us
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

# Seconds for a server to end as it was asked to, and for what it leaves behind after SIGKILL.
_GRACE = 2.0
_REAP = 0.5


class Guardian:
    """One folder, and at most one server at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._end_signal: int = signal.SIGKILL
        self._group: int | None = None

    def obey(self, order: str, *arguments: Any) -> int | None:
        match order:
            case "start":
                return self._start(*arguments)
            case "status":
                return self._server.poll() if self._server else 0
            case "signal":
                self._signal(*arguments)
            case "kill":
                self._kill()
            case "adopt":
                [self._group] = arguments
        return None

    def end(self) -> None:
        """End the server: as it wants to be ended, then with SIGKILL."""
        if self._group is not None:
            with suppress(ProcessLookupError, PermissionError):  # it has ended, as it should
                os.killpg(self._group, signal.SIGKILL)
        if self._server is None or self._server.poll() is not None:
            return
        if self._end_signal != signal.SIGKILL:
            self._signal(signal.SIGCONT)  # a frozen server does not hear
            self._server.send_signal(self._end_signal)
            with suppress(subprocess.TimeoutExpired):
                self._server.wait(_GRACE)
                return
        self._kill()

    def _start(self, command: list[str], user: list[int] | None, end_signal: int) -> int:
        self._kill()
        uid, gid = user or (None, None)
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                cwd=self._folder,
                # The owner looks for words in the log.
                env={**os.environ, "LC_ALL": "C"},
                user=uid,
                group=gid,
                extra_groups=None if user is None else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._end_signal = end_signal
        return self._server.pid

    def _signal(self, number: int) -> None:
        """Signal the server and its children; it is first, so that it has no more of them."""
        if self._server is None or self._server.poll() is not None:
            return
        self._server.send_signal(number)
        signalled: set[int] = set()
        while fresh := children(self._server.pid) - signalled:
            for pid in fresh:
                send(pid, number)
            signalled |= fresh

    def _kill(self) -> None:
        if self._server is None or self._server.poll() is not None:
            return
        # Frozen first: it then neither notices what happens to its children nor makes new ones.
        self._server.send_signal(signal.SIGSTOP)
        orphans = children(self._server.pid)
        for pid in orphans:
            send(pid, signal.SIGKILL)
        self._server.kill()
        self._server.wait()
        deadline = time.monotonic() + _REAP
        while any(is_alive(pid) for pid in orphans) and time.monotonic() < deadline:
            time.sleep(0.001)


def children(pid: int) -> set[int]:
    """The processes that one has started. PostgreSQL gives each a process group of its own."""
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:  # not Linux
        table = subprocess.run(
            ["ps", "-A", "-o", "ppid=,pid="], capture_output=True, text=True, check=False
        ).stdout
        rows = (line.split() for line in table.splitlines())
        return {int(child) for parent, child in rows if int(parent) == pid}


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def is_alive(pid: int) -> bool:
    try:
        # The first process of a container often leaves the dead, which hold nothing, unburied.
        if sys.platform == "linux":
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


def main() -> None:
    folder, keep = Path(sys.argv[1]), sys.argv[2] == "keep"
    # Whoever ends all processes of a machine or a session ends the server that way, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    guardian = Guardian(folder)
    try:
        answer(lambda: folder.mkdir(mode=0o700, exist_ok=keep))
        for line in sys.stdin:
            answer(guardian.obey, *json.loads(line))
    except BrokenPipeError:
        pass  # the owner died before it heard the answer
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        guardian.end()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def answer(do: Callable[..., int | None], *arguments: Any) -> None:
    said: int | str | None
    try:
        said = do(*arguments)
    except OSError as error:
        said = str(error)
    # Not through a buffer, which would complain at exit when nobody listens any more.
    os.write(1, json.dumps(said).encode() + b"\n")


if __name__ == "__main__":
    main()

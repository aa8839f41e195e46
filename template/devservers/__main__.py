"""Run the service, or another command, on real servers of its own.

Starts Redis and the database, prepares the database, and serves with reload:

    python -m devservers
    python -m devservers --no-reload --port 8001
    python -m devservers -- pytest tests/items     runs this, and prepares nothing

A server whose URL is given (REDIS_URL, DATABASE_URL, also in .env) is used as it is. Another one
runs in Docker or, without Docker, embedded; it is empty at the start and THROWN AWAY at the end,
with its data.
DEVSERVERS=docker or DEVSERVERS=embedded insists on one of the two.
"""

import argparse
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

from dotenv import load_dotenv

from devservers.environment import PORT, PREPARATIONS, environment
from devservers.guard import Guard, ServerUnavailable

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code of the command or of the service, as a shell has it."""
    options = _options(arguments)
    if not options.command:  # which may be tests, and they leave the servers of .env alone
        load_dotenv(".env")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    _watch_the_terminal()
    try:
        if not options.command:
            _refuse_a_taken_port(options.host, options.port)
        with environment() as variables:
            variables = {"ENVIRONMENT": "development", **os.environ, **variables}
            variables.pop("DEVSERVERS", None)  # the choice is made
            if options.command:
                return _run(options.command, variables)
            for command in PREPARATIONS:
                if failed := _run(command, variables):
                    return failed
            base = f"http://{options.host}:{options.port}"
            for name, path in ("docs", "docs"), ("health", "health/ready"), ("metrics", "metrics"):
                print(f"{name}: {base}/{path}", file=sys.stderr)
            return _run(_uvicorn(options), variables)
    except ServerUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devservers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument(
        "--port",
        type=int,
        default=os.environ.get("PORT", str(PORT)),
        help=f"where to listen; otherwise the variable PORT, or {PORT}",
    )
    parser.add_argument("--no-reload", action="store_true", help="do not watch the files")
    parser.add_argument("command", nargs="*", help="run this instead of the service")
    return parser.parse_args(arguments)


def _refuse_a_taken_port(host: str, port: int) -> None:
    """Say so before servers are started for nothing; raises ServerUnavailable."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServerUnavailable(f"cannot listen on {host}:{port}: {error}") from None
            raise ServerUnavailable(
                f"port {port} of {host} is taken; choose another one: PORT={port + 1} make dev"
            ) from None


def _watch_the_terminal() -> None:
    """End as by SIGHUP when the terminal is closed.

    The system tells only the first process of the terminal, and only when that ends the others.
    Where that is make, which waits for us, nobody would tell us.
    """
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return  # there is none

    def watch() -> None:
        poll = select.poll()
        poll.register(terminal, 0)  # only for its end, which is always told
        events = poll.poll()
        # macOS does not watch terminals, and says so at once (POLLNVAL).
        if any(event & select.POLLHUP for _, event in events):
            os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=watch, name="terminal", daemon=True).start()


def _uvicorn(options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "uvicorn", "app.main:app"]
    command += ["--host", options.host, "--port", str(options.port)]
    return command if options.no_reload else [*command, "--reload", "--reload-dir", "app"]


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run a command to its end; signals to us are for it, and our servers outlive it."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(number: int, frame: FrameType | None = None) -> None:
        if process is None:
            early.append(number)
            return
        with suppress(ProcessLookupError, PermissionError):  # it has just ended
            os.killpg(process.pid, signal.SIGTERM if number == signal.SIGHUP else number)

    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        # The servers go with us, however we end, and what runs on them is of no use without.
        with Guard("devservers") as guard:
            # Not in our process group: Ctrl-C in a terminal would reach it twice, and the second
            # one would cut its shutdown short.
            process = subprocess.Popen(command, env=variables, start_new_session=True)
            guard.adopt(process.pid)
            for number in early:
                forward(number)
            code = process.wait()
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _end(number: int, frame: FrameType | None) -> None:
    # As an exception, so that the servers that have started so far are stopped.
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

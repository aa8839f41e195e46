"""Commands: what people and timers run beside the service, `python -m app.commands NAME`.

A command is a module of a package of the service's own. The first line of its docstring is its
help, and it has `async def run(service, arguments)`; `add_arguments(parser)` if it takes some.
What it prints is its result, on standard output; logs go to standard error.
"""

import argparse
import ast
import asyncio
import importlib
import os
import pkgutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType

import structlog

from app.core.observability.logging import log_to_stderr
from app.core.service import Service

log = structlog.get_logger(__name__)

FAILED = 1
MISUSED = 2
"""The exit code for a name or arguments that there are not, as argparse has it."""

Run = Callable[[Service, argparse.Namespace], Awaitable[int | None]]


def main(package: ModuleType, make_service: Callable[[], Service], arguments: Sequence[str]) -> int:
    """Run the command that `arguments` name, and return the exit code of the process.

    It is what the command returns, 0 for None; 1 if it, or the start, fails; 2 for a name or
    arguments that there are not; 130 after Ctrl-C and 143 after SIGTERM, which cancel the command
    and close the service in order. A second signal ends the process at once.

    Args:
        package: has a module for each command; `_` in its name is `-` in that of the command.
        make_service: puts the service together. It is not called only to list the commands.
        arguments: those of the command line, without the program.
    """
    modules = _modules(package)
    parser = argparse.ArgumentParser(
        prog=f"python -m {package.__name__}",
        description="Run a command with all parts of the service.",
        epilog=_listed(modules),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # An abbreviation of today may be ambiguous tomorrow, and stands in somebody's crontab.
        allow_abbrev=False,
    )
    parser.add_argument("name", nargs="?", help="the command; see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="those of the command")
    given = parser.parse_args(arguments)
    if given.name is None:
        parser.print_help()
        return 0
    if given.name not in modules:
        parser.error(f"there is no command {given.name!r}\n\n{parser.epilog}")

    log_to_stderr()
    module = importlib.import_module(f"{package.__name__}.{modules[given.name].stem}")
    run = getattr(module, "run", None)
    if not asyncio.iscoroutinefunction(run):
        raise TypeError(f"{module.__name__} needs `async def run(service, arguments)`")
    its_parser = argparse.ArgumentParser(
        prog=f"{parser.prog} {given.name}", description=module.__doc__, allow_abbrev=False
    )
    getattr(module, "add_arguments", lambda parser: None)(its_parser)
    its_arguments = its_parser.parse_args(given.arguments)
    try:
        service = make_service()
        return asyncio.run(_run_until_stopped(service, run, its_arguments))
    except Exception:
        log.exception("command.failed", command=given.name)
        return FAILED


def _modules(package: ModuleType) -> dict[str, Path]:
    """The files of the commands by name, in the order of their names."""
    return {
        module.name.replace("_", "-"): Path(folder) / f"{module.name}.py"
        for folder in package.__path__
        for module in pkgutil.iter_modules([folder])
        if not module.name.startswith("_") and not module.ispkg
    }


def _listed(modules: dict[str, Path]) -> str:
    """Say what there is. Nothing is imported: a broken command does not hide the others."""
    lines = [f"  {name:<20} {_help(path)}" for name, path in modules.items()]
    return "\n".join(["commands:", *(lines or ["  none so far"])])


def _help(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    except SyntaxError:
        return "(is no valid Python)"
    return text.partition("\n")[0]


async def _run_until_stopped(service: Service, run: Run, arguments: argparse.Namespace) -> int:
    stopped_by = 0
    has_ended = False

    async def work() -> int:
        nonlocal has_ended
        async with service.running():
            code = await run(service, arguments) or 0
            has_ended = True  # whoever stops us now only waits for the end, which is near
        return code

    working = asyncio.create_task(work())

    def stop(number: int) -> None:
        nonlocal stopped_by
        if stopped_by:
            # The default action would not do: the kernel keeps it from the first process of a
            # container.
            os._exit(128 + number)
        if not has_ended:
            stopped_by = number
            working.cancel()

    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, stop, each)
    try:
        code = await working
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        log.info("command.stopped", signal=signal.Signals(stopped_by).name)
    except Exception:
        if not stopped_by:
            raise
        log.exception("command.failed_to_stop")
    return 128 + stopped_by if stopped_by else code

"""Scripts of `apps/` that measure inside one process, and answer questions about it.

A worker reads one JSON document a line and answers with one. It ends when nobody can ask any more.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import cores
from benchmarks.environments import APPS, ROOT, Environments
from benchmarks.peers import SERVICE, Environment


class WorkerFailed(Exception):
    """A worker ended before it answered; the message ends with its log."""


class Worker:
    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def ask(self, **question: Any) -> Any:
        """The answer, in Python's types.

        Raises:
            WorkerFailed: there was none.
        """
        self.tell(**question)
        return self.answer()

    def tell(self, **question: Any) -> None:
        """Ask, and do other things until `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = self._log.read_text("utf-8", errors="replace")[-3000:]
            raise WorkerFailed(f"a worker ended. The end of {self._log}:\n{end}")
        return json.loads(line)


@contextmanager
def working(
    environments: Environments,
    environment: Environment,
    script: str,
    arguments: Sequence[str],
    log: Path,
) -> Iterator[Worker]:
    """Run a script of `apps/` on the core of the application."""
    # The template's own files, where they lie: a service has those of one answer only.
    path = {"PYTHONPATH": str(ROOT / "template")} if environment is SERVICE else {}
    variables = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    variables |= {"PYTHONDONTWRITEBYTECODE": "1", **path}
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(environments.python(environment)), str(APPS / script), *arguments],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for us
        )
    cores.to_the_application(process.pid)
    try:
        yield Worker(process, log)
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

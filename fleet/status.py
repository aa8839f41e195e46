"""Versions without trying an update: a clone of each repository, nothing rendered."""

import shutil
import time
from pathlib import Path

from fleet.processes import CommandFailed, Processes
from fleet.rehearsal import Plan, is_dirty
from fleet.repository import Clone, NotAService
from fleet.results import Result, State, without_credentials
from fleet.versions import Versions


def status(
    repository: str, plan: Plan, folder: Path, cache: Path, versions: Versions, processes: Processes
) -> Result:
    """Current, behind or failed. `cache` is Copier's, which is not needed here."""
    result = Result(repository)
    started = time.monotonic()
    clone = Clone(folder / "service", processes)
    try:
        result.dirty = is_dirty(repository, processes)
        clone.take(repository)
        answers = clone.answers()
        result.old = str(answers["_commit"])
        result.new = plan.to or versions.newest(plan.template or str(answers["_src_path"]))
        result.state = State.CURRENT if result.old == result.new else State.BEHIND
    except (CommandFailed, NotAService, OSError) as error:
        result.cause = without_credentials(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        result.seconds = round(time.monotonic() - started, 2)
    return result

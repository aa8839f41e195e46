"""Versions without trying an update: a clone of each repository, nothing rendered."""

import shutil
import time
from pathlib import Path

from fleet.processes import CommandFailed, Processes
from fleet.rehearsal import Plan, is_dirty
from fleet.repository import Clone, NotAService
from fleet.results import Result, State, without_credentials
from fleet.versions import UnknownVersion, Versions


def status(
    repository: str, plan: Plan, folder: Path, cache: Path, versions: Versions, processes: Processes
) -> Result:
    """Current, behind or failed. `cache` is Copier's, which is not needed here."""
    result = Result(repository)
    started = time.monotonic()
    clone = Clone(folder / "service", processes)
    try:
        result.dirty = is_dirty(repository, processes)
        clone.take(repository, depth=1)
        answers = clone.answers()
        template = plan.template or str(answers["_src_path"])
        result.old = result.new = str(answers["_commit"])
        if plan.to != result.old if plan.to else versions.is_behind(result.old, template):
            result.state, result.new = State.BEHIND, plan.to or versions.newest(template)
        else:
            result.state = State.CURRENT
    except (CommandFailed, NotAService, UnknownVersion, OSError) as error:
        result.cause = without_credentials(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        result.seconds = round(time.monotonic() - started, 2)
    return result

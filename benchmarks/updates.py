"""What becomes of edits in an update, and what it takes: `python -m benchmarks.updates`.

A row for each version to update from and each profile of answers, a column for each set of edits.
Counted are the files that the team edited: merged, in a conflict that Git shows, or lost. For the
table the template is without the plain files that neither answers nor these edits touch; the times
are those of the whole. A few minutes; with `--times` only the times.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

from scripts.snapshot import NEWEST, releases, snapshot
from tests.template.answers import ROOT, Answers, covering_profiles, label, named_in_exclude
from tests.template.edits import (
    CONFLICTS,
    Edit,
    conflicting,
    delete_the_example,
    nothing,
    typical,
)
from tests.template.history import (
    BETWEEN,
    EARLIER,
    add_earlier_versions,
    commit,
    copy,
    expected_tree,
    start_service,
    update_service,
)
from tests.template.parts import part_of
from tests.template.trees import differences, read_tree

EDITS: dict[str, tuple[Edit, ...]] = {
    "untouched": (nothing,),
    "typical": (typical,),
    "example deleted": (delete_the_example,),
    "conflicting": (typical, conflicting),
}
ROUNDS = 5


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = snapshot(ROOT, folder / "template")
        plain = (*named_in_exclude(), *CONFLICTS)
        part = snapshot(part_of(template, folder / "part", plain=plain), folder / "part-released")
        for versions in (template, part):
            add_earlier_versions(versions)
        times(template, folder)
        if "--times" not in sys.argv:
            table(part, folder)


def table(template: Path, folder: Path) -> None:
    print("\nedited files: merged / in conflict / lost")
    print(f"{'from':10}" + "".join(f"{name:>17}" for name in EDITS) + "  answers")
    total = Counter[str]()
    for profile in covering_profiles():
        for version in (EARLIER, BETWEEN, *releases(ROOT)):
            cells = []
            for edits in EDITS.values():
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    found = outcome(template, Path(scratch), version, profile, edits)
                total.update(found)
                cells.append("{merged} / {conflict} / {lost}".format_map(found))
            columns = "".join(f"{cell:>17}" for cell in cells)
            print(f"{version:10}{columns}  {label(profile)}", flush=True)
    print(f"all of them: {total['merged']} / {total['conflict']} / {total['lost']}")


def outcome(
    template: Path, scratch: Path, version: str, profile: Answers, edits: tuple[Edit, ...]
) -> dict[str, int]:
    service = start_service(template, scratch / "service", version, **profile)
    start = read_tree(service)
    for edit in edits:
        edit(service)
    commit(service)
    edited = set(differences(start, read_tree(service)))
    conflicts = set(update_service(service, NEWEST, **profile))

    fresh = copy(template, scratch / "fresh", NEWEST, profile)
    merged = expected_tree(fresh, start, scratch / "expected", edits[0])
    # Where both sides changed the same lines no bytes are right: there, our words have to be left.
    ours = CONFLICTS if conflicting in edits else {}
    lost = set(differences(read_tree(service), merged)) - conflicts - ours.keys()
    lost |= {path for path in ours if ours[path] not in (service / path).read_text("utf-8")}
    return {
        "merged": len(edited - conflicts - lost),
        "conflict": len(conflicts),
        "lost": len(lost),
    }


def times(template: Path, folder: Path) -> None:
    print(f"medians of {ROUNDS} rounds, in a process that has imported Copier")
    rounds: dict[str, list[float]] = {"copier copy": [], "copier update": []}
    started: dict[str, Counter[str]] = {}
    for number in range(ROUNDS):
        service = start_service(template, folder / f"service-{number}", EARLIER)
        typical(service)
        commit(service)
        to = folder / f"copy-{number}"
        copying, started["copier copy"] = measured(copy, template, to, NEWEST, {})
        updating, started["copier update"] = measured(update_service, service)
        rounds["copier copy"].append(copying)
        rounds["copier update"].append(updating)
    for name, found in rounds.items():
        processes = started[name]
        most, count = processes.most_common(1)[0]
        share = f"{processes.total()} processes, {count} of them {most}"
        print(f"{name:14} {median(found):5.2f} s, {share}")


def measured(action: Callable[..., object], *arguments: object) -> tuple[float, Counter[str]]:
    """Seconds, and the programs that were started meanwhile."""
    programs = Counter[str]()
    start = subprocess.Popen.__init__

    def counting(self: Any, args: Any, *rest: Any, **options: Any) -> None:
        words = [Path(str(args[0])).name, *map(str, args[1:])]
        programs[" ".join(word for word in words if not word.startswith("-"))[:40]] += 1
        start(self, args, *rest, **options)

    with patch.object(subprocess.Popen, "__init__", counting):
        begin = perf_counter()
        action(*arguments)
        return perf_counter() - begin, programs


if __name__ == "__main__":
    main()

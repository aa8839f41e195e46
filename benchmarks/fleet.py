"""What it takes to rehearse an update of a fleet: `python -m benchmarks.fleet [FOLDER]`.

The services are real Git repositories of the whole template, from three releases, with different
answers and edits; some are broken, dirty or out of reach. FOLDER, a new one, keeps them, and the
page about them. A few minutes.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from scripts.snapshot import snapshot
from tests.fleet.conftest import inventory, refs
from tests.fleet.generated import CHECK, add_releases, of_every_kind, wrongly_classified
from tests.template.answers import ROOT

JOBS = 2
ROUNDS = 3
FEW = slice(2, 6)  # clean ones, to compare one at a time with several


def main() -> None:
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name))


def measure(folder: Path) -> None:
    template = snapshot(ROOT, folder / "template")
    add_releases(template)
    services = of_every_kind(template, folder / "services")
    names = [service.repository for service in services]
    before = refs(names)
    page = ("--output", str(folder / "fleet.html"))
    file = inventory(folder / "fleet.txt", names)
    seconds, results = fleet("report", file, "--check", CHECK, "--jobs", str(JOBS), *page)
    states = Counter(result["state"] for result in results)
    print(f"{len(services)} services, {JOBS} at once: {seconds:.0f} s")
    print(", ".join(f"{count} {state}" for state, count in states.items()))
    print(f"wrongly classified: {len(wrongly_classified(services, results))}")
    print(f"pushed by the rehearsal: {'something' if refs(names) != before else 'nothing'}")

    few = inventory(folder / "few.txt", names[FEW])
    ratios = []
    for _ in range(ROUNDS):
        alone, _ = fleet("update", few, "--jobs", "1")
        together, _ = fleet("update", few, "--jobs", str(JOBS))
        ratios.append(alone / together)
    print(f"seconds of one at a time / seconds of {JOBS} at once: {median(ratios):.2f}")


def fleet(action: str, file: Path, *options: str) -> tuple[float, list[dict[str, Any]]]:
    """Seconds, and what it found out."""
    command = [sys.executable, "-m", "fleet", action, str(file), "--json", *options]
    started = perf_counter()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    seconds = perf_counter() - started
    found: list[dict[str, Any]] = json.loads(done.stdout)["repositories"]
    return seconds, found


if __name__ == "__main__":
    main()

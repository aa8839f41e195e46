"""What it takes to rehearse an update of forty services: `python -m benchmarks.fleet` (minutes).

The services are real Git repositories of the whole template, from two releases, with different
answers and edits; some are broken, dirty or out of reach. A folder given as argument keeps them
and the page about them.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

from scripts.snapshot import snapshot
from tests.fleet.conftest import inventory, refs
from tests.fleet.generated import CHECK, Service, add_releases, forty, wrongly_classified

ROOT = Path(__file__).parents[1]
JOBS = (1, 2)


def rehearse(file: Path, jobs: int, page: Path) -> tuple[float, str]:
    """Seconds, and what it printed."""
    options = ["--check", CHECK, "--jobs", str(jobs), "--json", "--output", str(page)]
    started = perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fleet", "report", file, *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return perf_counter() - started, done.stdout


def measure(folder: Path) -> None:
    template = snapshot(ROOT, folder / "template")
    add_releases(template)
    services: list[Service] = forty(template, folder / "services")
    names = [service.repository for service in services]
    file, before = inventory(folder / "fleet.txt", names), refs(names)
    seconds = {}
    for jobs in JOBS:
        seconds[jobs], output = rehearse(file, jobs, folder / "fleet.html")
        results = json.loads(output)["repositories"]
        wrong = wrongly_classified(services, results)
        pushed = refs(names) != before
        counts = ", ".join(
            f"{count} {state}"
            for state, count in Counter(result["state"] for result in results).items()
        )
        print(
            f"{len(services)} services, {jobs} at once: {seconds[jobs]:.1f} s; {counts}; "
            f"wrong: {len(wrong)}; pushed by the rehearsal: {'something' if pushed else 'nothing'}"
        )
    print(f"seconds of one at a time / of {JOBS[-1]} at once: {seconds[1] / seconds[JOBS[-1]]:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            measure(Path(name))

"""Is anything slower than it was? `make regression SINCE=v1.2.0`

The CPU that a process needs for each operation of the cache and of locks, with `app/core` of this
working tree beside that of an earlier commit: in turns, and of each the least, because whatever is
above it is the machine's. A ratio above 1 is faster than before. The operations are called as this
tree has them: a commit with another interface cannot be measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# The server, which is measured with it, is the template's.
sys.path.insert(0, str(Path(__file__).parents[1] / "template"))

from benchmarks.environments import APPS, ROOT
from devservers.valkey import EmbeddedValkey
from scripts.snapshot import git


def measure(template: Path, url: str) -> dict[str, float]:
    """Return microseconds of CPU by operation, with that template's `app/core`."""
    process = subprocess.run(
        [sys.executable, str(APPS / "operations.py"), url],
        env={**os.environ, "PYTHONPATH": str(template)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise SystemExit(f"{template} cannot be measured:\n{process.stderr[-2000:]}")
    found: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("since", help="a commit or tag, such as v1.2.0")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey() as server:
        earlier = Path(folder) / "earlier"
        try:
            git("worktree", "add", "--quiet", "--detach", earlier, options.since, cwd=ROOT)
        except RuntimeError as error:
            raise SystemExit(str(error)) from None
        try:
            then, now = earlier / "template", ROOT / "template"
            found: dict[Path, list[dict[str, float]]] = {then: [], now: []}
            for number in range(options.rounds):
                for template in (then, now) if number % 2 else (now, then):
                    found[template].append(measure(template, server.url))
        finally:
            git("worktree", "remove", "--force", earlier, cwd=ROOT)
    print(f"{'microseconds of CPU':30} {options.since[:12]:>12} {'now':>8} {'faster':>8}")
    for operation in found[now][0]:
        before, after = (min(one[operation] for one in found[tree]) for tree in (then, now))
        print(f"{operation:30} {before:12.1f} {after:8.1f} {before / after:8.2f}")


if __name__ == "__main__":
    main()

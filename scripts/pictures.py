"""Draw `docs/pictures/*.dot` with Graphviz: `make pictures`, after a change of one of them.

Each SVG says which text it was drawn from, so that a test, which has no Graphviz, sees an old one.
"""

import re
import shutil
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs/pictures"


def mark(source: Path) -> str:
    """The comment that an SVG of this text carries."""
    digest = blake2b(source.read_bytes(), digest_size=8).hexdigest()
    return f"<!-- drawn from {source.name} {digest} -->"


def draw(source: Path) -> None:
    done = subprocess.run(["dot", "-Tsvg", source], capture_output=True, text=True, check=True)
    svg = re.sub(r"<!--.*?-->\n?", "", done.stdout, flags=re.DOTALL)
    start = svg.index("<svg")
    source.with_suffix(".svg").write_text(f"{svg[:start]}{mark(source)}\n{svg[start:]}", "utf-8")


def main() -> int:
    if shutil.which("dot") is None:
        print("dot is missing: install Graphviz", file=sys.stderr)
        return 1
    for source in sorted(FOLDER.glob("*.dot")):
        draw(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Releases to update from, services made from them, and what teams do to a service in between."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from copier import run_copy, run_update

from scripts.snapshot import git, release
from tests.template.answers import CONFIG
from tests.template.trees import Tree, read_tree

EARLIER = "v0.0.1"
# The folders that are the service's own from the first day, as copier.yml has them.
OWN = (
    "app/items/__init__.py",
    "app/items/caching.py",
    "app/items/errors.py",
    "app/items/models.py",
    "app/items/repository.py",
    "app/items/routes.py",
    "app/items/table.py",
    "migrations/versions/0001_items.py",
    "tests/items/__init__.py",
    "tests/items/test_items.py",
)


def add_earlier_release(template: Path) -> None:
    """Tag a version in which every file was a little different and some did not exist yet."""
    for path in sorted((template / "template").rglob("*")):
        if path.is_file() and not path.name.startswith("{{"):
            first, separator, rest = path.read_text("utf-8").partition("\n")
            if first and "{%" not in first:
                path.write_text(f"{first} (earlier){separator}{rest}", "utf-8")
    (template / "template/app/core/redis/report.py").unlink()
    (template / "template/app/core/obsolete.py").write_text('"""Was dropped."""\n')
    replace(template / "template/pyproject.toml.jinja", '"fastapi>=0.', '"fastapi>=0.0.')
    # A question that is new since then, whose files were always there.
    config: dict[str, Any] = {name: spec for name, spec in CONFIG.items() if name != "github"}
    (template / "copier.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    release(template, EARLIER)
    git("reset", "--quiet", "--hard", "HEAD~1", cwd=template)


def start_service(template: Path, folder: Path, ref: str, **answers: str | bool) -> Path:
    """What `copier copy` of that release wrote, committed as its README says."""
    run_copy(str(template), folder, answers, vcs_ref=ref, defaults=True, quiet=True)
    git("init", "--quiet", cwd=folder)
    commit(folder)
    return folder


def commit(service: Path) -> None:
    git("add", "--all", cwd=service)
    git("commit", "--quiet", "--allow-empty", "--message", "work", cwd=service)


def update_service(service: Path, ref: str | None = None, **answers: str | bool) -> list[str]:
    """`copier update`; returns the paths that are in conflict."""
    run_update(service, answers, vcs_ref=ref, defaults=True, overwrite=True, quiet=True)
    unmerged = git("ls-files", "--unmerged", "-z", cwd=service).split("\0")
    return sorted({line.partition("\t")[2] for line in unmerged if line})


def expected_tree(fresh: Path, start: Tree, scratch: Path, edit: Callable[[Path], None]) -> Tree:
    """A fresh copy of the newer release, with the service's own folders and the same edits."""
    service = Path(shutil.copytree(fresh, scratch))
    for name in OWN:
        if (service / name).is_dir():
            shutil.rmtree(service / name)
        else:
            (service / name).unlink(missing_ok=True)
    for path, file in start.items():
        if path.startswith(OWN):
            (service / path).parent.mkdir(parents=True, exist_ok=True)
            (service / path).write_bytes(file.content)
    edit(service)
    return read_tree(service)


def replace(path: Path, old: str, new: str) -> None:
    """Replace the first occurrence. There has to be one, or the edit would prove nothing."""
    text = path.read_text("utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new, 1), "utf-8")


def insert_after(path: Path, anchor: str, text: str) -> None:
    replace(path, anchor, anchor + text)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text("utf-8") + text, "utf-8")


def typical_edits(service: Path) -> None:
    """What a team does in the first weeks, away from the lines that the template changes."""
    write(service / "app/payments/__init__.py", '"""Payments."""\n')
    write(service / "app/payments/routes.py", '"""Payments over HTTP."""\n')
    write(service / "tests/test_payments.py", '"""Tests of payments."""\n')
    main = service / "app/main.py"
    insert_after(main, "import create_items_router\n", "from app.payments.routes import router\n")
    insert_after(main, OWN_FEATURES, "    app.include_router(router)\n")
    insert_after(service / "app/settings.py", OWN_SETTINGS, "    payments_url: str = ''\n")
    replace(service / "app/core/redis/clients.py", "\ndef create_", "\n# Ours.\ndef create_")
    edit_dependencies(service)
    append(service / "README.md", "\n## Payments\n\nAsk the payments team.\n")
    append(service / "app/items/routes.py", "# Ours now.\n")
    (service / "app/items/errors.py").unlink()


OWN_FEATURES = "    # This service's own features: add yours here.\n"
OWN_SETTINGS = "    # This service's own settings: add yours here.\n"


def edit_dependencies(service: Path) -> None:
    """Add one to the service's own block, and raise the bound of one of the template's."""
    path = service / "pyproject.toml"
    before, start, rest = path.read_text("utf-8").partition("\ndependencies = [\n")
    block, end, after = rest.partition("\n]\n")
    path.write_text(f'{before}{start}{block}\n  "stripe>=11",{end}{after}', "utf-8")
    replace(path, '"structlog>=26.', '"structlog>=26.0.')


def delete_example(service: Path) -> None:
    """Its folders, and the lines that wire it."""
    shutil.rmtree(service / "app/items")
    shutil.rmtree(service / "tests/items")
    main = service / "app/main.py"
    lines = main.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not re.search(r"items|Item|restock", line)]
    assert len(kept) < len(lines)
    main.write_text("".join(kept), "utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")

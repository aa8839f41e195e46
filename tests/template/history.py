"""Versions to update from, and services made from them."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from copier import run_copy, run_update

from scripts.snapshot import NEWEST, git, release
from tests.template.answers import CONFIG, Answers, services_own
from tests.template.edits import Edit, replace
from tests.template.quick_copier import quick_copier
from tests.template.trees import Tree, read_tree

EARLIER = "v0.0.1"
BETWEEN = "between"  # a branch: its commit has no tag


def add_earlier_versions(template: Path) -> None:
    """A release older than all, and a commit after it that was never released."""
    git("switch", "--quiet", "--orphan", BETWEEN, cwd=template)
    git("checkout", NEWEST, "--", ".", cwd=template)
    turn_back(template / "template")
    # A question that is new since then, whose files were always there.
    config: dict[str, Any] = {name: spec for name, spec in CONFIG.items() if name != "github"}
    (template / "copier.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    release(template, EARLIER)
    git("checkout", NEWEST, "--", "copier.yml", "template/app/core", cwd=template)
    git("commit", "--quiet", "--all", "--message", "unreleased", cwd=template)
    git("switch", "--quiet", "main", cwd=template)


def turn_back(files: Path) -> None:
    """As if every file had changed a little since then, and the wiring files in their midst."""
    for path in sorted(files.rglob("*")):
        if path.is_file() and not path.name.startswith("{{"):
            lines = path.read_text("utf-8").splitlines()
            plain = path.suffix != ".jinja"
            for number in (0, -1) if plain and len(lines) > 20 else (0,) if lines else ():
                if "{%" not in lines[number]:
                    lines[number] += " (earlier)"
            path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    (files / "app/core/redis/report.py").unlink()
    (files / "app/core/obsolete.py").write_text('"""Was dropped."""\n')
    project = files / "pyproject.toml.jinja"
    replace(project, '"fastapi>=0.', '"fastapi>=0.0.')
    replace(project, '  "uvicorn[standard]>=', '  "hypercorn>=')
    main = files / "app/main.py.jinja"
    replace(main, "    cache = install_cache(service", "    cache = install_a_cache(service")
    replace(main, "from app.wiring.service import make_service\n", "")
    settings = files / "app/settings/__init__.py.jinja"
    replace(settings, '    service_name: str = "{{ service_name }}"\n', "")
    readme = files / "README.md.jinja"
    replace(readme, "## Where things are\n", "## Where it is\n")
    # Nobody was asked yet.
    replace(files / "docs/updates.md.jinja", "{% if github %}", "{% if true %}")


def copy(template: Path, folder: Path, ref: str, answers: Answers) -> Path:
    with quick_copier():
        run_copy(str(template), folder, answers, vcs_ref=ref, defaults=True, quiet=True)
    return folder


def start_service(template: Path, folder: Path, ref: str, **answers: str | bool) -> Path:
    """What `copier copy` of that version wrote, committed as its README says."""
    copy(template, folder, ref, answers)
    git("init", "--quiet", cwd=folder)
    commit(folder)
    return folder


def commit(service: Path) -> None:
    git("add", "--all", cwd=service)
    git("commit", "--quiet", "--allow-empty", "--message", "work", cwd=service)


def update_service(service: Path, ref: str | None = None, **answers: str | bool) -> list[str]:
    """`copier update`; returns the paths that are in conflict."""
    with quick_copier():
        run_update(service, answers, vcs_ref=ref, defaults=True, overwrite=True, quiet=True)
    unmerged = git("ls-files", "--unmerged", "-z", cwd=service).split("\0")
    return sorted({line.partition("\t")[2] for line in unmerged if line})


def expected_tree(fresh: Path, start: Tree, scratch: Path, edit: Edit) -> Tree:
    """A fresh copy of the newer version, with what is the service's own and the same edits."""
    service = Path(shutil.copytree(fresh, scratch))
    for name in services_own():
        if (service / name).is_dir():
            shutil.rmtree(service / name)
        else:
            (service / name).unlink(missing_ok=True)
    for path, file in start.items():
        if path.startswith(services_own()):
            (service / path).parent.mkdir(parents=True, exist_ok=True)
            (service / path).write_bytes(file.content)
    edit(service)
    return read_tree(service)

"""A fleet of real Git repositories: bare remotes on disk, each with what its team made of it."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.snapshot import git, release
from tests.template.answers import Answers, covering_profiles
from tests.template.edits import append, replace, write
from tests.template.history import commit, copy

RELEASES = ("v999.1.0", "v999.2.0", "v999.3.0")
NEWEST = RELEASES[-1]
CHECK = "test ! -e fails"


@dataclass(frozen=True)
class Service:
    repository: str
    state: str
    old: str = ""
    conflicts: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    dirty: bool = False
    cause: str = ""


def add_releases(template: Path) -> None:
    """Three of them, each with another first line of the README and another new file."""
    readme = template / "template/README.md.jinja"
    for number, tag in enumerate(RELEASES):
        text = readme.read_text("utf-8").partition("\n")[2]
        readme.write_text(f"# {{{{ service_name }}}}, {number}\n{text}", "utf-8")
        write(template / f"template/app/core/added_{number}.py", f'"""Since {tag}."""\n')
        release(template, tag)


def nothing(_service: Path) -> None:
    """A team that left everything as it was."""


def edited(service: Path) -> None:
    write(service / "app/payments/routes.py", '"""Payments."""\n')
    append(service / "README.md", "\n## Payments\n")


def conflicting(service: Path) -> None:
    path = service / "README.md"
    replace(path, path.read_text("utf-8").partition("\n")[0], "# Our title")


def failing(service: Path) -> None:
    write(service / "fails", "the check looks for this\n")


def answers_lost(service: Path) -> None:
    (service / ".copier-answers.yml").unlink()


def answers_garbled(service: Path) -> None:
    write(service / ".copier-answers.yml", "_commit: [\n<<<<<<< ours\n")


def another_template(service: Path) -> None:
    write(service / ".copier-answers.yml", "_commit: v1.0.0\n_src_path: gh:else/where\nname: x\n")


class Builder:
    """Makes repositories below `folder`; renders each release with each answers once."""

    def __init__(self, template: Path, folder: Path) -> None:
        self.template, self.folder = template, folder
        self.services: list[Service] = []
        # A few are enough: what an update makes of answers is shown elsewhere.
        self._profiles = covering_profiles()[:3]

    def add(
        self,
        count: int,
        edit: Callable[[Path], None],
        state: str,
        *,
        tags: tuple[str, ...] = RELEASES[:2],
        conflicts: tuple[str, ...] = (),
        drift: tuple[str, ...] = (),
        cause: str = "",
        dirty: bool = False,
    ) -> None:
        for _ in range(count):
            number = len(self.services)
            tag = tags[number % len(tags)]
            tree = self.folder / f"trees/service-{number}"
            shutil.copytree(self._rendered(tag, number % len(self._profiles)), tree)
            git("init", "--quiet", "--initial-branch=main", cwd=tree)
            edit(tree)
            commit(tree)
            repository = tree
            if dirty:
                append(tree / "README.md", "Not committed.\n")
            else:
                repository = self.folder / f"service-{number}.git"
                git("clone", "--quiet", "--bare", tree, repository, cwd=self.folder)
            old = "" if edit in (answers_lost, answers_garbled, another_template) else tag
            self.services.append(
                Service(str(repository), state, old, conflicts, drift, dirty, cause)
            )

    def add_repository(self, repository: str, cause: str) -> None:
        self.services.append(Service(repository, "failed", cause=cause))

    def _rendered(self, tag: str, profile: int) -> Path:
        folder = self.folder / f"renders/{tag}-{profile}"
        if not folder.exists():
            answers: Answers = self._profiles[profile]
            copy(self.template, folder, tag, answers)
        return folder


def of_every_kind(template: Path, folder: Path) -> list[Service]:
    builder = Builder(template, folder)
    builder.add(2, nothing, "current", tags=(NEWEST,))
    builder.add(4, nothing, "clean")
    builder.add(3, edited, "clean", drift=("README.md",))
    builder.add(2, conflicting, "conflict", conflicts=("README.md",), drift=("README.md",))
    builder.add(2, failing, "broken", cause="check: exit code 1")
    builder.add(1, conflicting, "current", tags=(NEWEST,), drift=("README.md",))
    builder.add(1, nothing, "clean", dirty=True)
    builder.add(1, answers_lost, "failed", cause="it has no .copier-answers.yml")
    builder.add(1, answers_garbled, "failed", cause=".copier-answers.yml cannot be read")
    builder.add(1, another_template, "failed", cause="not from this template, but from gh:else")
    builder.add_repository(str(folder / "missing"), "does not exist")
    builder.add_repository("http://127.0.0.1:9/orders.git", "git clone: ")
    builder.add_repository("ssh://git@127.0.0.1:9/orders.git", "git clone: ")
    empty = folder / "empty.git"
    git("init", "--quiet", "--bare", empty, cwd=folder)
    builder.add_repository(str(empty), "the repository is empty")
    return builder.services


def wrongly_classified(
    services: list[Service], found: list[dict[str, Any]]
) -> list[tuple[Service, dict[str, Any]]]:
    """Services with the result that does not fit them."""
    return [
        (service, result)
        for service, result in zip(services, found, strict=True)
        if not fits(service, result)
    ]


def fits(service: Service, result: dict[str, Any]) -> bool:
    expected = {
        "repository": service.repository,
        "state": service.state,
        "old": service.old,
        "conflicts": list(service.conflicts),
        "drift": list(service.drift),
        "dirty": service.dirty,
        "pushed": False,
    }
    if service.state != "failed":
        expected["new"] = NEWEST
    caused = service.cause in result["cause"] and bool(result["cause"]) == bool(service.cause)
    return caused and expected.items() <= result.items()

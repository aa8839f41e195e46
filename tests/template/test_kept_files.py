"""No file of the template is renamed or deleted unnoticed, and no answer is taken back.

An update would delete the file in every service, with all that was edited in it and without a
conflict. It takes a new major version, or a migration that moves the file (`git mv`) and so brings
the edits to light. An answer that is no longer there would become the default, without a word.
"""

import re
from pathlib import Path

import pytest
import yaml

from scripts.snapshot import git, release, releases, version
from tests.template.answers import ROOT

CONFIG = """\
_subdirectory: template
database: {type: str, choices: {One: one, Two: two}}
port: {type: str}
"""
HEADING = re.compile(r"^## \[(\d+)\.\d+\.\d+\]", re.MULTILINE)


def last_release(repository: Path) -> str | None:
    """What the next version must be compatible with; None if it is a new major one."""
    if not (tags := releases(repository)):
        return None
    newest = HEADING.search((repository / "CHANGELOG.md").read_text("utf-8"))
    return None if newest and int(newest[1]) > version(tags[-1])[0] else tags[-1]


def lost_answers(repository: Path) -> list[str]:
    """Questions, and choices of questions, of the last release that are gone."""
    if not (last := last_release(repository)):
        return []
    old = questions(git("show", f"{last}:copier.yml", cwd=repository))
    new = questions((repository / "copier.yml").read_text("utf-8"))
    return [f"{name}: {answer}" for name, answer in sorted(old - new)]


def questions(config: str) -> set[tuple[str, str]]:
    found = set()
    for name, spec in yaml.safe_load(config).items():
        if not name.startswith("_"):
            choices = spec.get("choices", [])
            answers = choices.values() if isinstance(choices, dict) else choices
            found |= {(name, str(answer)) for answer in [spec["type"], *answers]}
    return found


def lost_files(repository: Path) -> list[str]:
    """Files of the last release's template/ that are gone, with nothing to account for it."""
    if not (last := last_release(repository)):
        return []
    released = git("ls-tree", "-r", "-z", "--name-only", last, "template/", cwd=repository)
    migrations = (repository / "copier.yml").read_text("utf-8").partition("_migrations:")[2]
    return [
        path
        for path in released.split("\0")
        if path
        and not (repository / path).exists()
        # A service has it under the name without `.jinja`, so it may become a template, or cease.
        and not (repository / path.removesuffix(".jinja")).exists()
        and not (repository / f"{path}.jinja").exists()
        and path.removeprefix("template/").removesuffix(".jinja") not in migrations
    ]


def test_no_file_was_lost_since_the_last_release() -> None:
    assert lost_files(ROOT) == []


def test_no_answer_was_lost_since_the_last_release() -> None:
    assert lost_answers(ROOT) == []


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """A template with the releases 1.9.0 and 1.10.0: the last one, though not in the alphabet."""
    (tmp_path / "template/app").mkdir(parents=True)
    (tmp_path / "template/app/kept.py").write_text("x = 1\n")
    (tmp_path / "template/app/gone.py.jinja").write_text("y = 1\n")
    (tmp_path / "copier.yml").write_text(CONFIG)
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [1.10.0] - 2026-02-01\n"
    )
    git("init", "--quiet", cwd=tmp_path)
    for tag in ("v1.9.0", "v1.10.0"):
        release(tmp_path, tag)
    return tmp_path


def test_a_rename_is_noticed(released: Path) -> None:
    assert lost_files(released) == []
    (released / "template/app/gone.py.jinja").rename(released / "template/app/new.py.jinja")
    assert lost_files(released) == ["template/app/gone.py.jinja"]


def test_a_file_may_become_a_template_and_back(released: Path) -> None:
    (released / "template/app/gone.py.jinja").rename(released / "template/app/gone.py")
    (released / "template/app/kept.py").rename(released / "template/app/kept.py.jinja")
    assert lost_files(released) == []


def test_a_migration_accounts_for_it(released: Path) -> None:
    (released / "template/app/gone.py.jinja").unlink()
    with (released / "copier.yml").open("a") as config:
        config.write(
            "_migrations:\n  - version: v1.11.0\n    command: git mv app/gone.py app/new.py\n"
        )
    assert lost_files(released) == []


def test_a_major_version_accounts_for_it(released: Path) -> None:
    (released / "template/app/gone.py.jinja").unlink()
    (released / "CHANGELOG.md").write_text("# Changelog\n\n## [2.0.0] - 2026-03-01\n")
    assert lost_files(released) == []


def test_only_the_last_release_counts(released: Path) -> None:
    (released / "template/app/kept.py").unlink()
    release(released, "v1.11.0")
    assert lost_files(released) == []


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        ("port", "tcp_port", ["port: str"]),
        ("Two: two", "Three: three", ["database: two"]),
        ("Two: two", "Two: two, Three: three", []),
        ("One: one", "First: one", []),  # only the label
    ],
)
def test_a_question_or_a_choice_that_is_gone_is_noticed(
    released: Path, old: str, new: str, lost: list[str]
) -> None:
    assert lost_answers(released) == []
    (released / "copier.yml").write_text(CONFIG.replace(old, new))
    assert lost_answers(released) == lost

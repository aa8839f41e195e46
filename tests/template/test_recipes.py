"""The recipes of `docs/how-to` run: all that need the same answers, in one service.

It is rendered once, runs in the environment of this repository, and gets the code of all of them;
then its linter, its types and their tests take one process each. `RECIPE=name` runs one alone.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.running import service_environment
from tests.template.answers import ROOT, Answers, covering_profiles, label
from tests.template.conftest import Render
from tests.template.recipes import FOLDER, USUAL, Recipe, lay_in, recipes

RECIPES = [each for each in recipes() if os.environ.get("RECIPE", each.name) == each.name]
CODED = [recipe for recipe in RECIPES if recipe.files]
ANSWERS = list({label(recipe.answers): recipe.answers for recipe in CODED}.values())
# These need more than one service in one process, and have a file of tests of their own.
ELSEWHERE = {"one-transaction": "tests/template/test_one_transaction.py"}

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


class Kitchen:
    """A service with the code of its recipes."""

    def __init__(self, folder: Path, recipes: list[Recipe], cache: Path) -> None:
        self._folder = folder
        self._variables = {"DEVSERVERS": "embedded", "MYPY_CACHE_DIR": str(cache)}
        files = [path for recipe in recipes for path in recipe.files if path.endswith(".py")]
        self.files = list(dict.fromkeys(files))
        self.tests = [path for recipe in recipes for path in recipe.tests]
        for recipe in recipes:
            lay_in(recipe, folder)
        if any(path.endswith("/table.py") for path in self.files):
            autogenerate = "alembic revision --autogenerate -m recipes"
            self.run("devservers", "--", "sh", "-c", f"alembic upgrade heads && {autogenerate}")

    def run(self, *command: str) -> None:
        """Run a module of Python there, and fail with its output if it fails."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self._folder,
            env=service_environment()
            | self._variables
            | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-8000:]}"


@pytest.fixture(scope="module", params=ANSWERS, ids=label)
def kitchen(
    request: pytest.FixtureRequest, render: Render, tmp_path_factory: pytest.TempPathFactory
) -> Kitchen:
    folder = tmp_path_factory.mktemp("kitchen") / "service"
    shutil.copytree(render(**request.param), folder)
    together = [recipe for recipe in CODED if recipe.answers == request.param]
    return Kitchen(folder, together, tmp_path_factory.getbasetemp() / "recipes-mypy")


@pytest.mark.slow
def test_they_have_the_style_of_a_service(kitchen: Kitchen) -> None:
    kitchen.run("ruff", "check", "-q", *kitchen.files)
    kitchen.run("ruff", "format", "--check", "-q", "docs", *kitchen.files)


@pytest.mark.slow
def test_their_types_are_right(kitchen: Kitchen) -> None:
    kitchen.run("mypy", *kitchen.files)


@pytest.mark.slow
def test_they_do_what_their_pages_say(kitchen: Kitchen) -> None:
    if kitchen.tests:
        kitchen.run("pytest", "-q", *kitchen.tests)


@each_recipe
def test_a_page_shows_its_code(recipe: Recipe) -> None:
    """Each block of Python is in one of the files; a line `...` stands for what is left out."""
    assert recipe.unshown == []


@each_recipe
def test_a_recipe_is_run(recipe: Recipe) -> None:
    """By its tests here, or by one that its page or `ELSEWHERE` names."""
    named = re.findall(r"`((?:template/)?tests/[\w/]+\.py)::(\w+)`", recipe.text)
    if recipe.name in ELSEWHERE:
        assert recipe.name in (ROOT / ELSEWHERE[recipe.name]).read_text("utf-8")
    elif recipe.files:
        assert any("def test_" in recipe.files[path] for path in recipe.tests)
    else:
        assert named, "it has neither code nor the name of a test that shows it"
    for path, test in named:
        assert f"def {test}(" in (ROOT / path).read_text("utf-8"), f"{path}::{test}"


def test_every_folder_of_code_has_a_page() -> None:
    """And there is nothing else: pages are those of a service."""
    found = {path.name for path in FOLDER.iterdir()}
    assert found <= {"README.md", *(recipe.name for recipe in recipes())}


def test_no_two_recipes_have_a_file_in_common() -> None:
    """But those that extend a file of the service."""
    extended = {"app/main.py", "app/settings/__init__.py"}
    counted = Counter(path for recipe in recipes() for path in recipe.files)
    assert [path for path, count in counted.items() if count > 1 and path not in extended] == []


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_a_service_has_the_pages_that_suit_it_in_its_index(
    assemble: Render, answers: Answers
) -> None:
    docs = assemble(**answers) / "docs"
    expected = {each.name for each in recipes() if each.suits(answers)}
    assert {page.stem for page in (docs / "how-to").iterdir()} == expected
    index = re.findall(r"\(how-to/([\w-]+)\.md\)", (docs / "README.md").read_text("utf-8"))
    assert sorted(index) == sorted(expected)


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_links_of_a_service_lead_somewhere(assemble: Render, answers: Answers) -> None:
    service = assemble(**answers)
    pages = [*service.glob("*.md"), *service.glob("docs/**/*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        if "://" not in link
    ]
    assert len(links) > 20
    missing = [f"{page}: {link}" for page, link in links if not leads_somewhere(page, link)]
    assert missing == []


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_a_service_knows_what_to_do_about_each_alert(assemble: Render, answers: Answers) -> None:
    service = assemble(**answers)
    rules = [path.read_text("utf-8") for path in (service / "deploy/alerts").glob("*.yml")]
    alerts = re.findall(r"- alert: (\w+)$", "\n".join(rules), re.MULTILINE)
    told = re.findall(r"^\| `([A-Z]\w+)` \|", (service / "docs/operations.md").read_text(), re.M)
    assert sorted(told) == sorted(alerts)


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_the_first_pages_are_one_screen(assemble: Render, answers: Answers) -> None:
    for page, most in (("README.md", 80), ("AGENTS.md", 70)):
        text = (assemble(**answers) / page).read_text("utf-8")
        assert len(text.splitlines()) <= most, page


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether there is such a file, with such a heading."""
    path, _, heading = link.partition("#")
    target = page.parent / path if path else page
    if not heading:
        return target.exists()
    titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
    return heading in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Recipe]:
    """A recipe with one file of code, and a page of this text."""
    code = tmp_path / "made-up/app/main.py"
    code.parent.mkdir(parents=True)
    code.write_text("from app.a import b\n\n# Here.\nif b:\n    b()\nc()\n")
    monkeypatch.setattr("tests.template.recipes.FOLDER", tmp_path)

    def make(page: str) -> Recipe:
        (tmp_path / "made-up.md").write_text(page)
        return Recipe(tmp_path / "made-up.md")

    return make


@pytest.mark.parametrize(
    ("block", "is_shown"),
    [
        ("if b:\n    b()\n", True),
        ("b()\n", True),
        ("from app.a import b\n...\nc()\n", True),
        ("c()\nif b:\n", False),
        ("from app.a import b\nc()\n", False),
        ("if a:\n    b()\n", False),
        ("if b:\nb()\n", False),
    ],
)
def test_a_block_that_is_not_in_the_code_is_found(
    made_up: Callable[[str], Recipe], block: str, is_shown: bool
) -> None:
    recipe = made_up(f"# Title\n\n```python\n{block}```\n")
    assert (recipe.unshown == []) is is_shown


def test_what_a_recipe_adds_comes_behind_its_comment(
    made_up: Callable[[str], Recipe], tmp_path: Path
) -> None:
    main = tmp_path / "service/app/main.py"
    main.parent.mkdir(parents=True)
    main.write_text("from app.c import c\n\n\ndef make():\n    c()\n    # Here.\n    c()\n")
    recipe = made_up("# Title\n\nNeeds `access=true`.\n")
    lay_in(recipe, tmp_path / "service")
    assert main.read_text() == (
        "from app.a import b\nfrom app.c import c\n\n\ndef make():\n    c()\n    # Here.\n"
        "    if b:\n        b()\n    c()\n    c()\n"
    )
    assert recipe.answers == USUAL | {"access": True}
    main.write_text("# Elsewhere.\n")
    with pytest.raises(ValueError, match=r"made-up/app/main\.py: there is such a file already"):
        lay_in(recipe, tmp_path / "service")

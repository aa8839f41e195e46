"""What is written in more than one place says the same everywhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from scripts.pictures import mark
from scripts.snapshot import releases
from tests.template.access_rules import RULES, rules
from tests.template.answers import (
    CONFIG,
    ROOT,
    Answers,
    closed_questions,
    covering_profiles,
    label,
    options,
)
from tests.template.conftest import Render
from tests.template.trees import text_files

IMAGE = re.compile(r"\b(redis|postgres|python):(\d[\d.]*-[a-z]+)\b")
ACTION = re.compile(r"uses: *([\w./-]+)@(\S+)( *# *\S+)?")
FULL_COMMIT = re.compile(r"[0-9a-f]{40}")


def test_an_image_has_the_same_tag_everywhere(assemble: Render) -> None:
    tags: dict[str, dict[str, list[str]]] = {}
    for path, text in text_files(assemble()).items():
        for name, tag in IMAGE.findall(text):
            tags.setdefault(name, {}).setdefault(tag, []).append(path)
    assert {"redis", "postgres", "python"} <= tags.keys()
    assert {name: found for name, found in tags.items() if len(found) > 1} == {}


def test_an_action_is_pinned_to_the_same_commit_everywhere(assemble: Render) -> None:
    workflows = {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for path in (ROOT / ".github").rglob("*.yml")
    } | {path: text for path, text in text_files(assemble()).items() if path.startswith(".github/")}
    pins: dict[str, set[str]] = {}
    for path, text in workflows.items():
        for action, commit, comment in ACTION.findall(text):
            assert FULL_COMMIT.fullmatch(commit), f"{path}: {action} is not pinned to a commit"
            assert comment, f"{path}: {action} does not say which version it is"
            pins.setdefault(action, set()).add(f"{commit}{comment}")
    assert "actions/checkout" in pins
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def image_version(files: dict[str, str], name: str) -> Version:
    [version] = {
        tag for text in files.values() for found, tag in IMAGE.findall(text) if found == name
    }
    return Version(version.partition("-")[0])


@pytest.mark.parametrize("floor", options("python_version"))
def test_the_oldest_python_is_the_same_everywhere(assemble: Render, floor: str) -> None:
    files = text_files(assemble(python_version=floor))
    project = tomllib.loads(files["pyproject.toml"])
    assert project["project"]["requires-python"] == f">={floor}"
    assert project["tool"]["mypy"]["python_version"] == floor
    assert Version(floor) <= image_version(files, "python")
    # The other Python of its workflow is the one that its image has.
    assert f'[oldest, "{image_version(files, "python")}"]' in files[".github/workflows/ci.yml"]
    assert f"Python {floor}+" in files["README.md"]


def test_the_template_is_developed_on_the_oldest_python_it_offers() -> None:
    """Ruff and mypy read template/ with our settings: newer ones would let newer syntax in."""
    floor = min(map(str, options("python_version")), key=Version)
    tools = read_toml(ROOT / "pyproject.toml")["tool"]
    assert tools["ruff"]["target-version"] == f"py{floor.replace('.', '')}"
    assert tools["mypy"]["python_version"] == floor
    assert f'"{floor}"' in (ROOT / ".github/workflows/ci.yml").read_text("utf-8")


def read_toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))


def requirements(lines: list[Any]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines if isinstance(line, str)]
    return {requirement.name: requirement for requirement in found}


def own_requirements() -> dict[str, Requirement]:
    project = read_toml(ROOT / "pyproject.toml")
    groups = [project["project"]["dependencies"], *project["dependency-groups"].values()]
    return {
        name: requirement for group in groups for name, requirement in requirements(group).items()
    }


def test_what_services_depend_on_is_tested_here_in_the_same_versions(render_wiring: Render) -> None:
    ours = own_requirements()
    questions = closed_questions(asked_only=True)
    # A few services that have every answer between them: the first ones, the second ones, ...
    for number in range(max(map(len, questions.values()))):
        answers = {name: found[number % len(found)] for name, found in questions.items()}
        project = tomllib.loads(text_files(render_wiring(**answers))["pyproject.toml"])
        lines = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
        for name, requirement in requirements(lines).items():
            assert name in ours, f"{name} is not in the dependency groups of pyproject.toml"
            assert str(requirement.specifier) == str(ours[name].specifier), name


def pinned_requirements() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return requirements([line for line in lines if not line.lstrip().startswith("#")])


def test_the_tested_versions_are_within_the_bounds() -> None:
    pinned = pinned_requirements()
    for name, requirement in own_requirements().items():
        assert requirement.specifier.contains(str(pinned[name].specifier).removeprefix("==")), name


@pytest.mark.parametrize("sessions", [True, False])
@pytest.mark.parametrize("access", [True, False])
def test_answers_together_need_what_each_of_them_needs(
    render_wiring: Render, sessions: bool, access: bool
) -> None:
    files = text_files(render_wiring(sessions=sessions, access=access))
    project = tomllib.loads(files["pyproject.toml"])
    runs = requirements(project["project"]["dependencies"]).keys()
    dev = requirements(project["dependency-groups"]["dev"]).keys()
    assert ("python-multipart" in runs) == sessions
    assert ("httpx2" in runs, "httpx2" in dev) == (access, not access)
    # Starlette warns of it, and it has no releases any more.
    assert "httpx" not in runs | dev


def test_no_service_has_the_name_of_a_package_it_depends_on(render_wiring: Render) -> None:
    """The resolver would take one for the other. Yet a service may be called `requests`."""
    for name in ("redis", "requests", "fastapi"):
        project = tomllib.loads(text_files(render_wiring(service_name=name))["pyproject.toml"])[
            "project"
        ]
        assert name in pinned_requirements()
        assert project["name"] not in pinned_requirements()


def test_the_acl_file_follows_from_the_policy() -> None:
    assert RULES.read_text("utf-8") == rules(), "run python -m tests.template.access_rules"


def test_no_package_index_is_named() -> None:
    """Whoever uses the template has one of their own."""
    assert not re.search(r"://|index|find-links", (ROOT / "constraints.txt").read_text("utf-8"))
    assert not list(ROOT.glob("uv.lock"))


def test_releases_have_their_place_in_the_documents() -> None:
    """The pull request of an update quotes the sections of UPGRADING.md by their headings."""
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    for tag in releases(ROOT):
        assert f"\n## [{tag.removeprefix('v')}] - " in changes
    sections = re.findall(r"^## (.*)$", (ROOT / "UPGRADING.md").read_text("utf-8"), re.MULTILINE)
    assert all(re.fullmatch(r"\d+\.\d+", section) for section in sections)
    assert sections == sorted(sections, key=Version, reverse=True)


def test_the_proposed_update_uses_the_copier_that_is_needed(assemble: Render) -> None:
    workflow = text_files(assemble())[".github/workflows/copier-update.yml"]
    assert f"uvx copier@{CONFIG['_min_copier_version']} update" in workflow
    assert str(own_requirements()["copier"].specifier) == f">={CONFIG['_min_copier_version']}"
    hook = (ROOT / "hooks/post_gen_project.py").read_text("utf-8")
    assert f'"copier>={CONFIG["_min_copier_version"]}"' in hook


def test_dashboards_draw_metrics_that_exist() -> None:
    defined = set()
    for path in (ROOT / "template/app/core").rglob("*.py"):
        for kind, name in re.findall(
            r'\b(Counter|Gauge|Histogram)\(\s*"([a-z_]+)"', path.read_text("utf-8")
        ):
            suffixes = {"Counter": ["_total"], "Gauge": [""]}.get(
                kind, ["_bucket", "_count", "_sum"]
            )
            defined |= {name + suffix for suffix in suffixes}
    assert len(defined) > 20
    deploy = ROOT / "template/deploy"
    for path in [*deploy.glob("grafana/dashboards/*.json"), *deploy.glob("alerts/*.yml")]:
        prefixes = "access|cache|events|http|lock|session"
        drawn = set(re.findall(rf"\b(?:{prefixes})_[a-z_]+\b", path.read_text("utf-8")))
        assert drawn, path.name
        assert drawn <= defined, path.name


@pytest.mark.parametrize(
    ("part", "prefix", "dashboard"),
    [
        ("locks", "lock", "locks"),
        ("sessions", "session", "sessions"),
        ("access", "access", "access"),
        ("events", "events", "events"),
        ("cache", "cache", "service"),
    ],
)
def test_the_dashboard_of_a_part_draws_all_its_metrics(
    part: str, prefix: str, dashboard: str
) -> None:
    source = (ROOT / f"template/app/core/{part}/metrics.py").read_text("utf-8")
    defined = set(re.findall(r'\b(?:Counter|Gauge|Histogram)\(\s*"([a-z_]+)"', source))
    text = (ROOT / f"template/deploy/grafana/dashboards/{dashboard}.json").read_text("utf-8")
    drawn = [name for name in re.findall(rf"\b{prefix}_[a-z_]+\b", text) if "[" not in name]
    drawn = [
        name for name in drawn if re.search("_(total|bucket|count|sum)$", name) or name in defined
    ]
    assert defined == {re.sub("_(total|bucket|count|sum)$", "", name) for name in drawn}


def test_every_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "docs/guarantees.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    promises = [row for row in rows if not row.startswith("| promise |")]
    assert len(promises) > 40
    for row in promises:
        named = re.findall(r"`((?:template/)?tests/[^`]+)`", row)
        assert named, row
        for test in named:
            file, _, name = test.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text("utf-8") or not name, test


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]  # those of a service: test_recipes.py


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page: Path) -> None:
    """Files of this repository, files of a service, and links to other pages."""
    text = page.read_text("utf-8")
    named = re.findall(r"`((?:tests|template|docs|benchmarks|scripts|fleet|app)/[\w./-]+)`", text)
    files = {name.removeprefix("template/") for name in named}
    missing = [
        name
        for name in files
        if not any((ROOT / below / name).exists() for below in ("", "template"))
        and not list((ROOT / "template").glob(f"{name}.jinja"))
    ]
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing += [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def test_every_page_is_listed() -> None:
    listed = (ROOT / "docs/README.md").read_text("utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")]
    assert [page for page in pages if f"({page})" not in listed] == ["README.md"]


def test_pictures_are_drawn_from_their_texts() -> None:
    """`make pictures` draws them."""
    sources = list((ROOT / "docs/pictures").glob("*.dot"))
    assert len(sources) >= 5
    for source in sources:
        assert mark(source) in source.with_suffix(".svg").read_text("utf-8"), source


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_the_map_of_the_core_names_files_that_the_service_has(
    assemble: Render, answers: Answers
) -> None:
    service = assemble(**answers)
    text = (service / "app/core/README.md").read_text("utf-8")
    named = re.findall(r"`(app/[\w./-]+)`", text)
    assert len(named) > 15
    assert [path for path in named if not (service / path).exists()] == []

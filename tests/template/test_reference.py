"""The tables of options, settings, metrics and log events say what the code says."""

import re
from pathlib import Path

import pytest

from scripts.reference import FOLDER, pages
from scripts.source import opposite
from tests.core.settings.parts import DATABASES, FEATURES
from tests.template.answers import Answers, covering_profiles, label
from tests.template.conftest import Render


def names_in(text: str) -> set[str]:
    """What the first column of the tables names."""
    return set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))


def test_the_tables_are_up_to_date() -> None:
    """`make reference` writes them."""
    written = pages()
    assert {path for path in FOLDER.iterdir() if path.is_file()} == written.keys()
    for path, text in written.items():
        assert path.read_text("utf-8") == text, f"run make reference: {path.name} is out of date"


def test_every_setting_has_a_row() -> None:
    """As Pydantic knows them; those of a service alone are in a rendered file."""
    listed = names_in((FOLDER / "settings.md.jinja").read_text("utf-8"))
    known = {
        name.upper() for part in (*FEATURES, *DATABASES.values()) for name in part.model_fields
    }
    assert len(known) > 50
    assert known <= listed


@pytest.mark.parametrize("page", ["policy-options.md", "settings.md.jinja", "metrics.md.jinja"])
def test_every_row_says_what_it_is(page: str) -> None:
    """A docstring in the code is missing where it does not."""
    rows = re.findall(r"^\| `.+ \|$", (FOLDER / page).read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 10
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_name_that_looks_like_a_log_event_has_a_row() -> None:
    """Found in another way than the table: any text `part.what_happened`."""
    listed = names_in((FOLDER / "log-events.md.jinja").read_text("utf-8"))
    parts = "|".join({name.split(".")[0] for name in listed})
    missing = set()
    for path in (FOLDER.parents[1] / "app").rglob("*.py"):
        if not path.is_relative_to(FOLDER.parents[1] / "app/accounts"):
            found = re.findall(rf'"((?:{parts})\.[a-z_]+)"', path.read_text("utf-8"))
            missing |= {name for name in found if not {name, f"{name}_lost"} & listed}
    assert missing - {"access.toml"} == set()


def test_unsafe_defaults_are_not_shown() -> None:
    text = (FOLDER / "settings.md.jinja").read_text("utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| `SESSION_KEYS` |")]
    assert [row.split(" | ")[1] for row in rows] == ["one for development"]


@pytest.mark.parametrize("answers", covering_profiles(), ids=label)
def test_a_service_has_the_rows_of_its_parts(assemble: Render, answers: Answers) -> None:
    folder: Path = assemble(**answers) / "docs/reference"
    settings = names_in((folder / "settings.md").read_text("utf-8"))
    metrics = names_in((folder / "metrics.md").read_text("utf-8"))
    log_events = names_in((folder / "log-events.md").read_text("utf-8"))
    assert "DATABASE_URL" in settings
    assert ("SESSION_KEYS" in settings) == answers["sessions"]
    assert ("REDLOCK_URLS" in settings) == (answers["lock_strategy"] == "redlock")
    assert ("events_handled_total" in metrics) == answers["events"]
    assert ("lock_renewals_total" in metrics) == (answers["lock_strategy"] != "none")
    assert ("access.denied" in log_events) == answers["access"]
    assert "cache.breaker_opened" in log_events


@pytest.mark.parametrize(
    ("excluded", "there"),
    [
        ("not sessions | default(true)", "sessions"),
        ("access | default(false)", "not access"),
        ("database | default('s3') != 's3'", "database == 's3'"),
        ("lock_strategy | default('lua') == 'none'", "lock_strategy != 'none'"),
        ("not sessions | default(true) and not access | default(true)", "(sessions or access)"),
        ("database | default('a') not in ('a', 'b')", "database in ('a', 'b')"),
    ],
)
def test_what_is_not_left_out_is_there(excluded: str, there: str) -> None:
    assert opposite(excluded) == there


def test_a_condition_that_nobody_can_turn_round_is_refused() -> None:
    with pytest.raises(ValueError, match="the opposite of"):
        opposite("sessions or access")

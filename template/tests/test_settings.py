"""A wrong setting stops the start and says which one; production refuses what is unsafe.

What each part takes and refuses is in `tests/settings/`, a file for each.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, load_settings
from tests.settings.part import parts

PARTS = list(parts())
SAFE = {name: value for part in PARTS for name, value in part.safe.items()}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_the_defaults_suit_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch).environment == "development"


@pytest.mark.parametrize(("name", "value"), [case for part in PARTS for case in part.wrong])
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as error:
        load(monkeypatch, **{name: value})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("name", "value"), [case for part in PARTS for case in part.hidden])
def test_a_password_does_not_show_in_the_settings(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    assert "hunter2" not in repr(load(monkeypatch, **{name: value}))


def test_production_takes_safe_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, **SAFE).environment == "production"


@pytest.mark.parametrize(
    ("name", "value", "complaint"), [case for part in PARTS for case in part.unsafe]
)
def test_production_refuses_what_is_unsafe(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load(monkeypatch, **SAFE | {name: value})


def test_each_problem_has_a_line_and_the_process_ends_without_a_traceback() -> None:
    unsafe = SAFE | {"DEBUG": "true", "REDIS_URL": SAFE["REDIS_URL"].replace("rediss:", "redis:")}
    done = subprocess.run(
        [sys.executable, "-c", "import app.main"],
        env={**os.environ, **unsafe},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "The service does not start: its settings are wrong."
    assert [line.split()[0] for line in lines[1:]] == ["DEBUG", "REDIS_URL"]


def test_a_network_of_ones_own_needs_no_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SAFE["REDIS_URL"].replace("rediss:", "redis:")
    own = SAFE | {"REDIS_URL": plain, "PRIVATE_HOSTS": "redis.example, database"}
    assert load(monkeypatch, **own).private_hosts


def test_a_misspelt_setting_and_a_missing_environment_are_doubted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    misspelt, unnamed = load(monkeypatch, REDIS_POOLSIZE="5").doubts
    assert misspelt == "REDIS_POOLSIZE is no setting: did you mean REDIS_POOL_SIZE?"
    assert unnamed.startswith("ENVIRONMENT is not set")


def test_tests_do_not_read_a_developers_env_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("REDIS_POOL_SIZE=3\n")
    assert load(monkeypatch).redis_pool_size == 3
    assert load(monkeypatch, ENVIRONMENT="test").redis_pool_size != 3

"""Values that are no times, and variables that may be meant otherwise."""

from pathlib import Path

import pytest

from app.settings.redis import RedisSettings
from app.settings.service import ServiceSettings
from app.settings.sessions import SessionSettings
from tests.core.settings.parts import DATABASES, FEATURES, Part, loaded, problems

FLOATS = [
    (part, name)
    for part in [*FEATURES, *(database for database in DATABASES.values())]
    for name, field in part.model_fields.items()
    if field.annotation is float
]


@pytest.mark.parametrize(("part", "name"), FLOATS, ids=lambda value: str(value))
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_a_time_is_finite(part: Part, name: str, value: str) -> None:
    (problem,) = problems(part, **{name.upper(): value})
    assert problem.startswith(f"{name.upper()}: ")


def test_a_session_does_not_last_for_ages() -> None:
    for name in ("SESSION_IDLE_TIMEOUT", "SESSION_ABSOLUTE_TIMEOUT"):
        assert any(name in problem for problem in problems(SessionSettings, **{name: "1e15"}))


NAMED = {"ENVIRONMENT": "development"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("REDIS_POOLSIZE", "REDIS_POOL_SIZE"),
        ("REDIS_POOL_SIZES", "REDIS_POOL_SIZE"),
        ("REDIS_SIZE_POOL", "REDIS_POOL_SIZE"),
        ("REIDS_URL", "REDIS_URL"),
        ("redis_uri", "REDIS_URL"),
        ("SESION_KEYS", "SESSION_KEYS"),
        ("SESSION_KEY", "SESSION_KEYS"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("ENVIROMENT", "ENVIRONMENT"),
        ("WEB_CONCURENCY", "WEB_CONCURRENCY"),
    ],
)
def test_a_misspelt_setting_is_doubted(tmp_path: Path, written: str, meant: str) -> None:
    parts = (SessionSettings, RedisSettings)
    doubt = f"{written} is no setting: did you mean {meant}?"
    assert loaded(*parts, **NAMED, **{written: "x"}).doubts == [doubt]
    (tmp_path / ".env").write_text(f"{written}=x\n")
    assert loaded(*parts, **NAMED).doubts == [doubt]


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "LANG", "PORT", "LOGNAME", "REDIS_PORT", "REDIS_SERVICE_HOST", "REDIS_ADMIN"),
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "OTEL_SERVICE_NAME", "TEST_REDIS_URL"),
        *("PROMETHEUS_MULTIPROC_DIR", "FORWARDED_ALLOW_IPS", "redis_url"),
    ],
)
def test_what_others_have_in_the_environment_is_not_doubted(name: str) -> None:
    value = "redis://localhost" if name == "redis_url" else "x"
    parts = (DATABASES["s3"], *FEATURES)
    assert loaded(*parts, **NAMED, **{name: value}).doubts == []


def test_an_environment_that_nobody_has_named_is_doubted() -> None:
    (doubt,) = loaded(ServiceSettings).doubts
    assert "ENVIRONMENT=production" in doubt
    assert loaded(ServiceSettings, ENVIRONMENT="test").doubts == []

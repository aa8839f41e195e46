"""Origins and hosts: what is refused, with a remedy, and what is only warned of."""

import pytest

from app.settings.browser import BrowserSettings
from app.settings.sessions import SessionSettings
from tests.core.settings.parts import PRODUCTION, loaded, problems


@pytest.mark.parametrize(
    ("origin", "remedy"),
    [
        ("app.example", "https://app.example"),
        ("https://app.example/", "a slash at the end"),
        ("https://app.example/path", "a path"),
        ("https://*.app.example", "wildcard"),
        ("https://App.example", "lower case"),
        ("https://app.example:443", "leave out the port"),
        ("http://app.example:80", "leave out the port"),
        ("https://user@app.example", "a scheme and a host"),
        ("ftp://app.example", "a scheme and a host"),
        ("https://größe.example", "a scheme and a host"),
        ("null", "a scheme and a host"),
        ("https://app.example https://b.example", "a scheme and a host"),
    ],
)
@pytest.mark.parametrize("name", ["CORS_ORIGINS", "SESSION_TRUSTED_ORIGINS"])
def test_an_origin_has_the_form_that_browsers_send(name: str, origin: str, remedy: str) -> None:
    (problem,) = problems(SessionSettings, **{name: f"https://good.example, {origin}"})
    assert problem.startswith(f"{name}: ")
    assert remedy in problem


@pytest.mark.parametrize(
    "origins", ["https://app.example", "http://localhost:3000,http://[::1]:3000", "*", "", " "]
)
def test_good_origins_pass(origins: str) -> None:
    assert problems(BrowserSettings, **PRODUCTION, CORS_ORIGINS=origins) == []


def test_all_origins_are_no_list() -> None:
    (problem,) = problems(BrowserSettings, CORS_ORIGINS="*,https://app.example")
    assert "leave the others out" in problem


@pytest.mark.parametrize(
    ("origins", "remedy"),
    [("*", "name the origins"), ("", "name their origins")],
)
def test_credentials_need_named_origins(origins: str, remedy: str) -> None:
    (problem,) = problems(SessionSettings, CORS_ORIGINS=origins, CORS_CREDENTIALS="true")
    assert "CORS_CREDENTIALS" in problem
    assert remedy in problem


def test_pages_with_credentials_may_write_and_come_over_tls() -> None:
    named = {"CORS_ORIGINS": "https://app.example", "SESSION_TRUSTED_ORIGINS": "https://b.example"}
    without = loaded(SessionSettings, **named)
    assert isinstance(without, SessionSettings)
    assert without.session_origins == ["https://b.example"]
    trusting = loaded(SessionSettings, **named, CORS_CREDENTIALS="true")
    assert isinstance(trusting, SessionSettings)
    assert trusting.session_origins == ["https://b.example", "https://app.example"]
    plain = {"CORS_ORIGINS": "http://app.example", "CORS_CREDENTIALS": "true"}
    found = problems(SessionSettings, **PRODUCTION, **plain)
    assert [problem for problem in found if problem.startswith("CORS_ORIGINS needs https")]


@pytest.mark.parametrize(
    "host", ["https://api.example", "api.example:8000", "api.example/", "API", "*.", "a b", "*x"]
)
def test_a_host_is_a_name(host: str) -> None:
    (problem,) = problems(BrowserSettings, TRUSTED_HOSTS=host)
    assert problem.startswith("TRUSTED_HOSTS: ")
    assert "such as api.example" in problem


def test_production_warns_where_any_host_is_answered() -> None:
    (doubt,) = loaded(BrowserSettings, ENVIRONMENT="production").doubts
    assert doubt.startswith("TRUSTED_HOSTS is not set")
    for hosts in ("api.example", "*"):
        named = loaded(BrowserSettings, ENVIRONMENT="production", TRUSTED_HOSTS=hosts)
        assert named.doubts == []
    assert loaded(BrowserSettings, ENVIRONMENT="development").doubts == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONTENT_SECURITY_POLICY", "default-src none"), ("HSTS_SECONDS", "-1")],
)
def test_headers_that_would_mean_nothing_are_refused(name: str, value: str) -> None:
    (problem,) = problems(BrowserSettings, **{name: value})
    assert problem.startswith(f"{name}: ")

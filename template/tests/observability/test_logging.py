import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from app.core.observability.logging import configure_logging, redact, reported, request_id
from tests.observability.conftest import Lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:secret@host", "rediss://:***@host"),
        ("redis+cluster://u:se@cr:et@h1:1,h2:2", "redis+cluster://u:***@h1:1,h2:2"),
        ("x://h1/s?sentinel_password=secret&a=1", "x://h1/s?sentinel_password=***&a=1"),
        ('{"a": "http://h:80", "b": "c@d"}', '{"a": "http://h:80", "b": "c@d"}'),
        ("http://host:80/path?at=a@b", "http://host:80/path?at=a@b"),
        ("nothing to hide: a@b", "nothing to hide: a@b"),
    ],
)
def test_passwords_of_urls_are_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_a_line_says_when_where_and_how_grave(lines: Lines) -> None:
    structlog.get_logger("a.module").info("it happened", count=3)
    [line] = lines()
    when = datetime.fromisoformat(line.pop("timestamp"))
    assert abs(datetime.now(UTC) - when) < timedelta(seconds=10)
    assert line == {"event": "it happened", "count": 3, "level": "info", "logger": "a.module"}


def test_the_standard_library_has_the_same_format(lines: Lines) -> None:
    logging.getLogger("a.library").warning(
        "%s of %d", "one", 2, extra={"user": 7, "color_message": "%s"}
    )
    [line] = lines()
    assert line["event"] == "one of 2"
    assert "color_message" not in line
    assert (line["level"], line["logger"], line["user"]) == ("warning", "a.library", 7)


def test_lines_below_the_level_are_left_out(lines: Lines) -> None:
    structlog.get_logger("a.module").debug("too much")
    logging.getLogger("a.library").debug("too much")
    assert lines() == []


def test_configuring_again_does_not_double_the_lines(lines: Lines) -> None:
    configure_logging("WARNING", "json")
    configure_logging("INFO", "json")
    structlog.get_logger("a.module").info("once")
    assert len(lines()) == 1


async def test_a_line_belongs_to_the_request_of_its_task(lines: Lines) -> None:
    async def request(name: str) -> None:
        request_id.set(name)
        await asyncio.sleep(0)
        structlog.get_logger("a.module").info("working", name=name)
        logging.getLogger("a.library").info("working")

    await asyncio.gather(request("first"), request("second"))
    found = lines()
    assert [line["request_id"] for line in found] == ["first", "first", "second", "second"]
    assert "request_id" not in (structlog.get_logger("a.module").info("outside"), lines())[1][0]


@pytest.mark.parametrize("renderer", ["json", "console"])
def test_a_traceback_holds_no_password_and_no_local_variable(
    renderer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", "json" if renderer == "json" else "console")
    local = "hidden-" + "variable"
    try:
        raise ConnectionError("redis://user:pass-word@host refused")
    except ConnectionError:
        structlog.get_logger("a.module").exception("no connection", length=len(local))
    written = capsys.readouterr().out
    assert "ConnectionError: redis://user:***@host refused" in written
    assert "hidden-variable" not in written
    assert "pass-word" not in written


def test_an_exception_that_was_reported_is_not_logged_again_by_the_server(lines: Lines) -> None:
    server = logging.getLogger("uvicorn.error")
    failure = RuntimeError("known")
    token = reported.set(failure)
    try:
        server.error("Exception in ASGI application\n", exc_info=failure)
        server.error("Exception in ASGI application\n", exc_info=RuntimeError("new"))
        server.error("something else")
    finally:
        reported.reset(token)
    first, second = lines()
    assert "RuntimeError: new" in first["exception"]
    assert second["event"] == "something else"


def test_the_access_log_of_the_server_stays_off_where_it_was_turned_off(lines: Lines) -> None:
    access = logging.getLogger("uvicorn.access")
    before = access.handlers[:], access.propagate
    try:
        access.handlers[:], access.propagate = [], False
        configure_logging("INFO", "json")
        access.info("a request")
        assert lines() == []
        access.handlers[:] = [logging.StreamHandler()]
        configure_logging("INFO", "json")
        access.info("a request")
        assert [line["event"] for line in lines()] == ["a request"]
    finally:
        access.handlers[:], access.propagate = before


def test_what_cannot_be_serialised_is_logged_all_the_same(lines: Lines) -> None:
    structlog.get_logger("a.module").info("odd\nvalue", thing=object(), text="a\nb")
    [line] = lines()
    assert line["event"] == "odd\nvalue"
    assert "object object" in json.dumps(line["thing"])

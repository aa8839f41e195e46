import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from time import process_time
from typing import Literal

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
        ("postgresql://app:pa ss\"w'o/rd@host/db", "postgresql://app:***@host/db"),
        (
            "postgresql://app:p@ss@host:1234/db and more",
            "postgresql://app:***@host:1234/db and more",
        ),
        (
            "redis://localhost:6379/0 is what a@b.example has",
            "redis://localhost:6379/0 is what a@b.example has",
        ),
        ("redis://h:1 redis://u:secret@h:2", "redis://h:1 redis://u:***@h:2"),
        ("GET /?token=abc.def&page=2", "GET /?token=***&page=2"),
        (
            "/?access_token=a\"b'c&api_key=k-1&api-key=k&apikey=k",
            "/?access_token=***&api_key=***&api-key=***&apikey=***",
        ),
        (
            "/?client_secret=s&signature=s&pwd=s",
            "/?client_secret=***&signature=***&pwd=***",
        ),
        ("connect(password='pa ss', user='ann')", "connect(password=\"***\", user='ann')"),
        ("{'api_key': 'abc', 'b': 1}", "{'api_key': \"***\", 'b': 1}"),
        ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer ***"),
        ("tokens=3 keys=4 secretary=x", "tokens=3 keys=4 secretary=x"),
    ],
)
def test_passwords_of_urls_are_taken_out(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize("renderer", ["json", "console"])
def test_secrets_are_in_no_part_of_a_line(
    renderer: Literal["json", "console"], capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("INFO", renderer)
    url = "postgresql://app:qz7 \"cr'et@host/db?token=qz7cr&x=1"
    log = structlog.get_logger("a.module")
    log.info(f"at {url}", url=url, headers={"authorization": "Bearer qz7cr.qz7cr.qz7cr"})
    log.info("settings", values={"api_key": "qz7cr"}, error=ValueError("?password=qz7cr"))
    logging.getLogger("a.library").info("connecting to %s", url)
    try:
        raise ConnectionError(url)
    except ConnectionError:
        log.exception("failed")
    written = capsys.readouterr().out
    assert "qz7" not in written
    assert "cr'et" not in written
    assert written.count("postgresql://app:***@host/db") >= 4
    if renderer == "json":
        for line in written.splitlines():
            json.loads(line)


def test_redacting_takes_no_longer_for_what_somebody_made_up() -> None:
    """Twice the text, twice the time: more would be time that a stranger can take."""
    for piece in ("password=", "://a:", "://a:@", "a_", "token='", "token=\"'", "bearer ", "@a"):
        took = []
        for size in (20_000, 80_000):
            text = piece * (size // len(piece))
            began = process_time()
            for _ in range(3):
                redact(text)
            took.append(process_time() - began)
        assert took[1] < 12 * took[0] + 0.1, piece


NASTY = {
    "ESC": ("a\x1b[2Jb", r"a\x1b[2Jb"),
    "right to left": ("a\u202eb", r"a\u202eb"),
    "half a character": ("a\ud800b", r"a\ud800b"),
    "NUL": ("a\x00b", r"a\x00b"),
    "C1": ("a\x9b2Jb", r"a\x9b2Jb"),
    "separator": ("a\u2028b", r"a\u2028b"),
    "tag": ("a\U000e0041b", r"a\U000e0041b"),
    "carriage return": ("a\rb", r"a\rb"),
}


@pytest.mark.parametrize("renderer", ["json", "console"])
@pytest.mark.parametrize(("text", "escaped"), NASTY.values(), ids=NASTY.keys())
def test_what_is_not_printable_is_escaped(
    renderer: Literal["json", "console"],
    text: str,
    escaped: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging("INFO", renderer)
    # pytest's own handler would keep the text, and pytest-xdist cannot pass half a character on.
    logging.getLogger().handlers[:-1] = []
    log = structlog.get_logger("a.module")
    log.info(f"event {text}", value=text, nested=[text], error=ValueError(text))
    logging.getLogger("a.library").info("path %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    written = capsys.readouterr().out
    lines = written.splitlines()
    assert sum("a.module" in line or "a.library" in line for line in lines) == 3
    assert all(character.isprintable() or character == "\n" for character in written)
    assert written.replace("\\\\", "\\").count(escaped) >= 4


def test_no_event_looks_like_two(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "console")
    structlog.get_logger("a.module").info("one\n2026-01-01T00:00:00Z [error] forged", text="a\nb")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == lines[:1]


def test_the_standard_library_is_told_the_exception() -> None:
    """Where error trackers look, and know one that they have seen already."""
    configure_logging("INFO", "json")
    seen: list[logging.LogRecord] = []

    class Tracker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    tracker = Tracker()
    logging.getLogger().addHandler(tracker)
    failure = RuntimeError("known")
    log = structlog.get_logger("a.module")
    log.error("failed", exc_info=failure)
    try:
        raise failure
    except RuntimeError:
        log.exception("failed")
    log.error("failed without one")
    exceptions = [record.exc_info and record.exc_info[1] for record in seen]
    assert exceptions == [failure, failure, None]


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

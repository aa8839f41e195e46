"""Logs: one line per event, in one format for structlog and for the standard library alike.

Every line that is written while a request is answered carries its request id. Secrets are taken out
of every line, tracebacks included, and characters that are not printable are escaped: a path or a
name that somebody chose does not get at a terminal, and is no line of its own.
"""

import io
import logging
import re
import sys
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered."""

reported: ContextVar[BaseException | None] = ContextVar("reported", default=None)
"""An exception that is in the log already: the server need not log it again."""

_SECRET = (
    r"((?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|authorization"
    r"|(?:api|access|private|signing)[_-]?key)"
)
# In a text of its own: `user:password@` in a URL, where a password may have any character, and what
# has digits only up to the end of the host is a port; and `token=` in its query.
_IN_URL = re.compile(
    r"""(://[^\s:/@"']*):(?!\d{1,5}(?:[/?#,"'\s)\]]|$))(?:(?!://)[^\n])*?@"""
    r"""(?=[\w.\[-]+(?:[:/?#,;"'\s)\]]|$))"""
)
_IN_QUERY = re.compile(rf"{_SECRET}=)[^\s&'\"][^\s&]*", re.IGNORECASE)
# Among other texts, where quotes end one.
_IN_QUOTED_URL = re.compile(r"""(://[^\s:/@"']*):[^\s/"']*@""")
_IN_QUOTED_QUERY = re.compile(rf"""{_SECRET}=)[^\s&"']+""", re.IGNORECASE)
_QUOTED = re.compile(
    rf"""{_SECRET}["']?\s*[=:]\s*)("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s+)[a-z0-9._~+/=-]{8,}", re.IGNORECASE)


def configure_logging(level: str, renderer: Literal["console", "json"]) -> None:
    """Send all logs of the process to standard output. May be called again.

    Args:
        level: the lowest level that is written, such as "INFO".
        renderer: "console" for people, "json" for machines.
    """
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, _StandardOutput):
            root.removeHandler(handler)
    root.addHandler(_StandardOutput(_formatter(renderer)))
    root.setLevel(level)
    _take_over_uvicorn()


def redact(text: str) -> str:
    """`text` without the passwords of the URLs in it, and without what is called a secret."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", _redact_line(text)))


def _redact_line(line: str) -> str:
    """The same for several texts in one line."""
    line = _IN_QUOTED_QUERY.sub(r"\1***", _IN_QUOTED_URL.sub(r"\1:***@", line))
    return _BEARER.sub(r"\1***", _QUOTED.sub(r'\1"***"', line))


def printable(text: str, *, keep: str = "\n\t") -> str:
    """`text` with an escape for each character that is not to be seen, such as ESC or U+202E."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def _add_request_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if (current := request_id.get()) is not None:
        event["request_id"] = current
    return event


def _drop_color_message(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # Uvicorn's copy of the message, for terminals
    return event


def _clean(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Redact and escape what is text; the repr of anything else escapes itself."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(redact(value))
    return event


def _one_line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """For people: further lines of an event are indented, so that none looks like another event."""
    if isinstance(text := event.get("event"), str) and "\n" in text:
        event["event"] = text.replace("\n", "\n    ")
    return event


def _plain_traceback(to: TextIO, exc_info: ExcInfo) -> None:
    # A pretty one would show local variables, and secrets are among them.
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    to.write(printable(redact(text.getvalue())))


def _wrap(
    logger: logging.Logger, method: str, event: EventDict
) -> tuple[tuple[EventDict], dict[str, Any]]:
    """Hand an event to the standard library, with its exception where that has its exceptions.

    There error trackers look: one that has seen the exception already tells nobody twice.
    """
    arguments, options = ProcessorFormatter.wrap_for_formatter(logger, method, event)
    return arguments, {**options, "exc_info": event.get("exc_info")}


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _add_request_id,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]

# One list for the life of the process: loggers keep the one that they have first seen.
_PROCESSORS: list[Processor] = [
    structlog.stdlib.filter_by_level,
    *_SHARED,
    structlog.stdlib.PositionalArgumentsFormatter(),
    _wrap,
]


class _Formatter(ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return _redact_line(super().format(record))


def _formatter(renderer: Literal["console", "json"]) -> logging.Formatter:
    last: list[Processor]
    if renderer == "json":
        last = [structlog.processors.format_exc_info, _clean, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stdout.isatty()
        render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain_traceback)
        last = [_clean, _one_line, render]
    return _Formatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), _drop_color_message],
        processors=[ProcessorFormatter.remove_processors_meta, *last],
    )


class _StandardOutput(logging.Handler):
    """Looks `sys.stdout` up for each line, because tests replace it."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()
        except Exception:
            self.handleError(record)


def _take_over_uvicorn() -> None:
    for name in ("uvicorn", "uvicorn.access"):
        logger = logging.getLogger(name)
        # Without a handler it is turned off (`--no-access-log`), and stays so.
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
    error = logging.getLogger("uvicorn.error")
    error.setLevel(logging.NOTSET)
    error.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    known = reported.get()
    return known is None or record.exc_info is None or record.exc_info[1] is not known

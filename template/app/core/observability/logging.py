"""Logs: one line per event, in the same format for structlog and the standard library.

Every line that is written while a request is answered has its request id. Secrets are removed from
every line, tracebacks included. Characters that are not printable are escaped, so that no path or
name that a client chooses controls a terminal or looks like another line.
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
"""An exception that is logged already, so that the server does not log it again."""

_SECRET = (
    r"((?:password|passwd|pwd|passphrase|secret|token|credentials?|signature|authorization"
    r"|(?:api|access|private|signing)[_-]?key)"
)
# In a text on its own. `user:password@` in a URL: the password may have any character, and digits
# that end the host are a port. `token=` in a query.
_IN_URL = re.compile(
    r"""(://[^\s:/@"']*):(?!\d{1,5}(?:[/?#,"'\s)\]]|$))(?:(?!://)[^\n])*?@"""
    r"""(?=[\w.\[-]+(?:[:/?#,;"'\s)\]]|$))"""
)
_IN_QUERY = re.compile(rf"{_SECRET}=)[^\s&'\"][^\s&]*", re.IGNORECASE)
# In a line of several texts, which end with quotes.
_IN_QUOTED_URL = re.compile(r"""(://[^\s:/@"']*):[^\s/"']*@""")
_IN_QUOTED_QUERY = re.compile(rf"""{_SECRET}=)[^\s&"']+""", re.IGNORECASE)
_QUOTED = re.compile(
    rf"""{_SECRET}["']?\s*[=:]\s*)("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""", re.IGNORECASE
)
_BEARER = re.compile(r"\b(bearer\s+)[a-z0-9._~+/=-]{8,}", re.IGNORECASE)


_stream: Literal["stdout", "stderr"] = "stdout"


def log_to_stderr() -> None:
    """Leave standard output to the result of a command, from now on."""
    global _stream
    _stream = "stderr"


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
        if isinstance(handler, _StandardStream):
            root.removeHandler(handler)
    root.addHandler(_StandardStream(_formatter(renderer)))
    root.setLevel(level)
    _take_over_uvicorn()


def redact(text: str) -> str:
    """Replace the passwords of URLs, and values that are named like secrets, by `***`."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", _redact_line(text)))


def _redact_line(line: str) -> str:
    """Do the same to a line of several texts."""
    line = _IN_QUOTED_QUERY.sub(r"\1***", _IN_QUOTED_URL.sub(r"\1:***@", line))
    return _BEARER.sub(r"\1***", _QUOTED.sub(r'\1"***"', line))


def printable(text: str, *, keep: str = "\n\t") -> str:
    """Escape each character that is not printable, such as ESC or U+202E."""
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
    """Redact and escape texts; the repr of anything else is escaped already."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = printable(redact(value))
    return event


def _one_line(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Indent the further lines of an event on a console, so that none looks like an event."""
    if isinstance(text := event.get("event"), str) and "\n" in text:
        event["event"] = text.replace("\n", "\n    ")
    return event


def _plain_traceback(to: TextIO, exc_info: ExcInfo) -> None:
    # structlog's default shows local variables, which may be secrets.
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    to.write(printable(redact(text.getvalue())))


def _wrap(
    logger: logging.Logger, method: str, event: EventDict
) -> tuple[tuple[EventDict], dict[str, Any]]:
    """Hand an event to the standard library, with the exception in its usual place.

    Error trackers look there, and do not report twice an exception that they have seen.
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

# One list for the life of the process: loggers keep the list that they saw first.
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
        colors = getattr(sys, _stream).isatty()
        render = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_plain_traceback)
        last = [_clean, _one_line, render]
    return _Formatter(
        foreign_pre_chain=[*_SHARED, structlog.stdlib.ExtraAdder(), _drop_color_message],
        processors=[ProcessorFormatter.remove_processors_meta, *last],
    )


class _StandardStream(logging.Handler):
    """Writes to the current `sys.stdout` or `sys.stderr`, because tests replace them."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            stream: TextIO = getattr(sys, _stream)
            stream.write(f"{self.format(record)}\n")
            stream.flush()
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

"""Logs: one line per event, in one format for structlog and for the standard library alike.

Every line that is written while a request is answered carries its request id. Passwords in URLs are
taken out of every line, tracebacks included.
"""

import logging
import re
import sys
from contextvars import ContextVar
from typing import Literal

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered."""

reported: ContextVar[BaseException | None] = ContextVar("reported", default=None)
"""An exception that is in the log already: the server need not log it again."""

# `user:password@` in a URL, and `password=` in its query. Quotes end a URL: what follows is another
# value on the same line.
_IN_URL = re.compile(r"""(://[^\s:/@"']*):[^\s/"']*@""")
_IN_QUERY = re.compile(r"""(password=)[^\s&"']+""", re.IGNORECASE)


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
    """`text` without the passwords of the URLs in it."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def _add_request_id(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    if (current := request_id.get()) is not None:
        event["request_id"] = current
    return event


def _drop_color_message(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event.pop("color_message", None)  # Uvicorn's copy of the message, for terminals
    return event


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
    ProcessorFormatter.wrap_for_formatter,
]


class _Formatter(ProcessorFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _formatter(renderer: Literal["console", "json"]) -> logging.Formatter:
    last: list[Processor]
    if renderer == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # A pretty traceback would show local variables, and secrets are among them.
        plain = structlog.dev.plain_traceback
        colors = sys.stdout.isatty()
        last = [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
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

"""Which errors are worth another try, and what requests that fail with them are answered."""

from collections.abc import Awaitable, Callable

import structlog
from fastapi import FastAPI, Request
from redis.exceptions import RedisClusterException, RedisError
from starlette.responses import Response

from app.core import problems
from app.core.observability.requests import internal_error
from app.core.redis import advice, is_refusal, is_transient

log = structlog.get_logger(__name__)

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


async def try_again_later(request: Request, error: Exception) -> Response:
    """Answer 503 with `Retry-After`, and log why."""
    log.warning(
        "request.unavailable", error=f"{type(error).__name__}: {error}", advice=advice(error)
    )
    return problems.answer(503, "the service cannot answer now, try again", {"retry-after": "1"})


class ErrorAnswers:
    """Knows the transient errors of all parts, and those of Redis from the start."""

    def __init__(self) -> None:
        self._classes: list[type[Exception]] = []
        self._judges: list[Callable[[BaseException], bool]] = [is_transient]
        self.refused: ErrorHandler = _raise
        """Answers what Redis refuses for good, which is a mistake unless somebody knows better."""

    def add(
        self, *errors: type[Exception], judge: Callable[[BaseException], bool] | None = None
    ) -> None:
        """Count these classes as transient, and whatever `judge` says is."""
        self._classes += errors
        if judge is not None:
            self._judges.append(judge)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether what has raised `error` would succeed later, as it is.

        A part that could not do its work because Redis refuses it for good would not.
        """
        if any(judge(error) for judge in self._judges):
            return True
        refused = error.__cause__ is not None and is_refusal(error.__cause__)
        return isinstance(error, tuple(self._classes)) and not refused

    def install(self, app: FastAPI) -> None:
        """Have an application answer all errors."""
        for error in (*self._classes, TimeoutError):
            app.add_exception_handler(error, try_again_later)
        for error in (RedisError, RedisClusterException, ExceptionGroup):
            app.add_exception_handler(error, self._redis_failed)
        app.add_exception_handler(Exception, internal_error)

    async def _redis_failed(self, request: Request, error: Exception) -> Response:
        if is_transient(error):
            return await try_again_later(request, error)
        return await self.refused(request, error)


async def _raise(request: Request, error: Exception) -> Response:
    raise error

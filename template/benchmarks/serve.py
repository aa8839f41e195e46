"""Serve this service until standard input ends, which it does with whoever started it.

python -m benchmarks.serve PORT [--without-cache]
"""

import inspect
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import wraps
from typing import Any

import uvicorn
from fastapi.concurrency import run_in_threadpool

from app.core.cache import CachePolicy
from app.core.cache.kept import plain, plain_type


def leave_the_cache_out() -> None:
    """From now on policies call what they were given, each time.

    The routes are then those that FastAPI would serve without `@policy.http(...)`.
    """

    async def load(_: Any, key: Any, loader: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return plain(await loader())

    async def load_many(
        _: Any,
        keys: Sequence[Any],
        loader: Callable[[Sequence[Any]], Awaitable[Mapping[Any, Any]]],
        **options: Any,
    ) -> dict[Any, Any]:
        found = await loader(keys)
        return {key: plain(found.get(key)) for key in keys}

    def undecorated(_: Any, **options: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            function = returning_values(function)
            function.invalidate = nothing
            return function

        return decorate

    async def nothing(*arguments: Any, **named: Any) -> None:
        pass

    replaced: dict[str, Any] = {
        "get_or_load": load,
        "get_or_load_many": load_many,
        "cached": undecorated,
        "http": undecorated,
    }
    for name, replacement in replaced.items():
        setattr(CachePolicy, name, replacement)


def returning_values(function: Any) -> Any:
    """The function without what it says about how long its results are kept."""
    signature = inspect.signature(function, eval_str=True)
    returns = plain_type(signature.return_annotation)
    if returns == signature.return_annotation:
        return function

    @wraps(function)
    async def call(*arguments: Any, **named: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return plain(await function(*arguments, **named))
        return plain(await run_in_threadpool(function, *arguments, **named))

    call.__signature__ = signature.replace(return_annotation=returns)  # type: ignore[attr-defined]  # FastAPI looks there
    return call


def main(port: str, without_cache: str = "") -> None:
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if without_cache:
        leave_the_cache_out()
    # Its options are those of the Dockerfile.
    uvicorn.run(
        "app.main:app",
        port=int(port),
        workers=1,  # whatever WEB_CONCURRENCY says: another process would have its cache again
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        log_level="warning",
    )


def _end_with_owner() -> None:
    # Not through sys.stdin, which the end of the interpreter would wait for.
    while os.read(0, 1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

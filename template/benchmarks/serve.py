"""Serve this service until standard input ends, which it does with whoever started it.

python -m benchmarks.serve PORT [--without-cache]
"""

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import uvicorn

from app.core.cache import CachePolicy


def leave_the_cache_out() -> None:
    """From now on policies call what they were given, each time.

    The routes are then those that FastAPI would serve without `@policy.http(...)`.
    """

    async def load(_: Any, key: Any, loader: Callable[[], Awaitable[Any]], **options: Any) -> Any:
        return await loader()

    async def load_many(
        _: Any,
        keys: Sequence[Any],
        loader: Callable[[Sequence[Any]], Awaitable[Mapping[Any, Any]]],
        **options: Any,
    ) -> dict[Any, Any]:
        found = await loader(keys)
        return {key: found.get(key) for key in keys}

    def undecorated(_: Any, **options: Any) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
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

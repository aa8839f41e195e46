"""A service as the sum of its parts, with HTTP or without.

A part is installed by a function that is given the service: it makes what it needs, and says what
is to be opened, checked and answered. `app()` then serves requests; `running()` is for everything
else: a worker, a cron job, a command, a test.
"""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from dataclasses import replace
from enum import IntEnum
from typing import Any, Self, TypeVar

import structlog
from fastapi import APIRouter, FastAPI

from app.core.application import Application
from app.core.cache import HttpCacheMiddleware
from app.core.error_answers import ErrorAnswers, ErrorHandler
from app.core.observability.health import (
    Check,
    Health,
    all_of,
    create_health_router,
    drain_on_sigterm,
)
from app.core.observability.metrics import warn_of_scattered_metrics
from app.core.observability.requests import expect_routes
from app.core.redis import (
    ClientOptions,
    Kept,
    Probe,
    RedisClient,
    RedisServers,
    create_client,
)
from app.core.tasks import Tasks

log = structlog.get_logger(__name__)

Resource = AbstractAsyncContextManager[Any] | AbstractContextManager[Any]
T = TypeVar("T")


class Layer(IntEnum):
    """Where a middleware stands around the routes, from the outside."""

    REQUESTS = 0
    """Around everything: what counts, times and logs every request."""
    OUTSIDE_CACHE = 1
    """Hits of the HTTP cache pass it, too."""
    CACHE = 2
    """The HTTP cache itself."""
    INSIDE_CACHE = 3
    """Only what the cache cannot answer passes it."""


class Service:
    """Collects the parts; opens nothing before it runs."""

    def __init__(
        self,
        name: str,
        *,
        redis_url: str,
        redis_options: ClientOptions,
        redis_login: Callable[[str, str], str] = lambda url, purpose: url,
        production: bool = False,
        processes: int = 1,
    ) -> None:
        """Begin with no part.

        Args:
            name: begins every key in Redis.
            redis_url: the server of clients for which no other URL is given.
            redis_options: the defaults of all clients.
            redis_login: returns a URL with the login for a purpose.
            production: servers that do not suit the service stop its start.
            processes: how many run this service together; their connections are added up.
        """
        self.name = name
        self.health = Health()
        self.purposes: set[str] = set()
        """The purposes that have a Redis client."""
        self._redis_url = redis_url
        self._redis_options = redis_options
        self._redis_login = redis_login
        self._servers = RedisServers(production=production, processes=processes)
        self._clients: list[RedisClient] = []
        self._resources: list[Resource] = []
        self._last: list[Resource] = []
        self._probes: list[Probe] = []
        self._after_start: list[tuple[str, Callable[[], Awaitable[object]]]] = []
        self._shared: dict[str, object] = {}
        self._answers = ErrorAnswers()
        self._routers: list[APIRouter] = []
        self._middleware: list[tuple[Layer, Any, dict[str, Any]]] = []
        self.middleware(HttpCacheMiddleware, layer=Layer.CACHE)

    def redis(
        self,
        purpose: str,
        *,
        keeps: Iterable[Kept] = (),
        url: str | None = None,
        pool_size: int | None = None,
        timeout: float | None = None,
        denials_expected: bool = False,
    ) -> RedisClient:
        """Make a client with a pool of its own: a slow purpose must not starve another one.

        It is closed after all resources, which may use it to their end.

        Args:
            purpose: names its connections, and its login where each purpose has one.
            keeps: what is kept there; the start checks that the server suits it.
            url: the server; that of the service if it is not given.
            pool_size: connections of this process at most.
            timeout: the longest wait for a connection and for a reply, in seconds.
            denials_expected: what the server denies is no fault of the service.

        Raises:
            ValueError: the URL is malformed.
        """
        options = replace(
            self._redis_options, name=f"{self.name}:{purpose}", denials_expected=denials_expected
        )
        if pool_size is not None:
            options = replace(options, pool_size=pool_size)
        if timeout is not None:
            options = replace(
                options, pool_timeout=timeout, timeout=timeout, connect_timeout=timeout
            )
        self.purposes.add(purpose)
        url = self._redis_login(self._redis_url if url is None else url, purpose)
        client = create_client(url, options)
        self._servers.add(url, client, options.pool_size, keeps)
        self._clients.append(client)
        return client

    def open(self, resource: Resource, *, last: bool = False) -> None:
        """Enter a context manager at the start, and leave it at the end.

        Resources are opened in the order of these calls and closed in reverse.

        Args:
            last: after all others, whenever they are installed: it runs code that uses them.
        """
        (self._last if last else self._resources).append(resource)

    def after_start(self, name: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run something in the background of the application, from its start on.

        The start does not wait for it: the service is ready meanwhile. An error is logged, and the
        end cancels what still runs. `running()` alone, for a command or a worker, leaves it out.

        Args:
            name: of the work, for the log.
            work: is called once in each process.
        """
        self._after_start.append((name, work))

    def check(
        self,
        name: str,
        check: Callable[[], Awaitable[object]],
        *,
        critical: bool = False,
        probe: Probe | None = None,
    ) -> None:
        """Show on the health page whether something works.

        Args:
            name: of the check.
            check: raises, or does not end, if it does not.
            critical: the service is of no use without it.
            probe: what the part needs of its Redis, tried at the start and with each check.
        """
        if probe is not None:
            self._probes.append(probe)
            check = all_of(check, probe.check)
        self.health.add(Check(name, check, critical=critical))

    def transient(
        self, *errors: type[Exception], judge: Callable[[BaseException], bool] | None = None
    ) -> None:
        """Have requests that fail with these errors answered with 503 and `Retry-After`.

        Args:
            errors: classes of them.
            judge: says of other errors whether what raised them would succeed later, as it is.
        """
        self._answers.add(*errors, judge=judge)

    def is_transient(self, error: BaseException) -> bool:
        """Return whether what has raised `error` would succeed later, as it is."""
        return self._answers.is_transient(error)

    def answer_refusals(self, handler: ErrorHandler) -> None:
        """Have a handler answer what Redis refuses for good, which is a mistake without one."""
        self._answers.refused = handler

    def include(self, router: APIRouter) -> None:
        """Serve the routes of a router."""
        self._routers.append(router)

    def middleware(self, cls: Any, *, layer: Layer = Layer.OUTSIDE_CACHE, **options: Any) -> None:
        """Put a middleware around the routes; in its layer, the first one is the outermost."""
        self._middleware.append((layer, cls, options))

    def share(self, **parts: object) -> None:
        """Put parts where dependencies find them (`app.state`), and where `find` does."""
        self._shared |= parts

    def find(self, kind: type[T]) -> T:
        """Return the part of a class, for code that runs without HTTP.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = [part for part in self._shared.values() if isinstance(part, kind)]
        if len(found) != 1:
            raise LookupError(f"the service shares {len(found)} parts of {kind.__name__}, not one")
        return found[0]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Open all parts and close them in reverse, also when one of them fails to open.

        Raises:
            UnsuitableServer: production cannot do with a server.
        """
        async with AsyncExitStack() as stack:
            for client in self._clients:
                stack.push_async_callback(client.aclose)
            for resource in (*self._resources, *self._last):
                if isinstance(resource, AbstractAsyncContextManager):
                    await stack.enter_async_context(resource)
                else:
                    stack.enter_context(resource)
            await self._servers.report()
            # So that what Redis does not let us do is in the log before somebody needs it.
            await asyncio.gather(*(probe.report() for probe in self._probes))
            await self.health.report()
            yield self

    def app(self, *, drain_seconds: float = 0, **options: Any) -> Application:
        """Make the application that serves this service.

        Args:
            drain_seconds: how long it goes on serving, unready, once it is told to stop.
            options: those of `Application`.
        """

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with self.running():
                expect_routes(app.routes)
                warn_of_scattered_metrics()
                _spare_the_garbage_collector()
                with drain_on_sigterm(self.health, drain_seconds):
                    async with _background(self._after_start):
                        yield

        app = Application(title=self.name, lifespan=lifespan, **options)
        for name, part in self._shared.items():
            setattr(app.state, name, part)
        for router in (*self._routers, create_health_router(self.health)):
            app.include_router(router)
        self._answers.install(app)
        # Stable within a layer. The last one that is added to an application is the outermost.
        layers = sorted(self._middleware, key=lambda entry: entry[0])
        for _, cls, its_options in reversed(layers):
            app.add_middleware(cls, **its_options)
        return app


@asynccontextmanager
async def _background(
    all_work: Iterable[tuple[str, Callable[[], Awaitable[object]]]],
) -> AsyncIterator[None]:
    async def run(name: str, work: Callable[[], Awaitable[object]]) -> None:
        try:
            await work()
        except Exception:
            log.exception("service.background_work_failed", work=name)

    tasks = Tasks()
    for name, work in all_work:
        tasks.start(run(name, work))
    try:
        yield
    finally:
        await tasks.stop()


def _spare_the_garbage_collector() -> None:
    # What start-up made stays for good: the garbage collector need not walk it again.
    gc.collect()
    gc.freeze()
    # Requests that are under way are thousands of objects. With Python's threshold of 700 they are
    # walked again and again, for a tenth of the time that a route takes.
    gc.set_threshold(10_000)

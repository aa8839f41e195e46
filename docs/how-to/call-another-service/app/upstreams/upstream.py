"""A client of one other service: it waits, repeats and reads only so much."""

import asyncio
import json
from random import uniform
from time import monotonic
from types import TracebackType
from typing import Any, Self

import httpx2
from fastapi import HTTPException
from prometheus_client import Counter, Histogram

requests_total = Counter(
    "upstream_requests",
    "Attempts by what came back: a status, or an error.",
    ["upstream", "outcome"],
)
seconds = Histogram("upstream_seconds", "How long attempts took.", ["upstream"])

_IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_WORTH_ANOTHER_TRY = frozenset({429, 502, 503, 504})


class UpstreamError(HTTPException):
    """The other service did not do it: 502 it answered nonsense, 503 it is away, 504 it hangs."""

    def __init__(self, status: int, upstream: str, why: str) -> None:
        super().__init__(status, f"{upstream} {why}", {"retry-after": "1"})


class Upstream:
    """Open it with the service: `service.open(upstream)`."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        timeout: float = 2.0,
        connections: int = 20,
        tries: int = 2,
        max_bytes: int = 1024 * 1024,
        use_proxies: bool = False,
    ) -> None:
        """Do no I/O.

        Args:
            name: for metrics and errors.
            base_url: begins every URL.
            timeout: seconds that a caller waits at most, all tries included.
            connections: at once, of this process; more requests wait.
            tries: for what may be repeated: methods that are idempotent, while it is away.
            max_bytes: of an answer.
            use_proxies: those that the environment names (HTTPS_PROXY), and its .netrc.
        """
        self.name = name
        self._timeout = timeout
        self._tries = tries
        self._max_bytes = max_bytes
        self._client = httpx2.AsyncClient(
            base_url=base_url,
            timeout=timeout,
            limits=httpx2.Limits(max_connections=connections),
            trust_env=use_proxies,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def request(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Return the status, below 500, and the JSON of the answer; None without a body.

        `options` are those of httpx2: `json=`, `params=`, `headers=`.

        Raises:
            UpstreamError: there is no such answer. Without a try left, or after the timeout, nobody
                knows whether what was asked for was done.
        """
        tries = self._tries if method in _IDEMPOTENT else 1
        try:
            async with asyncio.timeout(self._timeout):
                for left in reversed(range(tries)):
                    try:
                        return await self._try(method, path, options)
                    except UpstreamError as error:
                        if not left or error.status_code != 503:
                            raise
                    await asyncio.sleep(uniform(0, self._timeout / 10))
        except TimeoutError:
            raise UpstreamError(504, self.name, "did not answer in time") from None
        raise AssertionError("the last try returns or raises")

    async def _try(self, method: str, path: str, options: dict[str, Any]) -> tuple[int, Any]:
        outcome, started = "cancelled", monotonic()
        try:
            async with self._client.stream(method, path, **options) as answer:
                outcome = str(answer.status_code)
                if answer.status_code in _WORTH_ANOTHER_TRY:
                    raise UpstreamError(503, self.name, "is not available")
                if answer.status_code >= 500:
                    raise UpstreamError(502, self.name, "failed")
                return answer.status_code, await self._json(answer)
        except httpx2.TimeoutException as error:
            outcome = type(error).__name__
            raise UpstreamError(504, self.name, "did not answer in time") from error
        except httpx2.TransportError as error:
            outcome = type(error).__name__
            raise UpstreamError(503, self.name, "is not available") from error
        finally:
            requests_total.labels(self.name, outcome).inc()
            seconds.labels(self.name).observe(monotonic() - started)

    async def _json(self, answer: httpx2.Response) -> Any:
        body = bytearray()
        async for chunk in answer.aiter_bytes():
            body += chunk
            if len(body) > self._max_bytes:
                raise UpstreamError(502, self.name, "answered too much")
        try:
            return json.loads(body) if body else None
        except ValueError as error:
            raise UpstreamError(502, self.name, "answered with what is no JSON") from error

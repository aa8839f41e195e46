"""A hundred kinds of route answer with the cache as they do without it, on real servers.

The application without the cache is the specification, whether fast paths are on or off. What
differs is in `DIFFERENCES`, with the reason; everything else, down to the last header, has to be
the same, for a miss and for a hit. Fast paths on or off, only what depends on the moment differs.
"""

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from random import Random
from typing import Annotated, Any, Literal
from uuid import UUID

import h11
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import AfterValidator, BaseModel, StringConstraints
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.core.application import Application
from app.core.cache import Cache, HttpCacheMiddleware
from app.core.fastpath.uvicorn import RawResponseSender
from app.core.observability.requests import RequestMiddleware
from app.core.responses import PreparedResponse
from tests.core.cache.conftest import OpenCache
from tests.core.cache.http.serving import serving
from tests.support.fastpath import chosen

DIFFERENCES = {
    "etag": "the cache's, of the body, where the route has none",
    "cache-control": "the cache's, where the answer has none",
    "vary": "what the principal is read from, in addition",
    "age": "how old the answer is",
    "cache-status": "how the cache has answered",
    "date": "the server's, when it answered",
    "x-request-id": "of the one request",
    "304": "a body that the client names by its ETag is not sent again",
    "412": "If-Match is obeyed",
    "allow": "of a 405 names HEAD, too",
    "HEAD": "is answered as GET is, without the body; FastAPI alone answers 405",
}

Decorate = Callable[..., Callable[[Callable[..., Any]], Any]]
"""Given a name and who gets the answer, the decorator of a route."""


class Colour(StrEnum):
    RED = "red"


class Thing(BaseModel):
    value: Any
    kind: str


PARAMETERS: dict[str, Any] = {
    "int": int,
    "str": str,
    "uuid": UUID,
    "bool": bool,
    "float": float,
    "date": date,
    "datetime": datetime,
    "decimal": Decimal,
    "enum": Colour,
    "literal": Literal["a", "7"],
    "optional": int | None,
    "bounded": Annotated[int, "ge"],
    "lower": Annotated[str, AfterValidator(str.lower)],
    "stripped": Annotated[str, StringConstraints(strip_whitespace=True, max_length=5)],
    "either": int | str,
}
WORDS = """
    0 7 07 -1 %207 7.0 1e2 10 99999999999999999999 true on null red a A a%20b %2F %00 %ff %C3%A9 .
    2026-01-01 2026-01-01T00:00:00Z 6f2c1f4e-3c9a-4d0e-9f3a-0d2f7c1b5a11 {6f2c1f4e}
    6F2C1F4E-3C9A-4D0E-9F3A-0D2F7C1B5A11 toolongatext inf nan
"""


async def who(x_user: Annotated[str | None, Header()] = None) -> str | None:
    if x_user == "nobody":
        raise HTTPException(401, "who?", {"www-authenticate": "Bearer"})
    return x_user


async def changes(response: Response, to: int = 0) -> None:
    if to:
        response.status_code = to
    response.headers["x-of-dependency"] = "yes"


def shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"


async def as_model(value: Any) -> Thing:
    return Thing(value=str(value), kind=shown(value))


def in_thread(value: Any) -> list[str]:
    return [shown(value)]


async def as_response(value: Any) -> HTMLResponse:
    return HTMLResponse(f"<p>{shown(value)}", headers={"x-own": "ü"})


def as_dict(value: Any) -> dict[str, str]:
    return {"value": shown(value)}


def with_parameter(function: Callable[..., Any], type_: Any, in_path: bool) -> Callable[..., Any]:
    """A copy of `function` whose parameter has this type."""
    if type_ is PARAMETERS["bounded"]:
        type_ = Annotated[int, (Path if in_path else Query)(ge=0, le=9)]
    is_async = inspect.iscoroutinefunction(function)
    if in_path:
        default = inspect.Parameter.empty
    else:
        default = None
        type_ = type_ | None if not hasattr(type_, "__metadata__") else type_

    async def asynchronous(**given: Any) -> Any:
        return await function(**given)

    def synchronous(**given: Any) -> Any:
        return function(**given)

    copy: Any = asynchronous if is_async else synchronous
    keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD
    returns = inspect.signature(function).return_annotation
    copy.__signature__ = inspect.Signature(
        [inspect.Parameter("value", keyword, annotation=type_, default=default)],
        return_annotation=returns,
    )
    copy.__annotations__ = {"value": type_, "return": returns}
    made: Callable[..., Any] = copy
    return made


def raises(*arguments: Any) -> Callable[[], Any]:
    async def route() -> str:
        raise HTTPException(*arguments)

    return route


def responds(make: Callable[[], Response]) -> Callable[[], Any]:
    async def route() -> Response:
        return make()

    return route


def returns(value: Any, type_: Any) -> Callable[[], Any]:
    async def route() -> Any:
        return value

    route.__annotations__["return"] = type_
    return route


async def has_a_bug() -> str:
    raise RuntimeError


SPECIAL: dict[str, Callable[..., Any]] = {
    "none": returns(None, None),
    "number": returns(7, int),
    "text": returns("naïve", str),
    "list": returns([{"value": 1, "kind": "x"}], list[Thing]),
    "large": returns("x" * 100_000, str),
    "wrong": returns("x", int),
    "404": raises(404, "no such thing"),
    "404 in detail": raises(404, {"why": ["a", 1]}),
    "404 with a header": raises(404, "x", {"x-why": "yes"}),
    "404 with a policy": raises(404, "x", {"cache-control": "no-store"}),
    "403": raises(403),
    "410": raises(410, "gone"),
    "503": raises(503, "later", {"retry-after": "7"}),
    "bug": has_a_bug,
    "204": responds(lambda: Response(status_code=204)),
    "empty": responds(lambda: Response()),
    "201": responds(lambda: JSONResponse({}, 201)),
    "301": responds(lambda: RedirectResponse("/elsewhere", 301)),
    "307": responds(lambda: RedirectResponse("/elsewhere")),
    "stream": responds(lambda: StreamingResponse(iter(["a", "b"]))),
    "cookie": responds(lambda: Response("x", headers={"set-cookie": "a=b; Path=/"})),
    "own etag": responds(lambda: Response("x", headers={"etag": '"mine"'})),
    "own policy": responds(lambda: Response("x", headers={"cache-control": "max-age=7"})),
    "own vary": responds(lambda: Response("x", headers={"vary": "Accept"})),
    "twice": responds(lambda: Response("x", headers={"link": "<a>"})),
}


def every_kind(decorate: Decorate) -> FastAPI:
    """The same routes, with and without the cache."""
    app = Application()
    for name, type_ in PARAMETERS.items():
        for function, kind, in_path in (
            (as_model, "public", True),
            (in_thread, "public", False),
            (as_response, "private", False),
            (as_dict, "private", True),
        ):
            path = f"/{name}/{function.__name__}"
            route = with_parameter(function, type_, in_path)
            options: dict[str, Any] = {} if kind == "public" else {"dependencies": [Depends(who)]}
            add = app.get(path + ("/{value}" if in_path else ""), **options)
            add(decorate(f"{name}-{function.__name__}", kind)(route))
    for name, function in SPECIAL.items():
        for kind in ("public", "private"):
            path = f"/{kind}/{name.replace(' ', '-')}"
            dependencies = [Depends(changes)] + ([Depends(who)] if kind == "private" else [])
            add = app.get(path, dependencies=dependencies)
            add(decorate(f"{kind}-{name.replace(' ', '-')}", kind)(function))
    return app


Request = tuple[str, str, dict[str, str]]
Answer = tuple[int, list[tuple[str, str]], bytes]


def requests(app: FastAPI, random: Random) -> Iterator[Request]:
    """Several for each route."""
    for route in app.routes:
        path = getattr(route, "path", "")
        if not path.startswith(("/public/", "/private/", *(f"/{name}/" for name in PARAMETERS))):
            continue
        for _ in range(8):
            word = random.choice(WORDS.split())
            query = random.choice(["", "", f"?value={word}", f"?other={word}", "?to=410"])
            if "{value}" not in path and not path.startswith(("/public/", "/private/")):
                query = random.choice([f"?value={word}", f"?value={word}&value=7", "", "?value"])
            headers = random.choice(
                [{}, {}, {"if-none-match": "*"}, {"if-none-match": '"mine"'}, {"if-match": '"no"'},
                 {"range": "bytes=0-1"}, {"accept-encoding": "gzip"}, {"cache-control": "no-cache"}]
            )  # fmt: skip
            user = random.choice(["ann", "bob", "nobody", ""])
            method = random.choice(["GET"] * 9 + ["HEAD", "POST"])
            target = path.replace("{value}", word) + query
            yield method, target, headers | ({"x-user": user} if user else {})


async def ask(port: int, asked: list[Request]) -> list[Answer]:
    """In this thread, where client and server need not wait for the interpreter's lock."""
    answers: list[Answer] = []
    connection = None
    while len(answers) < len(asked):
        if connection is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            connection = h11.Connection(h11.CLIENT)
        method, target, headers = asked[len(answers)]
        fields = [("host", "service"), *headers.items()]
        data = connection.send(h11.Request(method=method, target=target, headers=fields)) or b""
        writer.write(data + (connection.send(h11.EndOfMessage()) or b""))
        status, names, body = 0, [], b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65_536))
            elif isinstance(event, h11.Response):
                status = event.status_code
                names = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
            elif isinstance(event, h11.Data):
                body += event.data
        answers.append((status, names, body))
        # The server closes a connection after an error in the application.
        if status == 500 or connection.their_state is not h11.DONE:
            writer.close()
            connection = None
        else:
            connection.start_next_cycle()
    writer.close()
    return answers


def listed(headers: list[tuple[str, str]], name: str) -> set[str]:
    values = ", ".join(value for key, value in headers if key == name)
    return {part.strip().lower() for part in values.split(",")} - {""}


def check(request: Request, right: Answer, answer: Answer) -> None:
    """The answer is the right one, but for what is in `DIFFERENCES`."""
    method, _, asked = request
    status, headers, body = answer
    expected, its_headers, its_body = right
    has_condition = asked.keys() & {"if-none-match", "if-match"}
    if has_condition and expected < 300 and status in (304, 412):
        assert status == (412 if "if-match" in asked else 304)
        if status == 412 and method == "GET":
            assert dict(headers)["content-type"] == "application/problem+json"
            assert json.loads(body)["status"] == 412
        else:
            assert body == b""
        assert dict(headers)["etag"]
        return
    assert status == expected
    assert body == (b"" if method == "HEAD" else its_body)
    for name in dict(its_headers):
        if name in ("etag", "cache-control"):
            assert listed(headers, name) == listed(its_headers, name)
        elif name == "allow":
            assert listed(headers, name) == listed(its_headers, name) | {"head"}
        elif name == "vary":
            assert listed(headers, name) >= listed(its_headers, name)
    same = [pair for pair in headers if pair[0] not in DIFFERENCES]
    assert sorted(same) == sorted(pair for pair in its_headers if pair[0] not in DIFFERENCES)


def of_any_moment(answer: Answer) -> Answer:
    """What two answers have in common that were given at different moments."""
    status, headers, body = answer
    told = [
        (name, re.sub("(ttl|max-age)=[0-9]+", r"\1", value))
        for name, value in headers
        if name not in ("date", "age", "x-request-id")
    ]
    return status, sorted(told), body


@pytest.mark.slow
@pytest.mark.parametrize("http", ["httptools", "h11"])
@pytest.mark.parametrize("seed", [1])
async def test_a_hundred_kinds_of_route_answer_as_without_the_cache(
    another: OpenCache, redis: Redis, http: str, seed: int
) -> None:
    plain = every_kind(lambda *_: lambda function: function)
    asked = list(requests(plain, Random(seed)))
    as_get = [("GET" if m == "HEAD" else m, target, headers) for m, target, headers in asked]
    async with serving(plain, http=http, access_log=False) as port:
        rights = await ask(port, as_get)
    answers: dict[bool, list[Answer]] = {}
    for fast in (True, False):
        await redis.flushall()
        with chosen(fast=fast), raw_answers() as raw, capture_logs():
            async with serving(cached(await another()), http=http, access_log=False) as port:
                answers[fast] = [answer for _ in range(2) for answer in await ask(port, asked)]
        for request, right, answer in zip(asked * 2, rights * 2, answers[fast], strict=True):
            try:
                check(request, right, answer)
            except AssertionError as error:
                error.add_note(f"{request}\nwithout: {right}\nwith, {fast=}: {answer}")
                raise
        # The controls: it is the cache that was compared, and the fast paths.
        hits = sum(
            "; hit;" in dict(headers).get("cache-status", "") for _, headers, _ in answers[fast]
        )
        assert hits > len(asked) / 2
        assert (len(raw) > len(asked) / 4) == (fast and http == "httptools")
    for request, on, off in zip(asked * 2, answers[True], answers[False], strict=True):
        assert of_any_moment(on) == of_any_moment(off), request


def cached(cache: Cache) -> FastAPI:
    def decorate(name: str, kind: str) -> Callable[[Callable[..., Any]], Any]:
        whose: dict[str, Any] = {"public": True} if kind == "public" else {"vary_by": who}
        return cache.policy(name, ttl=60, negative_ttl=60).http(**whose)

    app = every_kind(decorate)
    assert len(app.routes) > 100
    app.add_middleware(HttpCacheMiddleware)
    app.add_middleware(RequestMiddleware)
    return app


@contextmanager
def raw_answers() -> Iterator[list[PreparedResponse]]:
    """The responses that leave in one piece meanwhile."""
    raw: list[PreparedResponse] = []
    send_raw = RawResponseSender.send_raw

    def watched(self: RawResponseSender, response: PreparedResponse) -> bool:
        if is_sent := send_raw(self, response):
            raw.append(response)
        return is_sent

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RawResponseSender, "send_raw", watched)
        yield raw

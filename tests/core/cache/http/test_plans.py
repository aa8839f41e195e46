"""A plan does what FastAPI does with generated dependencies: with an override, FastAPI does it."""

import asyncio
import inspect
from collections.abc import Iterator
from enum import StrEnum
from itertools import count
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from fastapi import (
    APIRouter,
    Cookie,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
)
from fastapi.requests import HTTPConnection
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel

from app.core.cache import Cache
from devservers.valkey import EmbeddedValkey
from tests.core.cache.harness import open_cache
from tests.core.cache.http.serving import application, asking, watch_fastapi

REQUIRED = inspect.Parameter.empty
NUMBER = "6b0a9a36-0f4e-4a35-8b55-2f0a5f2a5a33"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Filters(BaseModel):
    size: int = 1


def shout(text: str) -> str:
    return text.upper()


# What a function may take, by the name of the parameter: annotation and default.
OF_REQUEST: dict[str, tuple[Any, Any]] = {
    "item_id": (int, REQUIRED),
    "page": (int, 1),
    "limit": (Annotated[int, Query(ge=1, le=100)], 10),
    "size": (Annotated[int | None, Query(alias="the-size")], None),
    "needed": (str, REQUIRED),
    "flag": (bool, False),
    "colour": (Colour | None, None),
    "kind": (Literal["a", "b"], "a"),
    "x_user": (Annotated[str | None, Header()], None),
    "x_count": (Annotated[int, Header()], 0),
    "under_score": (Annotated[str | None, Header(convert_underscores=False)], None),
    "x_id": (Annotated[UUID | None, Header()], None),
    "token": (Annotated[str | None, Cookie()], None),
}
NOT_PLAIN: dict[str, tuple[Any, Any]] = {
    "word": (Annotated[str, AfterValidator(shout)], "none"),
    "tags": (Annotated[list[str] | None, Query()], None),
    "filters": (Annotated[Filters, Query()], REQUIRED),
}
OF_CALL: dict[str, tuple[Any, Any]] = {
    "request": (Request, REQUIRED),
    "connection": (HTTPConnection, REQUIRED),
    "response": (Response, REQUIRED),
}
TAKES = {**OF_REQUEST, **NOT_PLAIN, **OF_CALL}


class Part(BaseModel):
    """A dependency of a generated application."""

    takes: list[str] = []
    needs: list[tuple[int, bool]] = []
    """Which of the parts before it, and whether its result may be shared."""
    is_async: bool = True
    fails: bool = False


def parts(earlier: int) -> st.SearchStrategy[Part]:
    needs = st.tuples(st.integers(0, max(earlier - 1, 0)), st.booleans())
    names = st.sampled_from([*OF_REQUEST, *OF_CALL, *OF_REQUEST, *TAKES])
    return st.builds(
        Part,
        takes=st.lists(names, unique=True, max_size=3),
        needs=st.lists(needs, max_size=3) if earlier else st.just([]),
        is_async=st.booleans(),
        fails=st.sampled_from([False, False, True]),
    )


trees = st.tuples(*(parts(earlier) for earlier in range(4)))
texts = st.sampled_from(["", "0", "7", "07", "true", "red", "a", "c", "x y", "-1", NUMBER])
queries = st.sampled_from(
    ["page", "limit", "size", "the-size", "needed", "word", "flag", "colour", "kind", "tags"]
)
headers = st.sampled_from(["X-User", "x-count", "under_score", "x-id"])
requests = st.fixed_dictionaries(
    {
        "path": st.sampled_from(["7", "7", "x"]),
        "query": st.lists(st.tuples(queries, texts), max_size=4),
        "headers": st.lists(st.tuples(headers, texts), max_size=3),
        "cookies": st.dictionaries(st.just("token"), st.sampled_from(["a", "b"])),
    }
)


class Dependency:
    """Writes down how it was called."""

    def __init__(self, name: str, part: Part, needs: list[Any], log: list[Any]) -> None:
        self.name = name
        self._fails = part.fails
        self._log = log
        self.__signature__ = signature(part.takes, needs)

    def note(self, arguments: dict[str, Any]) -> str:
        self._log.append((self.name, {name: told(value) for name, value in arguments.items()}))
        if (response := arguments.get("response")) is not None:
            response.headers.append("x-made-by", self.name)
        if self._fails and (arguments.get("page") == 0 or arguments.get("x_user") == "a"):
            raise HTTPException(403, f"{self.name} says no", {"x-why": self.name})
        return f"{self.name}{len(self._log)}"


class Async(Dependency):
    async def __call__(self, **arguments: Any) -> str:
        return self.note(arguments)


class Sync(Dependency):
    def __call__(self, **arguments: Any) -> str:
        return self.note(arguments)


def told(value: Any) -> str:
    """What can be compared of an argument."""
    return type(value).__name__ if isinstance(value, HTTPConnection | Response) else repr(value)


def signature(takes: list[str], needs: list[Any]) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            *(
                inspect.Parameter(name, keyword, annotation=TAKES[name][0], default=TAKES[name][1])
                for name in takes
            ),
            *(
                inspect.Parameter(f"need_{i}", keyword, annotation=Annotated[str, need])
                for i, need in enumerate(needs)
            ),
        ],
        return_annotation=str,
    )


def generated(
    cache: Cache, name: str, tree: tuple[Part, ...], own: list[str], log: list[Any]
) -> FastAPI:
    """An application with one route, which takes `own` and depends on all parts."""
    made: list[Any] = []
    for number, part in enumerate(tree):
        needs = [Depends(made[of], use_cache=shared) for of, shared in part.needs]
        made.append((Async if part.is_async else Sync)(f"part{number}", part, needs, log))

    async def function(**arguments: Any) -> str:
        log.append(("function", {name: told(value) for name, value in arguments.items()}))
        return repr(sorted(arguments.items()))

    function.__signature__ = takes = signature(own, [])  # type: ignore[attr-defined]
    function.__annotations__ = {p.name: p.annotation for p in takes.parameters.values()}
    function.__annotations__["return"] = str
    router = APIRouter()
    cached = cache.policy(name, ttl=60).http(vary_by=made[-1])(function)
    router.get("/{item_id}", dependencies=[Depends(made[0]), Depends(made[1])])(cached)
    return application(router)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


names = count()


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(
    tree=trees,
    own=st.lists(st.sampled_from([*OF_REQUEST, *OF_REQUEST, *NOT_PLAIN]), unique=True, max_size=3),
    asked=st.lists(requests, min_size=2, max_size=6),
)
def test_a_plan_does_what_fastapi_does(
    server: EmbeddedValkey, tree: tuple[Part, ...], own: list[str], asked: list[dict[str, Any]]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(compare(server.url, tree, own, asked, watch_fastapi(monkeypatch)))


async def compare(
    url: str,
    tree: tuple[Part, ...],
    own: list[str],
    asked: list[dict[str, Any]],
    by_fastapi: list[str],
) -> None:
    taken = set(own).union(*(part.takes for part in tree))
    logs: list[list[Any]] = [[], []]
    async with open_cache(url) as cache:
        for planned, log in zip((True, False), logs, strict=True):
            app = generated(cache, f"p{next(names)}", tree, own, log)
            if not planned:
                app.dependency_overrides[shout] = shout
            async with asking(app) as http:
                for request in asked:
                    by_fastapi.clear()
                    log.append("request")
                    http.cookies = request["cookies"]
                    response = await http.get(
                        f"/{request['path']}", params=request["query"], headers=request["headers"]
                    )
                    told = [pair for pair in response.headers.multi_items() if pair[0] != "age"]
                    told = [(name, value.partition("; ttl")[0]) for name, value in told]
                    log.append((response.status_code, told, response.text))
                    if planned and response.status_code == 200 and not NOT_PLAIN.keys() & taken:
                        assert by_fastapi == []
    assert logs[0] == logs[1]

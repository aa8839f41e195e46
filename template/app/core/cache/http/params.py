"""The parameters of cached routes: as FastAPI is told of them, and as the middleware reads them.

The middleware reads a parameter only where it is certain to agree with FastAPI: its type is plain,
it has no validator of its own, and it is spelled as the value is when written out: `/items/7` but
not `/items/07`. The route reads everything else. What is read here is not validated: an invalid
value has no entry to be found.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin
from urllib.parse import parse_qsl
from uuid import UUID

from fastapi import Depends, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Depends as Dependency
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from starlette.convertors import (
    Convertor,
    IntegerConvertor,
    PathConvertor,
    StringConvertor,
    UUIDConvertor,
)

REQUEST = "cache_request"
RESPONSE = "cache_response"
PRINCIPAL = "cache_principal"

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_LONGEST_QUERY = 4_096
"""Bytes. What is longer takes its time, and need not be taken apart twice."""
_NO_VALUE = object()


def _integer(text: str) -> Any:
    return int(text) if _INTEGER.fullmatch(text) else _NO_VALUE


def _uuid(text: str) -> Any:
    try:
        value = UUID(text)
    except ValueError:
        return _NO_VALUE
    return value if str(value) == text else _NO_VALUE


def _boolean(text: str) -> Any:
    return {"true": True, "false": False}.get(text, _NO_VALUE)


_READERS: dict[Any, Callable[[str], Any]] = {
    int: _integer,
    str: lambda text: text,
    UUID: _uuid,
    bool: _boolean,
}
# `{item_id:int}`: those that give for the canonical spelling what is read here.
_CONVERTORS = (StringConvertor, PathConvertor, IntegerConvertor, UUIDConvertor)


class ArgumentReader:
    """Reads the arguments of one route from path and query."""

    def __init__(
        self,
        path: dict[str, Callable[[str], Any]],
        query: dict[str, tuple[str, Callable[[str], Any]]],
        defaults: dict[str, Any],
        order: Iterable[str],
    ) -> None:
        """Take readers by alias; those of the query name the parameter too."""
        self._path = path
        self._query = query
        self._defaults = defaults
        self._order = tuple(order)

    def read(self, path: dict[str, str], query_string: bytes) -> dict[str, Any] | None:
        """Return the arguments in the order of the signature, or None if FastAPI has to look."""
        found = dict(self._defaults)
        for name, text in path.items():
            if (value := self._path[name](text)) is _NO_VALUE:
                return None
            found[name] = value
        if len(query_string) > _LONGEST_QUERY:
            return None
        if query_string and self._query:
            for alias, text in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
                if alias in self._query:  # what is not declared is no part of the key
                    name, read = self._query[alias]
                    if (value := read(text)) is _NO_VALUE:
                        return None
                    found[name] = value
        if len(found) != len(self._order):
            return None
        return {name: found[name] for name in self._order}


def reader_for(
    dependant: Dependant,
    convertors: dict[str, Convertor[Any]],
    signature: inspect.Signature,
    ignored: frozenset[str],
) -> ArgumentReader | None:
    """Return the reader of a route, or None where FastAPI has to read the request."""
    if any(map(_has_to_run, dependant.dependencies)):
        return None
    path, query, defaults = {}, {}, {}
    for field in dependant.path_params:
        if (read := _reader_of(field)) is None:
            return None
        path[field.alias] = read
    if path.keys() != convertors.keys() or not all(map(_keeps_text, convertors.values())):
        return None
    for field in dependant.query_params:
        if (read := _reader_of(field)) is None or field.field_info.default_factory is not None:
            return None
        query[field.alias] = (field.name, read)
        if not field.field_info.is_required():
            defaults[field.name] = field.get_default()
    order = [name for name in signature.parameters if name not in ignored]
    if set(order) != set(path) | {name for name, _ in query.values()}:
        return None
    return ArgumentReader(path, query, defaults, order)


def tree(dependant: Dependant) -> Iterator[Dependant]:
    """Iterate over a dependant and all that it depends on."""
    yield dependant
    for child in dependant.dependencies:
        yield from tree(child)


def _has_to_run(dependency: Dependant) -> bool:
    """Whether a dependency does more than give the function something to work with."""
    return dependency.name is None or any(
        part.path_params
        or part.query_params
        or part.header_params
        or part.cookie_params
        or part.body_params
        or part.request_param_name
        or part.http_connection_param_name
        or part.response_param_name
        or part.background_tasks_param_name
        for part in tree(dependency)
    )


def is_plain(field: Any) -> bool:
    """Whether FastAPI looks for a parameter under one name, and runs nothing else with its value.

    Constraints (annotated_types) only refuse values. Anything else may change them, or do more.
    """
    info = field.field_info
    return info.validation_alias in (None, field.alias) and all(
        type(part).__module__ == "annotated_types" for part in info.metadata
    )


def _reader_of(field: Any) -> Callable[[str], Any] | None:
    if not is_plain(field):
        return None
    kind = field.field_info.annotation
    if get_origin(kind) in (Union, UnionType):
        # Whatever is in a request is not None, so it is the other one of the two.
        others = [part for part in get_args(kind) if part is not NoneType]
        kind = others[0] if len(others) == 1 else None
    return _READERS.get(kind)


def _keeps_text(convertor: Convertor[Any]) -> bool:
    return type(convertor) in _CONVERTORS


def for_fastapi(
    function: Callable[..., Any], hints: dict[str, Any], vary_by: Callable[..., Any] | None
) -> inspect.Signature:
    """Return the function's own parameters, resolved, and what the wrapper needs of a request.

    Raises:
        TypeError: a parameter that has no name for requests.
    """
    for p in inspect.signature(function).parameters.values():
        if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            raise TypeError(
                f"{function.__name__} takes {str(p.replace(annotation=p.empty))!r}, which no "
                "request can give by name: name each parameter, so that it is part of the key"
            )
    own = [
        p.replace(annotation=hints.get(p.name, p.annotation))
        for p in inspect.signature(function).parameters.values()
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    extra = [
        inspect.Parameter(REQUEST, keyword, annotation=Request),
        inspect.Parameter(RESPONSE, keyword, annotation=Response),
    ]
    if vary_by is not None:
        principal = Annotated[Any, Depends(vary_by)]
        extra.append(inspect.Parameter(PRINCIPAL, keyword, annotation=principal))
    return inspect.Signature([*own, *extra], return_annotation=hints["return"])


def for_callers(function: Callable[..., Any]) -> inspect.Signature:
    """Return the function's parameters with the defaults that a request gets.

    `Query(20)` stands for 20. What a dependency or a factory makes has no default: it is required.
    """
    parameters = [
        p.replace(default=_plain_default(p.default), kind=inspect.Parameter.KEYWORD_ONLY)
        for p in inspect.signature(function).parameters.values()
    ]
    return inspect.Signature(parameters)


def _plain_default(default: Any) -> Any:
    if isinstance(default, FieldInfo):
        default = default.default
    if isinstance(default, Dependency) or default is PydanticUndefined or default is ...:
        return inspect.Parameter.empty
    return default

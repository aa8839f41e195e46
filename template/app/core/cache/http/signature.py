"""What FastAPI is told about a cached route's parameters."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.params import Depends as Dependency
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

REQUEST = "cache_request"
RESPONSE = "cache_response"
PRINCIPAL = "cache_principal"


def for_fastapi(
    function: Callable[..., Any], hints: dict[str, Any], vary_by: Callable[..., Any] | None
) -> inspect.Signature:
    """The function's own parameters, resolved, and what the wrapper needs of a request.

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
    """The function's parameters with the defaults that a request gets.

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

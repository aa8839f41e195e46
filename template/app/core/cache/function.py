"""Caching a function: the signature is the key."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)
from uuid import UUID

from pydantic import BaseModel

from app.core.cache.engine import Engine
from app.core.cache.entry_codec import EntryCodec
from app.core.cache.kept import Kept, plain_type
from app.core.cache.keys import EntryKeys, Keyspace, canonical
from app.core.cache.loader_safety import check_captured, check_parameters
from app.core.cache.loading import Lookup
from app.core.cache.options import SecondAsk

P = ParamSpec("P")
R = TypeVar("R")

Tags = Sequence[str] | Callable[..., Iterable[str]]

_KEYABLE = (
    int, str, bool, float, bytes, Decimal, UUID, date, datetime, time, timedelta, NoneType, Enum,
    BaseModel, Sequence, Mapping, AbstractSet,
)  # fmt: skip


class Arguments:
    """Turns the arguments of one function into the text of a key, and into tags."""

    def __init__(
        self,
        function: Callable[..., Any],
        tags: Tags,
        ignore: Iterable[str],
        hints: dict[str, Any],
        second_ask: SecondAsk = False,
    ) -> None:
        """Check the signature.

        Raises:
            TypeError: a parameter that is not ignored cannot be part of a key.
        """
        self.signature = inspect.signature(function)
        self.name = function.__name__
        if unknown := set(ignore) - self.signature.parameters.keys():
            raise TypeError(f"{self.name} has no parameter {', '.join(sorted(unknown))} to ignore")
        self._keyed = [name for name in self.signature.parameters if name not in set(ignore)]
        for name in self._keyed:
            _check_keyable(self.name, name, hints.get(name))
        self._tags = tags if callable(tags) else _as_tags(tags)
        self._tagged = self._depends_on(tags, "the tags")
        self._second_ask = second_ask
        self._asked = self._depends_on(second_ask, "second_ask")

    def _depends_on(self, what: object, name: str) -> list[str]:
        """Return the parameters that a function of some of them takes."""
        taken = list(inspect.signature(what).parameters) if callable(what) else []
        if unknown := set(taken) - set(self._keyed):
            raise TypeError(
                f"{name} of {self.name} depend on {', '.join(sorted(unknown))}, which is no part "
                "of its key"
            )
        return taken

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments by name, with defaults."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def key(self, arguments: dict[str, Any]) -> str:
        """Return the text of the key for these arguments."""
        parts = [f"{name}={canonical(arguments[name])}" for name in self._keyed]
        # No canonical text starts with "@": a plain key of the same policy is never the same.
        return f"@{self.name}({','.join(parts)})"

    def tags(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """Return the tags for these arguments."""
        if not callable(self._tags):
            return self._tags
        return _as_tags(self._tags(**{name: arguments[name] for name in self._tagged}))

    @property
    def has_second_ask(self) -> bool:
        """Whether there are keys that anybody can make up."""
        return self._second_ask is not False

    def is_made_up(self, arguments: dict[str, Any]) -> bool:
        """Return whether anybody could have made up the key of these arguments."""
        if not callable(self._second_ask):
            return self._second_ask
        return self._second_ask(**{name: arguments[name] for name in self._asked})


class CachedFunction(Generic[P, R]):
    """A function whose results are cached. Called like the function itself."""

    def __init__(
        self,
        engine: Engine,
        keyspace: Keyspace,
        make_codec: Callable[[Any], EntryCodec],
        function: Callable[P, Awaitable[R | Kept[R]]],
        tags: Tags,
        ignore: Sequence[str],
    ) -> None:
        hints = get_type_hints(function, include_extras=True)
        if "return" not in hints:
            raise TypeError(f"{function.__name__} needs a return annotation to be cached")
        check_parameters(function.__name__, hints)
        returns = plain_type(hints["return"])
        if returns != hints["return"] and get_origin(hints["return"]) is not Kept:
            # Callers would be told by the annotation that they may get either.
            raise TypeError(
                f"{function.__name__} returns a value with its ttl or without: annotate Kept[...] "
                "alone, and return keep(value) for the ttl of the policy"
            )
        self._engine = engine
        self._keyspace = keyspace
        self._function = function
        self._codec = make_codec(returns)
        self._arguments = Arguments(function, tags, ignore, hints)
        check_captured(self._codec.policy, function)
        # Nothing that is part of a key is a session; what is ignored may be, or have one.
        self._is_safe = not ignore
        functools.update_wrapper(self, function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result = await self._engine.get(self._lookup(*args, **kwargs))
        return cast(R, result.value)

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the text of the key that these arguments make."""
        return self._arguments.key(self._arguments.bind(*args, **kwargs))

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove the result for these arguments; see `CachePolicy.invalidate`."""
        await self._engine.delete([self._keys(self.key(*args, **kwargs))])

    async def warm(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Compute the result for these arguments unless it is cached."""
        await self._engine.get(self._lookup(*args, **kwargs))

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Compute the result for these arguments now; see `CachePolicy.refresh`."""
        result = await self._engine.refresh(self._lookup(*args, **kwargs))
        return cast(R, result.value)

    def _lookup(self, *args: P.args, **kwargs: P.kwargs) -> Lookup:
        arguments = self._arguments.bind(*args, **kwargs)
        keys = self._keys(self._arguments.key(arguments), self._arguments.tags(arguments))
        return Lookup(self._codec, keys, lambda: self._function(*args, **kwargs), self._is_safe)

    def _keys(self, text: str, tags: Sequence[str] = ()) -> EntryKeys:
        return self._keyspace.entry_keys(self._codec.policy, text, tags)


class CacheFunction(Protocol):
    """A decorator of functions, whether or not they say how long their results are kept."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[Kept[R]]], /) -> CachedFunction[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, R]: ...


def _as_tags(tags: Iterable[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags are several strings, such as [{tags!r}], not one")
    return tuple(tags)


def _check_keyable(function: str, name: str, hint: Any) -> None:
    if hint is None or hint is Any:
        return  # not annotated: the value itself is checked at each call
    origin = get_origin(hint)
    if origin is Annotated:
        _check_keyable(function, name, get_args(hint)[0])
    elif origin in (Union, UnionType):
        for part in get_args(hint):
            _check_keyable(function, name, part)
    elif origin is not Literal:
        type_ = origin or hint
        if (
            isinstance(type_, type)
            and not issubclass(type_, _KEYABLE)
            and not hasattr(type_, "__dataclass_fields__")
        ):
            raise TypeError(
                f"the parameter {name!r} of {function} is a {type_.__qualname__}, which cannot be "
                f"part of a cache key: pass an id instead, or name it in ignore="
            )

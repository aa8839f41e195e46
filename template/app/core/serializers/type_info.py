"""What pydantic knows about a type: how to dump and validate its values, and their shape."""

import json
import re
from hashlib import blake2b
from typing import Any

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
)

# Where a text tells an object's place in memory, which is another one in each process.
_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|:[0-9]{10,}\b")


def adapter_of(type_: Any, config: ConfigDict | None = None) -> TypeAdapter[Any]:
    """The adapter of `type_`. Where a type brings its own configuration, that one counts.

    Raises:
        TypeError: pydantic does not understand the type.
    """
    try:
        try:
            adapter = TypeAdapter(type_, config=config)
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            adapter = TypeAdapter(type_)
        if not adapter.pydantic_complete:
            adapter.rebuild()
        return adapter
    except (
        PydanticSchemaGenerationError,
        PydanticUndefinedAnnotation,
        PydanticUserError,
    ) as error:
        raise TypeError(f"{type_!r} cannot be kept in the cache: {error}") from error


def json_shape(type_: Any, adapter: TypeAdapter[Any]) -> bytes:
    """The fingerprint of a type by its name and its JSON schema.

    Raises:
        TypeError: its values have no JSON.
    """
    try:
        return fingerprint(repr(type_), adapter.json_schema(by_alias=False))
    except PydanticUserError as error:
        raise TypeError(f"{type_!r} cannot be kept in the cache: {error}") from error


def fingerprint(*description: Any) -> bytes:
    """8 bytes of a description that JSON can hold, the same in all processes."""
    text = _MEMORY_ADDRESS.sub("", json.dumps(description, sort_keys=True))
    return blake2b(text.encode(), digest_size=8).digest()

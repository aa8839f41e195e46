"""What pydantic knows about a type: how to dump and validate its values, and a fingerprint."""

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

# Memory addresses in a repr, which differ between processes.
_MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|:[0-9]{10,}\b")


def adapter_of(type_: Any, config: ConfigDict | None = None) -> TypeAdapter[Any]:
    """Return the adapter of a type. A configuration that the type itself has takes precedence.

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
    """Return the fingerprint of a type: of its name and its JSON schema.

    Raises:
        TypeError: its values cannot be JSON.
    """
    try:
        return fingerprint(repr(type_), adapter.json_schema(by_alias=False))
    except PydanticUserError as error:
        raise TypeError(f"{type_!r} cannot be kept in the cache: {error}") from error


def fingerprint(*description: Any) -> bytes:
    """Return 8 bytes for a description that JSON can hold, the same in all processes."""
    text = _MEMORY_ADDRESS.sub("", json.dumps(description, sort_keys=True))
    return blake2b(text.encode(), digest_size=8).digest()

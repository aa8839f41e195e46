"""Copier without what it does again for every file, for tests that render hundreds of services.

It starts Git for each file, to learn whether an existing repository ignores the executable bit, and
compiles each part of each path as a template. Neither changes what is written into a new folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from copier import _main
from jinja2 import Environment

_compile = Environment.compile
_compiled: dict[tuple[Any, ...], Any] = {}


@contextmanager
def quick_copier() -> Iterator[None]:
    """For copies of this template into new folders, and updates of these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_main, "is_git_available", lambda: False)
        patch.setattr(Environment, "compile", _compile_once)
        yield


def _compile_once(environment: Environment, *source: Any, **options: Any) -> Any:
    # Copier sets all environments for one template up alike, so their code is the same.
    key = (*source, *sorted(options.items()))
    if key not in _compiled:
        _compiled[key] = _compile(environment, *source, **options)
    return _compiled[key]

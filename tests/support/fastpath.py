"""Choosing between fast paths and ordinary implementations."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core import implementations


@contextmanager
def chosen(*, fast: bool) -> Iterator[None]:
    """Have everything that is made meanwhile use fast paths, or none."""
    implementations.choose(fast=fast)
    try:
        yield
    finally:
        implementations.choose()

"""The servers that keep locks by majority."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from devservers.valkey import EmbeddedValkey


@contextmanager
def lock_variables(admit: Callable[[str], str]) -> Iterator[dict[str, str]]:
    """The variable that says where they are; three are started if it is not given.

    Args:
        admit: lets the service into one that was started, and returns its URL.
    """
    if given := os.environ.get("REDLOCK_URLS"):
        yield {"REDLOCK_URLS": given}
        return
    with ExitStack() as stack:
        # Independent ones, as in production; three are the fewest that can lose one.
        nodes = [stack.enter_context(EmbeddedValkey()) for _ in range(3)]
        yield {"REDLOCK_URLS": ",".join(admit(node.url) for node in nodes)}

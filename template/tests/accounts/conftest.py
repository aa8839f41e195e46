"""Browsers, each with cookies of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.accounts.browsers import Browser, MakeBrowser
from tests.conftest import Client


@pytest.fixture
async def browser(client: Client) -> AsyncIterator[MakeBrowser]:
    async with AsyncExitStack() as stack:

        def make(address: str = "192.0.2.1") -> Browser:
            made = Browser(client, address)
            stack.push_async_callback(made.aclose)
            return made

        yield make

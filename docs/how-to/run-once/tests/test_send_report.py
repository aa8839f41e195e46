"""Three processes start it at the same moment."""

import asyncio
from argparse import Namespace
from contextlib import AsyncExitStack, nullcontext

import pytest

from app.commands import send_report
from app.core.locks import Locks
from app.main import create_service
from app.settings import Settings


@pytest.mark.parametrize("locked", [True, False])
async def test_one_of_three_sends_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """And each does without the lock, which is the control."""
    sending, sent, all_begun = 0, 0, asyncio.Event()

    async def send(day: str) -> None:
        nonlocal sending, sent
        sending += 1
        if sending == 3 or locked:
            all_begun.set()
        await all_begun.wait()
        sent += 1

    monkeypatch.setattr(send_report, "send", send)
    if not locked:
        monkeypatch.setattr(Locks, "hold", lambda *args, **options: nullcontext())
    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(create_service(settings).running()) for _ in range(3)
        ]
        await asyncio.gather(*(send_report.run(each, Namespace(day="today")) for each in services))
    assert sent == (1 if locked else 3)

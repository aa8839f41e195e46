"""Two at once are served one after the other, with a growing fence."""

import asyncio

from app.core.service import Service
from app.invoices.install import install_invoices
from tests.conftest import Serve


async def test_one_after_the_other(serve: Serve) -> None:
    happened: list[list[str]] = []

    def install(service: Service) -> None:
        happened.append(install_invoices(service))

    async with serve(install) as client:
        answers = await asyncio.gather(*(client.post("/invoices/1/send") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {204}
    steps = [step.split() for step in happened[0]]
    fences = [int(fence) for step, fence in steps if step == "begin"]
    assert fences == sorted(fences)
    assert steps == [[step, str(fence)] for fence in fences for step in ("begin", "end")]

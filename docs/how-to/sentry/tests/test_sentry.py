"""A request that fails is one error."""

from collections.abc import Iterator

import pytest
import sentry_sdk
from fastapi import APIRouter, HTTPException
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from app.core.service import Service
from app.errors.sentry import report_errors
from tests.conftest import Serve


class Mailbox(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        if event := envelope.get_event():
            self.errors.append(event["exception"]["values"][-1]["value"])


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    report_errors("http://public@127.0.0.1:1/1", transport=mailbox)
    yield mailbox
    sentry_sdk.init(dsn="")  # the other tests report nothing


def install_faults(service: Service) -> None:
    router = APIRouter()

    @router.get("/faults/{status}")
    async def fail(status: int) -> None:
        if status == 500:
            raise ValueError("broken")
        raise HTTPException(status)

    service.include(router)


async def test_a_request_that_fails_is_one_error(serve: Serve, mailbox: Mailbox) -> None:
    async with serve(install_faults) as client:
        assert (await client.get("/faults/500")).status_code == 500
        assert (await client.get("/faults/404")).status_code == 404
        sentry_sdk.flush()
    assert mailbox.errors == ["broken"]

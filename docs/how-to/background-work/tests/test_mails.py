"""The mail is sent once the request is over."""

from app.core.service import Service
from app.mails.install import install_mails
from devservers.waiting import until
from tests.conftest import Serve


async def test_a_mail_is_sent(serve: Serve) -> None:
    sent: list[list[str]] = []

    def install(service: Service) -> None:
        sent.append(install_mails(service))

    async with serve(install) as client:
        answer = await client.post("/sign-up?address=ann@example.org")
        assert answer.json() == "welcome"
        await until(lambda: sent == [["ann@example.org"]])

"""The other service answers, fails, hangs and is gone: a real one, on a port."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from app.rates.install import install_rates
from app.upstreams.upstream import Upstream, UpstreamError
from devservers.waiting import until
from tests.conftest import Serve

RATE = '{"rate": 1.5}'


class Bank:
    """Answers each request with what comes next, and at the end of that with the rate."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.asked = 0
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self.hangs.wait()
            status, body = self.answers.pop(0) if self.answers else (200, RATE)
            head = (
                f"HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(f"{head}{body}".encode())
            await writer.drain()
        finally:
            writer.close()

    def client(self, **options: float) -> Upstream:
        tries, max_bytes = int(options.get("tries", 2)), int(options.get("max_bytes", 100))
        return Upstream(
            "bank",
            f"http://127.0.0.1:{self.port}",
            timeout=options.get("timeout", 30),
            tries=tries,
            max_bytes=max_bytes,
        )


@pytest.fixture
async def bank() -> AsyncIterator[Bank]:
    bank = Bank()
    server = await asyncio.start_server(bank.serve, "127.0.0.1", 0)
    bank.port = server.sockets[0].getsockname()[1]
    yield bank
    bank.hangs.set()
    server.close()


async def test_the_old_rate_is_served_while_the_bank_is_away(serve: Serve, bank: Bank) -> None:
    install = partial(install_rates, bank=bank.client(), ttl=0.01)
    async with serve(install) as client:
        assert (await client.get("/exchange-rates/EUR")).json() == 1.5
        bank.answers = [(500, "")] * 10_000

        async def is_old() -> bool:
            answer = await client.get("/exchange-rates/EUR")
            assert (answer.status_code, answer.json()) == (200, 1.5)
            return "stale-if-error" in answer.headers["cache-status"]

        await until(is_old)


@pytest.mark.parametrize(
    ("answers", "status", "asked"),
    [
        ([(503, "")], 200, 2),
        ([(503, "")] * 2, 503, 2),
        ([(429, "")], 200, 2),
        ([(500, "")], 502, 1),
        ([(200, "<html>")], 502, 1),
        ([(200, "x" * 101)], 502, 1),
        ([(404, "{}")], 404, 1),
    ],
)
async def test_what_the_bank_does_is_told(
    serve: Serve, bank: Bank, answers: list[tuple[int, str]], status: int, asked: int
) -> None:
    bank.answers = answers
    async with serve(partial(install_rates, bank=bank.client())) as client:
        answer = await client.get("/exchange-rates/EUR")
    assert (answer.status_code, bank.asked) == (status, asked)
    if status >= 500:
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["detail"].startswith("bank ")


async def test_one_that_hangs_is_a_504(serve: Serve, bank: Bank) -> None:
    bank.hangs.clear()
    async with serve(partial(install_rates, bank=bank.client(timeout=0.2))) as client:
        assert (await client.get("/exchange-rates/EUR")).status_code == 504


async def test_nobody_there_is_a_503(serve: Serve, bank: Bank) -> None:
    bank.port = 1
    async with serve(partial(install_rates, bank=bank.client())) as client:
        assert (await client.get("/exchange-rates/EUR")).status_code == 503


async def test_what_is_not_idempotent_is_sent_once(bank: Bank) -> None:
    bank.answers = [(503, "")]
    async with bank.client() as client:
        with pytest.raises(UpstreamError):
            await client.request("POST", "/payments", json={})
        assert bank.asked == 1


async def test_no_proxy_of_the_environment_is_used(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with bank.client() as client:
        assert await client.request("GET", "/rates/EUR") == (200, {"rate": 1.5})

"""One request too many is refused, hits count, and an outage of Redis refuses nobody."""

from functools import partial

from app.quotes.install import install_quotes
from app.settings import Settings
from tests.conftest import Serve


async def test_one_too_many_is_refused(serve: Serve, settings: Settings) -> None:
    url = settings.redis_url.get_secret_value()
    async with serve(partial(install_quotes, redis_url=url)) as client:
        answers = [await client.get("/quotes/1") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert "hit" in answers[1].headers["cache-status"]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600


async def test_without_redis_all_pass(serve: Serve) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    async with serve(partial(install_quotes, redis_url=nowhere), redis_url=nowhere) as client:
        answers = [await client.get(f"/quotes/{number}") for number in range(6)]
    assert {answer.status_code for answer in answers} == {200}

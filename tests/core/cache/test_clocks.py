"""Clocks that differ make a cache worse than none: it is said, and the health page shows it."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from app.core.cache import Cache, CacheUnavailable, server_watch
from app.core.cache.server_watch import ClockWatch
from devservers.valkey import EmbeddedValkey
from tests.core.cache.conftest import OpenCache
from tests.core.cache.harness import Clock, Source, is_healthy


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of this host."""
    host = Clock()
    monkeypatch.setattr(server_watch, "time", host)
    return host


@pytest.fixture
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's time is asked for with every lease."""
    monkeypatch.setattr(server_watch, "_CLOCK_INTERVAL_SECONDS", 0)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as logs:
        yield logs


def lines(logs: list[Any]) -> int:
    return sum(line["event"] == "cache.clocks_differ" for line in logs)


@pytest.mark.parametrize(("apart", "told"), [(6, "6.* s ahead of"), (-300, "300.* s behind")])
async def test_a_host_whose_clock_is_wrong_says_so(
    cache: Cache, host: Clock, logs: list[Any], apart: float, told: str
) -> None:
    host.advance(apart)
    policy = cache.policy("item", int, ttl=60)
    for key in range(3):
        assert await policy.get_or_load(key, Source(1).load) == 1
    with pytest.raises(CacheUnavailable, match=f"clock is {told} the Redis server's"):
        await cache.check()
    assert lines(logs) == 1


async def test_clocks_that_agree_are_no_news(
    cache: Cache, host: Clock, logs: list[Any], every_time: None
) -> None:
    policy = cache.policy("item", int, ttl=60)
    for key, apart in enumerate([0.5, -1, 0.5]):
        host.advance(apart)
        await policy.get_or_load(key, Source(1).load)
        await cache.check()
    assert lines(logs) == 0


async def test_it_is_over_when_the_clock_is_set(
    cache: Cache, host: Clock, every_time: None
) -> None:
    policy = cache.policy("item", int, ttl=60)
    healthy = []
    for key, apart in enumerate([10, -10]):
        host.advance(apart)
        await policy.get_or_load(key, Source(1).load)
        healthy.append(await is_healthy(cache))
    assert healthy == [False, True]


def test_a_reply_that_took_long_proves_nothing(host: Clock) -> None:
    watch = ClockWatch()
    asked = watch.start_check()
    server = asked + 10
    host.advance(20)
    watch.finish_check(asked, [int(server), 0])
    assert watch.problem is None


@pytest.mark.parametrize("many", [False, True])
async def test_entries_of_a_host_that_is_ahead_are_told(
    another: OpenCache, clock: Clock, logs: list[Any], many: bool
) -> None:
    """Also where the server's clock is nobody's business."""
    here, there = [(await another()) for _ in range(2)]
    policies = [cache.policy("item", int, ttl=60) for cache in (here, there)]
    clock.advance(300)
    await policies[0].get_or_load(1, Source(1).load)
    clock.advance(-300)
    await here.check()
    for _ in range(3):
        clock.advance(300)
        await policies[0].invalidate(1)
        await policies[0].get_or_load(1, Source(1).load)
        clock.advance(-300)
        if many:

            async def load(keys: Any) -> dict[int, int]:
                return dict.fromkeys(keys, 2)

            assert await policies[1].get_or_load_many([1], load) == {1: 2}
        else:
            assert await policies[1].get_or_load(1, Source(2).load) == 2
    with pytest.raises(CacheUnavailable, match="from the future"):
        await there.check()
    assert lines(logs) == 1


async def test_a_user_who_may_not_ask_the_time_goes_without(
    shared_server: EmbeddedValkey, another: OpenCache, redis: Redis, logs: list[Any]
) -> None:
    await redis.execute_command(
        "ACL", "SETUSER", "timeless", "reset", "on", ">secret", "~*", "&*", "+@all", "-time"
    )
    url = f"redis://timeless:secret@{shared_server.host}:{shared_server.port}/0"
    cache = await another(url)
    policy, source = cache.policy("item", int, ttl=60), Source(1)
    for _ in range(3):
        assert await policy.get_or_load(1, source.load) == 1
    assert source.loads == 1
    await cache.check()
    assert lines(logs) == 0
    await redis.execute_command("ACL", "DELUSER", "timeless")

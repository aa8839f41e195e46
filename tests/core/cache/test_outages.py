"""Redis is away, or wrong: the service answers, soon, and nothing invalidated comes back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import pytest

from app.core.cache import Cache, CachePolicy, CacheUnavailable
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG, until
from tests.core.cache.conftest import OpenCache
from tests.core.cache.counters import reads
from tests.core.cache.faults import (
    FAULTS,
    REACHABLE,
    TOO_SLOW,
    UNREACHABLE,
    Fault,
    OutOfMemory,
    Patient,
    WrongPassword,
    name_of,
    open_patient,
)
from tests.core.cache.harness import (
    Clock,
    Pauses,
    Source,
    breaker_is_open,
    is_healthy,
    queued_invalidations,
    waiting_callers,
)
from tests.support.wire import counted_writes

READ_TIMEOUT, COMMAND_TIMEOUT = 0.05, 0.2
SLACK = 0.25
"""What everything else adds, the pauses of a busy machine left out."""

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server
        server.thaw()


@pytest.fixture
async def patient(server: EmbeddedValkey) -> AsyncIterator[Patient]:
    async with open_patient(server) as patient:
        yield patient


@pytest.fixture
async def ill(patient: Patient, another: OpenCache) -> Cache:
    """A cache in use, whose server is about to suffer."""
    cache = await another(patient.url, read_timeout=READ_TIMEOUT, command_timeout=COMMAND_TIMEOUT)
    policy = cache.policy("warm-up", int, ttl=60)

    async def is_in_use() -> bool:
        count = hits("warm-up")
        await policy.get_or_load(0, Source(1).load)
        return hits("warm-up") > count

    await until(is_in_use)
    return cache


@pytest.fixture
async def refused(patient: Patient, another: OpenCache) -> Cache:
    """One whose server is about to refuse things, but not to be slow."""
    return await another(patient.url)


def policy_of(cache: Cache) -> CachePolicy[str]:
    return cache.policy("item", str, ttl=60)


def hits(policy: str) -> float:
    return reads(policy, "hit")


def noted(monkeypatch: pytest.MonkeyPatch, owner: object, *names: str) -> list[str]:
    """The names of these methods, each time one is called from now on."""
    calls: list[str] = []

    def noting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return real(*arguments)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, noting(name, getattr(owner, name)))
    return calls


async def fill(policy: CachePolicy[str], value: str) -> None:
    for key in ("key", "tagged", "cleared"):
        source = Source(value)
        await policy.get_or_load(key, source.load, tags=[key])


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
async def test_reads_never_raise_and_wait_no_longer_than_stated(
    patient: Patient, ill: Cache, fault: Fault, record_property: Record
) -> None:
    policy, source, waits = policy_of(ill), Source("value"), []

    async def read(key: int) -> None:
        assert await policy.get_or_load(key, source.load) == "value"

    await fault.inflict(patient)
    async with Pauses() as pauses:
        for key in range(20):
            waits.append(await pauses.time(read(key)))
    record_property("longest added wait (ms)", round(max(waits) * 1000))
    # A read, and a lease or store that the breaker has not yet been closed to.
    assert max(waits) < READ_TIMEOUT + COMMAND_TIMEOUT + SLACK
    assert sorted(waits)[10] < 0.02
    await fault.mend(patient)


@pytest.mark.slow
@pytest.mark.parametrize("fault", UNREACHABLE, ids=name_of)
async def test_the_breaker_opens_after_three_failures_and_closes_by_itself(
    patient: Patient, ill: Cache, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, source = policy_of(ill), Source("value")
    answers = noted(monkeypatch, ill._breaker, "record_success", "record_failure")
    probes = noted(monkeypatch, ill._store, "ping", "probe")
    await fault.inflict(patient)
    keys = count()
    while not breaker_is_open(ill):
        assert answers[-3:] != ["record_failure"] * 3
        await policy.get_or_load(next(keys), source.load)
    assert answers[-3:] == ["record_failure"] * 3
    with counted_writes() as wire:  # it does not try its luck on callers
        assert await policy.get_or_load(next(keys), source.load) == "value"
        assert len(wire) == 0
    if fault in TOO_SLOW:  # what is only slow may be in time for once, when this process pauses
        await until(lambda: len(probes) >= 2)
        assert breaker_is_open(ill)
    await fault.mend(patient)
    await until(lambda: is_healthy(ill))

    async def is_cached() -> bool:
        loads = source.loads
        await policy.get_or_load("again", source.load)
        return source.loads == loads

    await until(is_cached)


@pytest.mark.parametrize("fault", REACHABLE, ids=name_of)
async def test_a_server_that_only_refuses_writes_is_still_read(
    patient: Patient, refused: Cache, fault: Fault
) -> None:
    policy, source = policy_of(refused), Source("value")
    await policy.get_or_load("kept", source.load)
    await fault.inflict(patient)
    for key in range(5):
        await policy.get_or_load(key, source.load)
    source.loads = 0
    assert await policy.get_or_load("kept", source.load) == "value"
    assert (source.loads, breaker_is_open(refused)) == (0, False)


@pytest.mark.parametrize("many_first", [False, True])
@pytest.mark.parametrize("fault", REACHABLE, ids=name_of)
async def test_without_leases_one_entry_and_many_of_one_keep_apart(
    patient: Patient, refused: Cache, fault: Fault, many_first: bool
) -> None:
    policy, source = policy_of(refused), Source("value")
    await fault.inflict(patient)
    source.hold()

    async def load_many(keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, await source.load())

    async def many() -> str | None:
        return (await policy.get_or_load_many(["a"], load_many))["a"]

    async def one() -> str | None:
        return await policy.get_or_load("a", source.load)

    calls = []
    for call in (many, one) if many_first else (one, many):
        calls.append(asyncio.create_task(call()))
        await until(lambda: source.loads == len(calls))
    source.release()
    assert await asyncio.gather(*calls) == ["value"] * 2


async def test_without_leases_nobody_gets_many_that_were_invalidated_before(
    patient: Patient, refused: Cache, another: OpenCache
) -> None:
    policy, source = policy_of(refused), Source("old")
    elsewhere = policy_of(await another(patient.url))
    await OutOfMemory().inflict(patient)
    source.hold()

    async def load_many(keys: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(keys, await source.load())

    early = asyncio.create_task(policy.get_or_load_many(["a", "b"], load_many))
    await source.started.wait()
    source.value = "new"
    for key in ("a", "b"):
        await elsewhere.invalidate(key)
    late = asyncio.create_task(policy.get_or_load_many(["a", "b"], load_many))
    await until(lambda: waiting_callers(refused) == 2)
    source.release()
    await early
    assert await late == {"a": "new", "b": "new"}


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
async def test_invalidations_made_meanwhile_arrive_before_reads_are_served_again(
    patient: Patient, ill: Cache, another: OpenCache, fault: Fault
) -> None:
    policy = policy_of(ill)
    await fill(policy, "old")
    await fault.inflict(patient)
    await policy.invalidate("key")
    await ill.invalidate_tags("tagged")

    async def newest(key: str) -> str:
        return await policy.get_or_load(key, Source("new").load, tags=[key])

    async def nothing_old() -> bool:
        assert [await newest("key"), await newest("tagged")] == ["new", "new"]
        return await is_healthy(ill)

    for _ in range(30):
        await nothing_old()
        await asyncio.sleep(0.01)
    await policy.clear()
    assert await newest("cleared") == "new"
    await fault.mend(patient)
    await until(nothing_old)
    other = policy_of(await another(f"redis://127.0.0.1:{patient.server.port}/0"))
    for key in ("key", "tagged", "cleared"):
        assert await newest(key) == "new"
        assert await other.get_or_load(key, Source("new").load, tags=[key]) == "new"


@pytest.mark.parametrize("fault", TOO_SLOW, ids=name_of)
async def test_a_caller_who_must_know_is_told(patient: Patient, ill: Cache, fault: Fault) -> None:
    policy = policy_of(ill)
    await fault.inflict(patient)
    with pytest.raises(CacheUnavailable):
        await policy.invalidate("key", strict=True)
    with pytest.raises(CacheUnavailable):
        await policy.clear(strict=True)
    with pytest.raises(CacheUnavailable):
        await ill.invalidate_tags("tag", strict=True)
    assert queued_invalidations(ill) == 3
    await fault.mend(patient)


@pytest.mark.parametrize("fault", REACHABLE, ids=name_of)
async def test_without_a_lease_the_loader_is_asked_before_an_old_value_is_served(
    patient: Patient, refused: Cache, clock: Clock, fault: Fault
) -> None:
    policy = refused.policy("short", str, ttl=60, stale_if_error=3600, error_patience=HANG)
    source = Source("old")
    await policy.get_or_load("key", source.load)
    clock.advance(60)
    source.value = "new"
    await fault.inflict(patient)
    assert await policy.get_or_load("key", source.load) == "new"
    source.error = OSError("down")
    assert await policy.get_or_load("key", source.load) == "old"


async def test_a_busy_pool_is_not_taken_for_a_server_that_is_away(another: OpenCache) -> None:
    cache = await another(pool_size=1, pool_timeout=0.0001)
    policy, source = policy_of(cache), Source("value")
    values = await asyncio.gather(*(policy.get_or_load(key, source.load) for key in range(50)))
    assert list(values) == ["value"] * 50
    assert not breaker_is_open(cache)


async def test_the_single_flight_holds_while_redis_is_away(patient: Patient, ill: Cache) -> None:
    policy, source = policy_of(ill), Source("value")
    patient.server.freeze()
    source.hold()
    callers = [asyncio.create_task(policy.get_or_load("key", source.load)) for _ in range(50)]
    await until(lambda: waiting_callers(ill) == 50)
    source.release()
    assert await asyncio.gather(*callers) == ["value"] * 50
    assert source.loads == 1


async def test_an_invalidation_that_failed_alone_is_not_overtaken_by_a_read(
    patient: Patient, ill: Cache
) -> None:
    policy, fault = policy_of(ill), WrongPassword()
    await fill(policy, "old")
    await fault.inflict(patient)
    await policy.invalidate("key")
    await fault.mend(patient)
    assert await policy.get_or_load("key", Source("new").load, tags=["key"]) == "new"
    await until(partial(is_healthy, ill))
    assert await policy.get_or_load("key", Source("new").load, tags=["key"]) == "new"


@pytest.mark.parametrize("name", ["\ud800", "a" * 100_000, "}{", ""])
async def test_the_recovery_survives_any_name(cache: Cache, name: str) -> None:
    policy = policy_of(cache)
    cache._breaker.open("a test")
    await policy.invalidate(name)
    await cache.invalidate_tags(name)
    await until(partial(is_healthy, cache))
    source = Source("value")
    for _ in range(2):
        assert await policy.get_or_load(name, source.load, tags=[name]) == "value"
    assert source.loads == 1


async def test_a_server_that_freezes_during_a_load_costs_one_command_and_no_lease(
    patient: Patient, ill: Cache, record_property: Record
) -> None:
    policy = policy_of(ill)

    async def load() -> str:
        patient.server.freeze()
        return "value"

    async def read() -> None:
        assert await policy.get_or_load("key", load) == "value"

    async with Pauses() as pauses:
        wait = await pauses.time(read())
    record_property("added wait (ms)", round(wait * 1000))
    assert wait < COMMAND_TIMEOUT + SLACK
    patient.server.thaw()
    await until(partial(is_healthy, ill))
    assert [key async for key in patient.admin.scan_iter(match="*:lease")] == []


async def test_control_without_the_breaker_every_read_waits(
    patient: Patient, another: OpenCache
) -> None:
    cache = await another(patient.url, read_timeout=READ_TIMEOUT, breaker_threshold=1_000)
    policy, source = policy_of(cache), Source("value")
    await policy.get_or_load("warm-up", source.load)
    patient.server.freeze()
    started = perf_counter()
    for key in range(20):
        await policy.get_or_load(key, source.load)
    assert perf_counter() - started > 20 * READ_TIMEOUT * 0.9
    patient.server.thaw()


@pytest.mark.slow
async def test_after_a_long_outage_it_is_noticed_soon_that_redis_is_back(
    patient: Patient, refused: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, fault = policy_of(refused), WrongPassword()
    await policy.get_or_load("key", Source("value").load)
    probes = noted(monkeypatch, refused._store, "ping")
    await fault.inflict(patient)
    while not breaker_is_open(refused):
        await policy.get_or_load("key", Source("value").load)
    await until(lambda: len(probes) == 5)  # no pause between two of them is longer
    await fault.mend(patient)
    async with Pauses() as pauses:
        assert await pauses.time(until(partial(is_healthy, refused))) < 1 + COMMAND_TIMEOUT + SLACK


async def test_control_without_the_queue_the_old_value_is_back_after_the_outage(
    patient: Patient, ill: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, fault = policy_of(ill), WrongPassword()
    await fill(policy, "old")
    monkeypatch.setattr(ill._recovery, "queue_entries", lambda *_: None)
    await fault.inflict(patient)
    await policy.invalidate("key")
    await fault.mend(patient)
    await until(partial(is_healthy, ill))

    async def is_old() -> bool:  # a read that is given up for being slow is not a proof
        return await policy.get_or_load("key", Source("new").load, tags=["key"]) == "old"

    await until(is_old)

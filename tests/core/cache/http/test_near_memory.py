"""What the near cache says that it takes of the memory, it takes."""

import gc
import os
import tracemalloc
from collections.abc import Callable

import pytest

from app.core.cache.entry_codec import EntryCodec
from app.core.cache.http.headers import Freshness, ResponseRenderer
from app.core.cache.http.response import (
    RESPONSE_FORMAT,
    ResponseCodec,
    StoredResponse,
    stored_response,
)
from app.core.cache.keys import Keyspace
from app.core.cache.near import NearCache
from app.core.cache.options import PolicyOptions
from app.core.cache.results import Outcome, now_ms
from app.core.fastpath.uvicorn import head_of
from app.core.serializers.json import JsonSerializer

BUDGET = 1_000_000
OPTIONS = PolicyOptions(ttl=60, near_ttl=60)
FRESHNESS = Freshness(
    service="svc", public=True, max_age=0, stale_while_revalidate=0, stale_if_error=0
)

DATE = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT")]


def response(size: int) -> StoredResponse:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    return stored_response(200, headers, os.urandom(size // 2).hex().encode())


def text(size: int) -> str:
    return os.urandom(size // 2).hex()


RESPONSES = EntryCodec("item", OPTIONS, ResponseCodec(), RESPONSE_FORMAT)
TEXTS = EntryCodec("item", OPTIONS, JsonSerializer().codec(str), 1)


@pytest.mark.parametrize(("kind", "make"), [(RESPONSES, response), (TEXTS, text)])
@pytest.mark.parametrize("size", [100, 1_000, 20_000])
def test_it_takes_no_more_than_it_was_given(
    kind: EntryCodec, make: Callable[[int], object], size: int
) -> None:
    near, keyspace, renderer = NearCache(BUDGET), Keyspace("svc", 1), ResponseRenderer(FRESHNESS)
    near.switch_on()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2 * BUDGET // (size + 1_000)):
            address = keyspace.entry_keys("item", f"read-{number}", [f"item:{number}"])
            versions, value = [os.urandom(8), os.urandom(8)], make(size)
            entry = kind.new_entry(value, 0.01, b"".join(versions))
            seen = kind.unpack(address, kind.pack(entry, value, address), versions, at=0)
            near.put(kind, address, seen, near.generation(address.value))
            if kind is RESPONSES and (kept := near.get(address.value)) is not None:
                assert kept.entry is not None
                ready = renderer.render(kept.value, Outcome.NEAR, kept.entry, now_ms(), [])
                assert size > 10_000 or head_of(ready, DATE) is not None
        del address, keyspace, versions, value, entry, seen
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert BUDGET / 4 < taken < BUDGET

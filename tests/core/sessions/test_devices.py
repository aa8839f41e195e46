"""Users see their sessions and end them, by a name that is worth nothing to anybody else."""

from datetime import datetime
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from redis.asyncio import Redis

from app.core.sessions import SessionDependency, get_user, store
from tests.core.sessions.conftest import MakeApp, MakeBrowser, RecordAttack
from tests.core.sessions.harness import Browser
from tests.core.sessions.looking import session_keys


def with_devices(app: FastAPI) -> FastAPI:
    @app.get("/devices")
    async def devices(
        session: SessionDependency, user: Annotated[str, Depends(get_user)]
    ) -> list[Any]:
        return [
            [one.handle, one.began_at, one.used_at, one.data, one.is_this]
            for one in await session.list_all()
        ]

    @app.delete("/devices/{handle}")
    async def end(
        handle: str, session: SessionDependency, user: Annotated[str, Depends(get_user)]
    ) -> bool:
        return await session.end(handle)

    return app


async def devices(browser: Browser) -> list[Any]:
    answer = await browser.get("/devices")
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()
    return found


async def end(browser: Browser, handle: str) -> bool:
    answer = await browser.delete(f"/devices/{handle}")
    assert answer.status_code == 200, answer.text
    return bool(answer.json())


async def now(redis: Redis) -> float:
    """Seconds, to the millisecond below, as sessions have them."""
    seconds, micros = await redis.time()
    return seconds + micros // 1000 / 1000


async def test_one_is_ended_at_once_in_every_process(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis
) -> None:
    one, other = with_devices(make_app()), with_devices(make_app())
    phone, laptop, tablet = browser(one), browser(other), browser(one)
    for device in (phone, laptop, tablet):
        await device.log_in("alice")
        await device.put("/data", json={"name": f"device {id(device)}"})
    listed = await devices(phone)
    assert [entry[4] for entry in listed] == [True, False, False]
    assert {entry[3]["name"] for entry in listed} == {
        f"device {id(device)}" for device in (phone, laptop, tablet)
    }
    handle = next(entry[0] for entry in listed if entry[3]["name"] == f"device {id(laptop)}")
    assert await end(phone, handle)
    assert not await end(phone, handle)
    users = [await device.user() for device in (phone, laptop, tablet)]
    assert users == ["alice", None, "alice"]
    assert len(await devices(tablet)) == 2
    # The own one, too.
    this = next(entry[0] for entry in await devices(phone) if entry[4])
    assert await end(phone, this)
    assert await phone.user() is None


@pytest.mark.parametrize("idle", [100, 1000], ids=["idle", "absolute"])
async def test_when_it_began_and_was_used(
    make_app: MakeApp, browser: MakeBrowser, redis: Redis, idle: int
) -> None:
    """Also where the absolute timeout, not the idle one, decides when it ends."""
    app = with_devices(make_app(idle_timeout=idle, absolute_timeout=1000))
    phone, laptop = browser(app), browser(app)
    moments = [await now(redis)]
    await phone.log_in("alice")
    moments.append(await now(redis))
    await laptop.log_in("alice")
    moments.append(await now(redis))
    assert await phone.user() == "alice"
    moments.append(await now(redis))
    this, other = await devices(laptop)
    assert (this[4], other[4]) == (True, False)
    began, used = (datetime.fromisoformat(text).timestamp() for text in other[1:3])
    rounding = 0.002  # the server rounds what is left of a key's time
    assert moments[0] - rounding <= began <= moments[1] + rounding
    assert moments[2] - rounding <= used <= moments[3] + rounding


async def test_a_handle_is_neither_a_cookie_nor_somebody_elses_to_end(
    app: FastAPI,
    browser: MakeBrowser,
    redis: Redis,
    without: pytest.MonkeyPatch,
    record_attack: RecordAttack,
) -> None:
    with_devices(app)
    alice, mallory = browser(), browser()
    await alice.log_in("alice")
    await mallory.log_in("mallory")
    ((handle, *_),) = await devices(alice)
    assert not await end(mallory, handle)
    keys = "".join([key.decode() for key in await session_keys(redis)])
    assert handle not in keys + str(alice.session_id)
    thief = browser()
    thief.session_id = handle
    assert await thief.user() is None
    assert await alice.user() == "alice"
    # The control: if handles were looked for elsewhere than among her own, it would end.
    everybody = store.SessionKeys.user_prefix
    index = store.SessionKeys.index
    without.setattr(store.SessionKeys, "index", lambda keys, user: index(keys, "alice"))
    without.setattr(store.SessionKeys, "user_prefix", lambda keys, user: everybody(keys, "alice"))
    assert await end(mallory, handle)
    record_attack("ending another's session", outcome="no such session", control="it has ended")


async def test_who_rotates_meanwhile_is_ended_all_the_same(
    app: FastAPI, browser: MakeBrowser, redis: Redis, without: pytest.MonkeyPatch
) -> None:
    with_devices(app)
    phone, laptop = browser(), browser()
    for device in (phone, laptop):
        await device.log_in("alice")
    handle = next(entry[0] for entry in await devices(phone) if not entry[4])
    listed = store.SessionStore._listed

    async def listed_before_a_rotation(*arguments: Any) -> Any:
        found = await listed(*arguments)
        without.setattr(store.SessionStore, "_listed", listed)
        laptop.remember((await laptop.post("/rotate")).json())
        return found

    without.setattr(store.SessionStore, "_listed", listed_before_a_rotation)
    assert await end(phone, handle)
    assert await laptop.user() is None


async def test_a_user_has_so_many_at_most(make_app: MakeApp, browser: MakeBrowser) -> None:
    app = with_devices(make_app(max_per_user=3))
    made = [browser(app) for _ in range(5)]
    for device in made:
        await device.log_in("alice")
    assert len(await devices(made[-1])) == 3

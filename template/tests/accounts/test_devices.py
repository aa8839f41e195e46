"""People see where they are logged in, and log out there."""

from tests.accounts.browsers import MakeBrowser, register
from tests.conftest import Client


async def test_somebody_sees_and_ends_their_own_sessions(
    client: Client, browser: MakeBrowser
) -> None:
    name, phone, laptop, tablet = await register(client), browser(), browser(), browser()
    laptop.headers["user-agent"] = "Laptop " + "x" * 5000
    for device in (phone, laptop, tablet):
        await device.log_in(name)
    listed = (await phone.get("/accounts/sessions")).json()
    assert [one["is_this"] for one in listed].count(True) == 1
    (found,) = (one for one in listed if one["user_agent"].startswith("Laptop"))
    assert len(found["user_agent"]) == 200
    assert found["logged_in_at"] <= found["last_seen_at"]
    shown = str(listed)
    assert all(
        value not in shown for device in (phone, laptop) for value in device.cookies.values()
    )

    assert (await phone.delete(f"/accounts/sessions/{found['handle']}")).status_code == 204
    assert [await device.name() for device in (phone, laptop, tablet)] == [name, None, name]
    assert (await phone.delete(f"/accounts/sessions/{found['handle']}")).status_code == 404
    assert (await phone.delete("/accounts/sessions")).status_code == 204
    assert [await device.name() for device in (phone, tablet)] == [name, None]
    assert len((await phone.get("/accounts/sessions")).json()) == 1


async def test_nobody_sees_or_ends_those_of_others(client: Client, browser: MakeBrowser) -> None:
    ann, eve = browser(), browser()
    for device in (ann, eve):
        await device.log_in(await register(client))
    (own,) = (await ann.get("/accounts/sessions")).json()
    path = f"/accounts/sessions/{own['handle']}"
    assert (await eve.delete(path)).status_code == 404
    assert (await browser().delete(path)).status_code == 401
    assert (await browser().get("/accounts/sessions")).status_code == 401
    del ann.headers["x-csrf-token"]
    assert (await ann.delete(path)).status_code == 403
    assert (await ann.get("/accounts/me")).status_code == 200

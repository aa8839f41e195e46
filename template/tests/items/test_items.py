"""Items over HTTP, on the real database and the real cache."""

import asyncio
from uuid import uuid4

import httpx2
import pytest

from tests.conftest import Serve


async def create(
    client: httpx2.AsyncClient, name: str = "lamp", **more: object
) -> dict[str, object]:
    response = await client.post("/items", json={"name": name, **more})
    assert response.status_code == 201, response.text
    item: dict[str, object] = response.json()
    assert response.headers["location"] == f"/items/{item['id']}"
    return item


@pytest.mark.parametrize(("told", "changes"), [("/api", {}), ("", {"root_path": "/api"})])
async def test_behind_a_proxy_with_a_path_prefix(
    serve: Serve, told: str, changes: dict[str, str]
) -> None:
    """The server is told of one that it strips, the service of one that it keeps."""
    async with serve(**changes) as client:
        transport = httpx2.ASGITransport(client.app, root_path=told)
        async with httpx2.AsyncClient(transport=transport, base_url="http://service") as outside:
            created = await outside.post("/api/items", json={"name": "lamp"})
            assert created.headers["location"] == f"/api/items/{created.json()['id']}"
            for _ in range(2):  # a miss and a hit
                assert (await outside.get(created.headers["location"])).json() == created.json()


async def test_an_item_is_created_read_changed_and_deleted(client: httpx2.AsyncClient) -> None:
    item = await create(client, "  lamp ", quantity=3)
    assert item["name"] == "lamp"
    assert item["quantity"] == 3
    path = f"/items/{item['id']}"

    assert (await client.get(path)).json() == item

    changed = await client.put(path, json={"name": "lantern", "version": item["version"]})
    assert changed.status_code == 200
    assert changed.json()["name"] == "lantern"
    assert (await client.get(path)).json() == changed.json()

    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404


async def test_the_second_read_is_a_hit_with_the_same_bytes(client: httpx2.AsyncClient) -> None:
    path = f"/items/{(await create(client))['id']}"
    cold, warm = await client.get(path), await client.get(path)
    assert cold.headers["cache-status"].endswith("fwd=miss")
    assert "hit" in warm.headers["cache-status"]
    assert warm.content == cold.content
    assert warm.headers["etag"] == cold.headers["etag"]


async def test_a_client_that_has_the_item_gets_a_short_answer(client: httpx2.AsyncClient) -> None:
    path = f"/items/{(await create(client))['id']}"
    etag = (await client.get(path)).headers["etag"]
    again = await client.get(path, headers={"if-none-match": etag})
    assert again.status_code == 304
    assert again.content == b""


async def test_every_change_is_seen_by_the_next_read(client: httpx2.AsyncClient) -> None:
    item = await create(client)
    path = f"/items/{item['id']}"
    for number in range(5):
        await client.get(path)
        change = {"name": f"lamp {number}", "version": number + 1}
        assert (await client.put(path, json=change)).status_code == 200
        assert (await client.get(path)).json()["name"] == f"lamp {number}"


async def test_that_there_is_none_is_cached_until_there_is_one(client: httpx2.AsyncClient) -> None:
    path = f"/items/{uuid4()}"
    assert (await client.get(path)).status_code == 404
    assert (await client.get(path)).json()["detail"] == "no such item"


async def test_a_change_based_on_an_old_version_is_refused(client: httpx2.AsyncClient) -> None:
    item = await create(client)
    path = f"/items/{item['id']}"
    assert (await client.put(path, json={"name": "first", "version": 1})).status_code == 200
    second = await client.put(path, json={"name": "second", "version": 1})
    assert second.status_code == 409
    assert "version 2" in second.json()["detail"]
    assert (await client.get(path)).json()["name"] == "first"


async def test_of_many_changes_at_once_each_is_made_or_refused(client: httpx2.AsyncClient) -> None:
    item = await create(client)
    path = f"/items/{item['id']}"

    async def change(number: int) -> int:
        made = 0
        while made < 3:
            version = (await client.get(path)).json()["version"]
            response = await client.put(path, json={"name": f"{number}", "version": version})
            assert response.status_code in (200, 409), response.text
            made += response.status_code == 200
        return made

    made = sum(await asyncio.gather(*(change(number) for number in range(4))))
    assert (await client.get(path)).json()["version"] == 1 + made


async def test_changing_what_is_not_there_is_not_found(client: httpx2.AsyncClient) -> None:
    response = await client.put(f"/items/{uuid4()}", json={"name": "x", "version": 1})
    assert response.status_code == 404


async def test_names_of_several_items_and_how_many_there_are(client: httpx2.AsyncClient) -> None:
    before = (await client.get("/stock")).json()
    lamp, shade = await create(client, "lamp", quantity=2), await create(client, "shade")
    asked: dict[str, list[str]] = {"id": [str(lamp["id"]), str(shade["id"]), str(uuid4())]}
    for _ in range(2):  # loaded, and from the cache
        names = (await client.get("/item-names", params=asked)).json()
        assert names == {lamp["id"]: "lamp", shade["id"]: "shade"}
    after = (await client.get("/stock")).json()
    assert after["items"] >= before["items"] + 2  # others may add some, too
    assert after["quantity"] >= before["quantity"] + 2

    await client.put(f"/items/{lamp['id']}", json={"name": "lantern", "version": 1})
    await client.delete(f"/items/{shade['id']}")
    names = (await client.get("/item-names", params=asked)).json()
    assert names == {lamp["id"]: "lantern"}
    assert (await client.get("/item-names")).status_code == 422


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 201},
        {"name": " \n"},
        {"name": "\x00"},
        {"name": "x", "quantity": -1},
        {"name": "x", "quantity": True},
        {"name": "x", "quantity": "1"},
        {"name": "x", "quantity": 1.5},
        {"name": "x", "quantity": 2**40},
        {"quantity": 1},
        {},
    ],
)
async def test_a_wrong_item_is_refused(
    client: httpx2.AsyncClient, wrong: dict[str, object]
) -> None:
    assert (await client.post("/items", json=wrong)).status_code == 422


@pytest.mark.parametrize("version", [0, 2**31, 2**70, True, "1", "x"])
async def test_a_version_that_cannot_be_is_refused(
    client: httpx2.AsyncClient, version: object
) -> None:
    item = await create(client)
    change = {"name": "new", "version": version}
    assert (await client.put(f"/items/{item['id']}", json=change)).status_code == 422


async def test_the_document_has_the_limits(client: httpx2.AsyncClient) -> None:
    """What refuses look-alikes of integers may hide them."""
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    quantity = schemas["ItemCreate"]["properties"]["quantity"]
    version = schemas["ItemUpdate"]["properties"]["version"]
    assert (quantity["type"], quantity["minimum"], quantity["maximum"]) == ("integer", 0, 10**6)
    assert (version["type"], version["minimum"], version["maximum"]) == ("integer", 1, 2**31 - 1)
    whole = {"name": "x", "quantity": 3.0}  # which is an integer in JSON Schema
    assert (await client.post("/items", json=whole)).json()["quantity"] == 3


async def test_names_may_be_in_any_script(client: httpx2.AsyncClient) -> None:
    for name in ("Ünïcödé 🛋️", "'; DROP TABLE items; --", "نور", "${X} {{ x }}"):
        item = await create(client, name)
        assert (await client.get(f"/items/{item['id']}")).json()["name"] == name


async def read_all(client: httpx2.AsyncClient, *, between_pages: object = None) -> list[str]:
    names, cursor = [], None
    while True:
        parameters = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/items", params=parameters)).json()
        names += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return names
        if callable(between_pages):
            await between_pages()


async def test_without_the_database_requests_are_told_to_come_back(
    serve: Serve, no_database: dict[str, object]
) -> None:
    async with serve(**no_database) as client:
        for response in (
            await client.get("/items"),
            await client.get(f"/items/{uuid4()}"),
            await client.post("/items", json={"name": "lamp"}),
            await client.put(f"/items/{uuid4()}", json={"name": "lamp", "version": 1}),
            await client.delete(f"/items/{uuid4()}"),
        ):
            assert response.status_code == 503, response.text
            assert "retry-after" in response.headers


async def test_pages_neither_repeat_nor_skip_while_items_come_and_go(
    client: httpx2.AsyncClient,
) -> None:
    lasting = {str((await create(client, f"lasting {n}"))["id"]) for n in range(10)}
    passing = [str((await create(client, f"passing {n}"))["id"]) for n in range(5)]

    async def change_something() -> None:
        await create(client, "new")
        if passing:
            await client.delete(f"/items/{passing.pop()}")

    seen = await read_all(client, between_pages=change_something)
    assert len(seen) == len(set(seen))
    assert lasting <= set(seen)


async def test_a_new_item_shows_on_a_page_that_was_cached(client: httpx2.AsyncClient) -> None:
    before = await read_all(client)
    item = await create(client)
    assert item["id"] in set(await read_all(client)) - set(before)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "cursor=x"])
async def test_a_wrong_page_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    assert (await client.get(f"/items?{query}")).status_code == 422

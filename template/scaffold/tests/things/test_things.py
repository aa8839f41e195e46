"""Things over HTTP, on the real database and the real cache."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

PATH = "/things"


async def create(client: httpx2.AsyncClient, name: str = "first") -> dict[str, Any]:
    response = await client.post(PATH, json={"name": name})
    assert response.status_code == 201, response.text
    thing: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{PATH}/{thing['id']}"
    return thing


async def test_it_is_created_read_changed_and_deleted(client: httpx2.AsyncClient) -> None:
    thing = await create(client, "  first ")
    assert thing["name"] == "first"
    path = f"{PATH}/{thing['id']}"
    for _ in range(2):  # a miss and a hit
        read = await client.get(path)
        assert read.json() == thing
    assert "hit" in read.headers["cache-status"]

    changed = await client.put(path, json={"name": "second", "version": thing["version"]})
    assert changed.json()["name"] == "second"
    assert (await client.get(path)).json() == changed.json()

    assert (await client.delete(path)).status_code == 204
    assert (await client.get(path)).status_code == 404
    assert (await client.delete(path)).status_code == 404


async def test_of_two_changes_of_one_version_one_is_refused(client: httpx2.AsyncClient) -> None:
    path = f"{PATH}/{(await create(client))['id']}"
    answers = await asyncio.gather(
        *(client.put(path, json={"name": name, "version": 1}) for name in ("one", "other"))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]


async def test_pages_show_every_change(client: httpx2.AsyncClient) -> None:
    ids = {(await create(client))["id"] for _ in range(3)}
    seen: set[str] = set()
    cursor = None
    while True:
        parameters = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(PATH, params=parameters)).json()
        seen |= {thing["id"] for thing in page["things"]}
        if (cursor := page["next_cursor"]) is None:
            break
    assert ids <= seen


@pytest.mark.parametrize("wrong", [{}, {"name": " "}, {"name": "x" * 201}, {"name": "\0"}])
async def test_what_is_no_name_is_refused(
    client: httpx2.AsyncClient, wrong: dict[str, str]
) -> None:
    assert (await client.post(PATH, json=wrong)).status_code == 422


async def test_what_is_not_there_cannot_be_changed(client: httpx2.AsyncClient) -> None:
    response = await client.put(f"{PATH}/{uuid4()}", json={"name": "x", "version": 1})
    assert response.status_code == 404

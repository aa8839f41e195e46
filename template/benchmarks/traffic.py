"""What this service is asked when it is measured. Yours, as its routes are: change it with them."""

import httpx2

HEADERS: dict[str, str] = {}
"""Sent with every request, for routes that want to know who asks."""


async def paths(client: httpx2.AsyncClient) -> dict[str, list[str]]:
    """Put data into an empty database, and say what to ask for.

    Returns the paths to request by cached route, each for an entry of its own: fifty or more. A
    cached route that is left out is not measured, and the output says so.
    """
    found: dict[str, list[str]] = {}
    if ids := await create(client, "/items", 100):
        found["/items/{item_id}"] = [f"/items/{each}" for each in ids]
        found["/items"] = [f"/items?limit={limit}" for limit in range(1, 101)]
    # Paths of other features: add yours here.

    return found


async def create(client: httpx2.AsyncClient, path: str, count: int) -> list[str]:
    """Return the ids of what is created there; none where there is no such feature."""
    ids = []
    for number in range(count):
        created = await client.post(path, json={"name": f"number {number}"})
        if created.status_code == 404:
            return []
        ids.append(created.raise_for_status().json()["id"])
    return ids

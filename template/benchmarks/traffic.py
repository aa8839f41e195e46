"""What this service is asked when it is measured. Yours, as its routes are: change it with them."""

import httpx2

HEADERS: dict[str, str] = {}
"""Sent with every request, for routes that want to know who asks."""


async def paths(client: httpx2.AsyncClient) -> dict[str, list[str]]:
    """Put data into an empty database, and say what to ask for.

    Returns the paths to request by cached route, each for an entry of its own: fifty or more. A
    cached route that is left out is not measured, and the output says so.
    """
    ids = []
    for number in range(100):
        created = await client.post("/items", json={"name": f"item {number}", "quantity": number})
        if created.status_code == 404:  # without the example
            return {}
        created.raise_for_status()
        ids.append(created.json()["id"])
    return {
        "/items/{item_id}": [f"/items/{item_id}" for item_id in ids],
        "/items": [f"/items?limit={limit}" for limit in range(1, 101)],
    }

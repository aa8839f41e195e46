"""A FastAPI route that returns bytes it has at hand: what a route costs without any cache."""

from fastapi import FastAPI, Response
from work import load

app = FastAPI()
_bodies: dict[str, bytes] = {}


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Response:
    if item_id not in _bodies:
        _bodies[item_id] = (await load(item_id)).model_dump_json().encode()
    return Response(_bodies[item_id], media_type="application/json")

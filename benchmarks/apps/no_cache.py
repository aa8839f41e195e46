"""A FastAPI route that computes every answer."""

from fastapi import FastAPI
from work import Item, load

app = FastAPI()


@app.get("/items/{item_id}")
async def read_item(item_id: str) -> Item:
    return await load(item_id)

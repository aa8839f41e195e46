"""Filters, pages, and lists that are cached until a book comes."""

from uuid import uuid4

from app.books.routes import install_books
from tests.conftest import Client, Serve


async def titles(client: Client, **filters: object) -> list[str]:
    answer = await client.get("/books", params={name: str(it) for name, it in filters.items()})
    return [book["title"] for book in answer.json()]


async def test_lists_have_filters_and_pages(serve: Serve) -> None:
    ann, bob = f"ann {uuid4()}", f"bob {uuid4()}"
    async with serve(install_books) as client:
        for author, title in ((ann, "Lamps"), (bob, "Rugs"), (ann, "100% wool"), (ann, "lamp 2")):
            await client.post("/books", params={"author": author, "title": title})
        assert await titles(client, author=ann) == ["Lamps", "100% wool", "lamp 2"]
        assert await titles(client, author=ann, search="LAMP") == ["Lamps", "lamp 2"]
        assert await titles(client, author=ann, search="%") == ["100% wool"]
        page = (await client.get("/books", params={"author": ann, "limit": 2})).json()
        assert await titles(client, author=ann, after=page[-1]["id"]) == ["lamp 2"]


async def test_a_list_is_a_hit_until_a_book_comes(serve: Serve) -> None:
    ann = f"ann {uuid4()}"
    async with serve(install_books) as client:
        assert await titles(client, author=ann) == []
        again = await client.get("/books", params={"author": ann})
        assert "hit" in again.headers["cache-status"]
        await client.post("/books", params={"author": ann, "title": "Lamps"})
        assert await titles(client, author=ann) == ["Lamps"]

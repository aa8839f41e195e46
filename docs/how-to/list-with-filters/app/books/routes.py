"""Books over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.books.books import Book, Books
from app.core.cache import Cache
from app.core.service import Service
from app.database.engine import Database


def is_made_up(search: str | None, after: int | None) -> bool:
    """Whether anybody could have made up this list."""
    return search is not None or after is not None


def install_books(service: Service) -> None:
    """Serve books."""
    cache, books = service.find(Cache), Books(service.find(Database))
    policy = cache.policy("books", list[Book], ttl=30)
    router = APIRouter(prefix="/books")

    @router.get("")
    @policy.http(public=True, tags=["books"], second_ask=is_made_up)
    async def list_books(
        author: str | None = None,
        search: Annotated[str | None, Query(max_length=50)] = None,
        after: int | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> list[Book]:
        return await books.list(author, search, after, limit)

    @router.post("")
    async def add_book(author: str, title: str) -> int:
        added = await books.add(author, title)
        await cache.invalidate_tags("books")
        return added

    service.include(router)

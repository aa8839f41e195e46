"""Authors, read by their numbers."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from app.core.cache import Cache
from app.core.service import Service


class Author(BaseModel):
    id: int
    name: str


class Authors:
    """Reads several authors with one query."""

    def __init__(self, cache: Cache) -> None:
        self._policy = cache.policy("author", Author, ttl=300)
        self.queries: list[list[int]] = []

    async def read(self, ids: Sequence[int]) -> dict[int, Author | None]:
        async def load_authors(missing: Sequence[int]) -> dict[int, Author]:
            self.queries.append(list(missing))  # SELECT ... WHERE id IN (...)
            return {each: Author(id=each, name=f"author {each}") for each in missing if each < 10}

        return await self._policy.get_or_load_many(ids, load_authors)


def install_authors(service: Service) -> Authors:
    """Serve authors."""
    authors = Authors(service.find(Cache))
    router = APIRouter()

    @router.get("/authors")
    async def read_authors(ids: Annotated[list[int], Query()]) -> list[Author | None]:
        found = await authors.read(ids)
        return [found[each] for each in ids]

    service.include(router)
    return authors

"""Only what is missing is asked for, all of it at once."""

from app.authors.install import Authors, install_authors
from app.core.service import Service
from tests.conftest import Serve


async def test_one_query_loads_what_is_missing(serve: Serve) -> None:
    made: list[Authors] = []

    def install(service: Service) -> None:
        made.append(install_authors(service))

    async with serve(install) as client:
        await client.get("/authors?ids=1&ids=2")
        answer = await client.get("/authors?ids=1&ids=2&ids=3&ids=99")
        assert [each and each["name"] for each in answer.json()] == [
            "author 1",
            "author 2",
            "author 3",
            None,
        ]
        assert made[0].queries == [[1, 2], [3, 99]]

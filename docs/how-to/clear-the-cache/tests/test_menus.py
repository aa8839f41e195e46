"""Clearing a policy, and a new epoch, leave all entries behind."""

from app.menus.install import install_menus
from tests.conftest import Client, Serve

DAYS = [f"/menus/{day}" for day in ("mon", "tue")]


async def hits(client: Client) -> int:
    answers = [await client.get(day) for day in DAYS]
    return sum("hit" in answer.headers["cache-status"] for answer in answers)


async def test_all_entries_are_forgotten_at_once(serve: Serve) -> None:
    async with serve(install_menus) as client:
        assert [await hits(client) for _ in range(2)] == [0, 2]
        await client.delete("/menus/cached")
        assert [await hits(client) for _ in range(2)] == [0, 2]


async def test_old_and_new_processes_of_a_deploy_have_entries_of_their_own(serve: Serve) -> None:
    async with serve(install_menus) as old, serve(install_menus, cache_epoch=2) as new:
        assert [await hits(old) for _ in range(2)] == [0, 2]
        assert [await hits(new) for _ in range(2)] == [0, 2]
        assert await hits(old) == 2

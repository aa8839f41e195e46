"""Reads that the process answers itself are counted as such."""

from app.flags.install import install_flags
from devservers.waiting import until
from tests.conftest import Client, Serve

NEAR = 'cache_reads_total{outcome="near",policy="flag"}'


async def near_reads(client: Client) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(NEAR))


async def test_the_process_answers_from_its_memory(serve: Serve) -> None:
    async with serve(install_flags, near_cache_bytes=1_000_000) as client:
        before = await near_reads(client)

        async def is_near() -> bool:
            assert (await client.get("/flags/dark")).json() is True
            return await near_reads(client) > before

        await until(is_near)

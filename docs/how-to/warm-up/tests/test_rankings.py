"""The first one who asks gets a hit."""

from app.core.service import Service
from app.rankings.install import install_rankings
from devservers.waiting import until
from tests.conftest import Serve


async def test_rankings_are_computed_before_somebody_asks(serve: Serve) -> None:
    computed: list[list[str]] = []

    def install(service: Service) -> None:
        computed.append(install_rankings(service))

    async with serve(install, cache_warm_up=True) as client:
        await until(lambda: sorted(computed[0]) == ["chess", "go"])
        assert (await client.get("/rankings/go")).json() == ["Ada", "Grace"]
        assert sorted(computed[0]) == ["chess", "go"]

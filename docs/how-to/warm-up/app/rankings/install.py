"""Rankings, of which a few are asked for most."""

from collections.abc import AsyncIterator

from fastapi import APIRouter

from app.core.cache import Cache, HotCall
from app.core.service import Service


def install_rankings(service: Service) -> list[str]:
    """Serve rankings; returns which were computed."""
    cache = service.find(Cache)
    policy = cache.policy("ranking", list[str], ttl=86_400)
    router = APIRouter()
    computed: list[str] = []

    @router.get("/rankings/{sport}")
    @policy.http(public=True)
    async def ranking(sport: str) -> list[str]:
        computed.append(sport)
        return ["Ada", "Grace"]

    async def hottest() -> AsyncIterator[HotCall]:
        for sport in ("chess", "go"):
            yield ranking, {"sport": sport}

    cache.keep_warm("rankings", hottest)
    service.include(router)
    return computed

"""The weather, from a source that is sometimes away."""

from fastapi import APIRouter

from app.core.cache import Cache
from app.core.service import Service


class Source:
    """What may be away."""

    def __init__(self) -> None:
        self.weather: str | None = "sunny"

    async def read(self) -> str:
        if self.weather is None:
            raise ConnectionError("the source is away")
        return self.weather


def install_weather(service: Service, source: Source, *, ttl: float = 60) -> None:
    """Serve the weather: an old one is better than none."""
    policy = service.find(Cache).policy(
        "weather", str, ttl=ttl, stale_while_revalidate=30, stale_if_error=3600
    )
    router = APIRouter()

    @router.get("/weather")
    @policy.http(public=True)
    async def read_weather() -> str:
        return await source.read()

    service.include(router)

"""Quotes, of which everybody gets so many a minute."""

from fastapi import APIRouter, Depends

from app.core.cache import Cache
from app.core.service import Service
from app.limiting.rate import RateLimit


def install_quotes(service: Service, redis_url: str) -> None:
    """Serve quotes."""
    policy = service.find(Cache).policy("quote", str, ttl=60)
    router = APIRouter()
    limit = RateLimit(redis_url, f"{service.name}:data:quotes", "5/hour")

    @router.get("/quotes/{number}", dependencies=[Depends(limit)])
    @policy.http(public=True)
    async def read_quote(number: int) -> str:
        return f"quote {number}"

    service.include(router)

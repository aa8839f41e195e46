"""Rates: cached, and old ones while the other service is away."""

from urllib.parse import quote

from fastapi import APIRouter, HTTPException

from app.core.cache import Cache
from app.core.service import Service
from app.upstreams.upstream import Upstream


def install_rates(service: Service, bank: Upstream, *, ttl: float = 60) -> None:
    """Serve rates of exchange, as `bank` knows them."""
    service.open(bank)
    policy = service.find(Cache).policy("exchange-rate", float, ttl=ttl, stale_if_error=86_400)
    router = APIRouter()

    @router.get("/exchange-rates/{currency}")
    @policy.http(public=True)
    async def exchange_rate(currency: str) -> float:
        status, found = await bank.request("GET", f"/rates/{quote(currency, safe='')}")
        if status != 200:
            raise HTTPException(404, "no such currency")
        return float(found["rate"])

    service.include(router)

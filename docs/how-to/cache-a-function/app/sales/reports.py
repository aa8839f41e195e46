"""Sales of a month, computed from many rows."""

from pydantic import BaseModel

from app.core.cache import Cache
from app.core.service import Service


class Sales(BaseModel):
    month: str
    total: int


class SalesReports:
    """Computes sales, each month once in ten minutes for all processes together."""

    def __init__(self, cache: Cache) -> None:
        policy = cache.policy("sales", Sales, ttl=600, stale_if_error=3600)
        self.computed = 0

        @policy.cached(tags=["sales"])
        async def of_month(month: str) -> Sales:
            self.computed += 1
            return Sales(month=month, total=100)  # the slow query

        self.of_month = of_month


def install_sales(service: Service) -> SalesReports:
    """Make the reports of a service."""
    return SalesReports(service.find(Cache))

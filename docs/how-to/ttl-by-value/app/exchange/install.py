"""Exchange rates: estimates are not kept, final ones as long as they are valid."""

from pydantic import BaseModel

from app.core.cache import Cache, Kept, do_not_keep, keep
from app.core.service import Service


class Rate(BaseModel):
    value: float
    is_estimate: bool = False
    valid_for: float = 3600


class Rates:
    """Reads rates, from the cache where it may."""

    def __init__(self, cache: Cache) -> None:
        policy = cache.policy("rate", Rate, ttl=60)
        self.bank = {"EUR": Rate(value=1.1), "XYZ": Rate(value=2.0, is_estimate=True)}
        self.asked: list[str] = []

        @policy.cached()
        async def read(currency: str) -> Kept[Rate]:
            self.asked.append(currency)
            rate = self.bank[currency]
            if rate.is_estimate:
                return do_not_keep(rate)
            return keep(rate, ttl=rate.valid_for)

        self.read = read


def make_rates(service: Service) -> Rates:
    """Make the rates of a service."""
    return Rates(service.find(Cache))

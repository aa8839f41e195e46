"""Only what may be kept is kept."""

from app.core.cache import Cache
from app.exchange.install import Rates
from tests.conftest import Client


async def test_an_estimate_is_not_kept(client: Client) -> None:
    cache: Cache = client.app.state.cache
    rates = Rates(cache)
    for _ in range(2):
        assert (await rates.read("EUR")).value == 1.1
        assert (await rates.read("XYZ")).value == 2.0
    assert rates.asked == ["EUR", "XYZ", "XYZ"]

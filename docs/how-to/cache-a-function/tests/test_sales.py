"""A cached function is called once for each month."""

from app.core.cache import Cache
from app.core.service import Service
from app.sales.reports import Sales, SalesReports, install_sales
from tests.conftest import Serve


async def test_a_month_is_computed_once(serve: Serve) -> None:
    made: list[SalesReports] = []

    def install(service: Service) -> None:
        made.append(install_sales(service))

    async with serve(install) as client:
        [reports] = made
        cache: Cache = client.app.state.cache
        assert await reports.of_month("2026-11") == Sales(month="2026-11", total=100)
        await reports.of_month("2026-11")
        assert reports.computed == 1
        await reports.of_month.invalidate("2026-11")  # this month
        await reports.of_month("2026-11")
        assert reports.computed == 2
        await cache.invalidate_tags("sales")  # all months
        await reports.of_month("2026-11")
        assert reports.computed == 3

"""Every Redis client of the service has a role, or it does not start."""

import pytest

from app.core.access import PolicyError
from app.core.redis import RedisClient
from app.core.service import Service
from tests.conftest import Serve


async def test_a_client_without_a_role_stops_the_start(serve: Serve) -> None:
    def install_billing(service: Service) -> None:
        service.redis("billing")

    with pytest.raises(PolicyError, match=r"no role 'billing' .*make access"):
        async with serve(install_billing):
            pass


async def test_a_client_for_a_role_of_the_policy_logs_in(serve: Serve) -> None:
    clients: list[RedisClient] = []

    def install_reader(service: Service) -> None:
        clients.append(service.redis("documents-reader", pool_size=1))

    async with serve(install_reader):
        assert await clients[0].ping()

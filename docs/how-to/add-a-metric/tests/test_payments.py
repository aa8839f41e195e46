"""A payment is counted and logged, and the check is on the health page."""

import pytest

from app.payments.install import install_payments
from tests.conftest import Serve


async def test_it_is_counted_logged_and_checked(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(install_payments, log_level="INFO", log_format="json") as client:
        await client.post("/payments?cents=5")
        assert 'payments_total{outcome="accepted"} 1.0' in (await client.get("/metrics")).text
        assert "payments" in (await client.get("/health/ready")).json()["checks"]
    assert '"event": "payments.accepted"' in capsys.readouterr().out

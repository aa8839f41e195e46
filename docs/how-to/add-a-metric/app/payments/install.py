"""Payments, counted, logged and checked."""

import structlog
from fastapi import APIRouter
from prometheus_client import Counter

from app.core.service import Service

log = structlog.get_logger(__name__)
payments = Counter("payments", "Payments by how they ended.", ["outcome"])


def install_payments(service: Service) -> None:
    """Take payments."""
    router = APIRouter()

    async def ask_the_bank() -> None:
        """Raise if it does not answer."""

    @router.post("/payments", status_code=204)
    async def pay(cents: int) -> None:
        payments.labels("accepted").inc()
        log.info("payments.accepted", cents=cents)

    service.include(router)
    service.check("payments", ask_the_bank)

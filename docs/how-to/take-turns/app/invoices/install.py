"""Invoices: two requests never write the same one at once."""

import asyncio

from fastapi import APIRouter, HTTPException

from app.core.locks import LocksDependency, LockTimeout, LockUnavailable
from app.core.service import Service


def install_invoices(service: Service) -> list[str]:
    """Serve invoices; returns what happened, in order."""
    router = APIRouter()
    happened: list[str] = []

    async def write(number: int, *, fence: int) -> None:
        happened.append(f"begin {fence}")
        await asyncio.sleep(0)  # the database: WHERE fence <= :fence
        happened.append(f"end {fence}")

    @router.post("/invoices/{number}/send", status_code=204)
    async def send_invoice(number: int, locks: LocksDependency) -> None:
        try:
            async with locks.hold(f"invoice:{number}", ttl=10, timeout=5) as lease:
                await write(number, fence=lease.fence)
        except LockUnavailable:
            raise
        except LockTimeout:
            raise HTTPException(409, "the invoice is being sent") from None

    service.include(router)
    return happened

"""The service's locks, handed to a route per request.

@router.post("/invoices/{invoice_id}/pay")
async def pay(invoice_id: int, locks: LocksDependency) -> None:
    async with locks.hold(f"invoice:{invoice_id}") as lease:
        await repository.mark_paid(invoice_id, fence=lease.fence)
"""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.locks.locks import Locks


def get_locks(connection: HTTPConnection) -> Locks:
    locks: Locks = connection.app.state.locks
    return locks


LocksDependency = Annotated[Locks, Depends(get_locks)]

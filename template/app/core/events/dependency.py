"""The service's events, handed to a route per request.

@router.post("/invoices/{invoice_id}/pay")
async def pay(invoice_id: int, events: EventsDependency) -> None:
    await repository.mark_paid(invoice_id)
    await events.publish(InvoicePaid(invoice_id=invoice_id))
"""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from app.core.events.events import Events


def get_events(connection: HTTPConnection) -> Events:
    """Return the events of the application that answers."""
    events: Events = connection.app.state.events
    return events


EventsDependency = Annotated[Events, Depends(get_events)]

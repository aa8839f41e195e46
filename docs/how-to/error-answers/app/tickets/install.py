"""Tickets, of which there are only so many."""

from typing import Any

from fastapi import APIRouter, HTTPException

from app.core.problems import problem
from app.core.service import Service

SOLD_OUT = "https://tickets.example/problems/sold-out"
ANSWERS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such concert"},
    409: {"description": f"Sold out ({SOLD_OUT}), with how many are `left`"},
}


def install_tickets(service: Service) -> None:
    """Sell tickets."""
    router = APIRouter()
    left = {"monday": 3}

    @router.post("/concerts/{concert}/tickets", status_code=201, responses=ANSWERS)
    async def buy(concert: str, number: int) -> None:
        if (there := left.get(concert)) is None:
            raise HTTPException(404, "no such concert")
        if number > there:
            raise problem(409, "too few are left", type=SOLD_OUT, title="Sold out", left=there)
        left[concert] = there - number

    service.include(router)

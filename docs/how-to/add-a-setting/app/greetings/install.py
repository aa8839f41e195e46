"""Greetings."""

from fastapi import APIRouter

from app.core.service import Service


def install_greetings(service: Service, greeting: str) -> None:
    """Serve a greeting."""
    router = APIRouter()

    @router.get("/greeting")
    async def greet() -> str:
        return greeting

    service.include(router)

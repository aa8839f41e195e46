"""A mail for everybody who signs up, sent after the answer."""

from fastapi import APIRouter, BackgroundTasks

from app.core.service import Service


def install_mails(service: Service) -> list[str]:
    """Serve the sign-up; returns the addresses to which a mail was sent."""
    router = APIRouter()
    sent: list[str] = []

    async def send_mail(address: str) -> None:
        sent.append(address)

    @router.post("/sign-up")
    async def sign_up(address: str, after: BackgroundTasks) -> str:
        after.add_task(send_mail, address)
        return "welcome"

    service.include(router)
    return sent

"""Feedback of people who are logged in, by way of a page."""

from html import escape
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from app.core.service import Service
from app.core.sessions import Session, SessionDependency, UserDependency

PAGE_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
FORM = """<!doctype html>
<title>Feedback</title>
<p>{message}</p>
<form method="post">
  <input type="hidden" name="csrf_token" value="{token}">
  <textarea name="text" required maxlength="1000">{text}</textarea>
  <button>Send</button>
</form>
"""


def show(session: Session, message: str, text: str = "", status: int = 200) -> HTMLResponse:
    """Make the page."""
    page = FORM.format(message=escape(message), token=session.csrf_token, text=escape(text))
    return HTMLResponse(page, status, {"content-security-policy": PAGE_POLICY})


def install_feedback(service: Service) -> None:
    """Serve the page."""
    router = APIRouter(include_in_schema=False)
    given: dict[str, str] = {}

    @router.get("/feedback", response_model=None)
    async def ask(user: UserDependency, session: SessionDependency) -> HTMLResponse:
        return show(session, f"You wrote: {given[user]}" if user in given else "What do you think?")

    @router.post("/feedback", response_model=None)
    async def take(
        user: UserDependency, session: SessionDependency, text: Annotated[str, Form()] = ""
    ) -> HTMLResponse | RedirectResponse:
        if not text.strip() or len(text) > 1000:
            return show(session, "Between 1 and 1000 characters, please.", text, 422)
        given[user] = text
        return RedirectResponse("/feedback", 303)

    service.include(router)

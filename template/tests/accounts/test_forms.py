"""Pages with forms: a route declares its fields, and the session's token is one of the form's."""

from typing import Annotated, Any

import pytest
from fastapi import Form, UploadFile
from pydantic import BaseModel

from app.core.sessions import UserDependency
from tests.accounts.browsers import Browser, MakeBrowser, register
from tests.conftest import Client


class Address(BaseModel):
    street: str
    number: int


async def move(user: UserDependency, address: Annotated[Address, Form()]) -> list[str | int]:
    return [address.street, address.number]


async def show(user: UserDependency, title: Annotated[str, Form()], file: UploadFile) -> list[str]:
    return [title, (await file.read()).decode()]


FORMS: list[tuple[str, dict[str, Any], dict[str, Any], object]] = [
    ("/move", {"street": "Höhe", "number": "7"}, {}, ["Höhe", 7]),
    ("/move", {"street": "Höhe", "number": "7"}, {"files": {"none": b""}}, ["Höhe", 7]),
    ("/show", {"title": "A"}, {"files": {"file": ("a.txt", b"text")}}, ["A", "text"]),
]


@pytest.fixture
async def alice(client: Client, browser: MakeBrowser) -> Browser:
    client.app.post("/move")(move)
    client.app.post("/show")(show)
    device = browser()
    await device.log_in(await register(client))
    return device


@pytest.mark.parametrize(("path", "fields", "more", "answer"), FORMS)
async def test_a_route_has_the_fields_of_a_form_that_brings_the_token(
    alice: Browser, path: str, fields: dict[str, Any], more: dict[str, Any], answer: object
) -> None:
    token = alice.headers.pop("x-csrf-token")
    sent = await alice.post(path, data={**fields, "csrf_token": token}, **more)
    assert (sent.status_code, sent.json()) == (200, answer)
    forged = await alice.post(path, data={**fields, "csrf_token": "another"}, **more)
    assert forged.status_code == 403


async def test_a_wrong_field_is_told_by_its_name(alice: Browser) -> None:
    token = alice.headers.pop("x-csrf-token")
    fields = {"street": "x", "number": "many", "csrf_token": token}
    answer = await alice.post("/move", data=fields)
    assert answer.status_code == 422
    (mistake,) = answer.json()["errors"]
    assert (mistake["in"], mistake["pointer"]) == ("body", "#/number")

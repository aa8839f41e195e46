"""A program knows by the type what is wrong, and how many there are."""

from app.tickets.install import SOLD_OUT, install_tickets
from tests.conftest import Serve


async def test_a_problem_has_a_type_and_members(serve: Serve) -> None:
    async with serve(install_tickets) as client:
        assert (await client.post("/concerts/monday/tickets?number=2")).status_code == 201
        answer = await client.post("/concerts/monday/tickets?number=2")
        unknown = await client.post("/concerts/tuesday/tickets?number=2")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": SOLD_OUT,
        "title": "Sold out",
        "status": 409,
        "detail": "too few are left",
        "left": 1,
    }
    assert unknown.json() == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "no such concert",
    }

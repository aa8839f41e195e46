"""The example of access control: Redis says who may do what, and every denial is written down."""

import time

import pytest
from redis.exceptions import ResponseError

from app.core.access import RoleRedis
from app.core.redis import RedisDependency
from devservers.waiting import until
from tests.access.conftest import Bearer
from tests.conftest import Client, Serve

TEXT = {"text": "all is well"}


async def test_writers_write_and_readers_read(client: Client, bearer: Bearer) -> None:
    writer, reader = bearer("ann", "documents-writers"), bearer("bob", "documents-readers")
    written = await client.put("/documents/weekly", json=TEXT, headers=writer)
    assert written.json() == TEXT | {"author": "ann"}
    assert (await client.get("/documents", headers=reader)).json() == ["weekly"]
    assert (await client.get("/documents/weekly", headers=reader)).json() == written.json()
    assert (await client.get("/documents/other", headers=reader)).status_code == 404
    assert (await client.delete("/documents/weekly", headers=writer)).status_code == 204


async def test_a_reader_cannot_write(client: Client, bearer: Bearer) -> None:
    writer, reader = bearer("ann", "documents-writers"), bearer("bob", "documents-readers")
    await client.put("/documents/weekly", json=TEXT, headers=writer)
    for answer in (
        await client.put("/documents/weekly", json={"text": "changed"}, headers=reader),
        await client.delete("/documents/weekly", headers=reader),
    ):
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "you may not do this"
    assert (await client.get("/documents/weekly", headers=reader)).json()["text"] == TEXT["text"]


async def test_who_has_no_role_is_denied_and_who_has_no_token_is_asked_for_one(
    client: Client, bearer: Bearer
) -> None:
    assert (await client.get("/documents", headers=bearer("eve", "guests"))).status_code == 403
    for headers in (
        {},
        {"authorization": "Basic YW5uOmFubg=="},
        {"authorization": "Bearer nonsense"},
        bearer("ann", "documents-writers", exp=int(time.time()) - 600),
        bearer("ann", "documents-writers", aud="another"),
    ):
        answer = await client.get("/documents", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
    twice = [*bearer("ann", "documents-writers").items()] * 2
    assert (await client.get("/documents", headers=twice)).status_code == 401


async def test_no_code_of_a_route_gets_around_the_rules(client: Client, bearer: Bearer) -> None:
    """Keys of other parts of the service, by commands, by Lua and in a pipeline."""
    service = client.app.title

    async def route(what: str, redis: RoleRedis, own: RedisDependency) -> str:
        await own.set(f"{service}:data:secret", "x")
        if what == "get":
            await redis.get(f"{service}:data:secret")
        elif what == "lua":
            await redis.execute_command(
                "EVAL", "return redis.call('GET', ARGV[1])", 0, f"{service}:data:secret"
            )
        elif what == "keys":
            await redis.keys("*")
        elif what == "scan":
            await redis.scan(0)
        else:
            pipeline = redis.pipeline(transaction=what == "transaction")
            pipeline.hget(f"{service}:documents", "weekly")
            pipeline.hget(f"{service}:data:secret", "weekly")
            await pipeline.execute()
        return "done"

    client.app.add_api_route("/attempt", route)
    reader = bearer("bob", "documents-readers")
    for what in ("get", "lua", "keys", "scan", "pipeline", "transaction"):
        answer = await client.get(f"/attempt?what={what}", headers=reader)
        assert answer.status_code == 403, what


async def test_a_denial_is_in_the_log_with_who_it_was(
    serve: Serve, bearer: Bearer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serve(log_format="json", access_audit_interval=0.05) as client:
        headers = bearer("bob", "documents-readers") | {"x-request-id": "the-request"}
        await client.put("/documents/weekly", json=TEXT, headers=headers)
        shown = ""

        def is_told() -> bool:
            nonlocal shown
            shown += capsys.readouterr().out
            return "access.denied_by_redis" in shown

        await until(is_told)
    [line] = [line for line in shown.splitlines() if '"access.denied"' in line]
    for fact in ('"subject": "bob"', '"request_id": "the-request"', '"role": "documents-reader"'):
        assert fact in line


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("subject", ["a\x1b[2Jb", "a\u202eb", "a\ud800b", "a\nb"], ids=ascii)
async def test_a_subject_reaches_no_terminal_and_loses_no_line(
    serve: Serve,
    bearer: Bearer,
    capsys: pytest.CaptureFixture[str],
    log_format: str,
    subject: str,
) -> None:
    async with serve(log_format=log_format) as client:
        headers = bearer(subject, "documents-readers")
        assert (await client.put("/documents/x", json=TEXT, headers=headers)).status_code == 403
        writer = bearer(subject, "documents-writers")
        assert (await client.put("/documents/x", json=TEXT, headers=writer)).status_code == 200
    [line] = [
        line
        for line in capsys.readouterr().out.split("\n")
        if "access.denied" in line and "access.denied_by_redis" not in line
    ]
    assert line.isprintable()
    assert "a" in line.partition("subject")[2]


async def test_a_denial_without_an_identity_is_a_mistake_of_the_service(client: Client) -> None:
    async def route(redis: RedisDependency) -> None:
        with pytest.raises(ResponseError):
            await redis.keys("*")
        await redis.get("without-the-name-of-the-service")

    client.app.add_api_route("/mistake", route)
    assert (await client.get("/mistake")).status_code == 500

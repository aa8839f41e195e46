"""S3 servers that are not as they should be: the service says so, and loses nothing."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from uuid import uuid4

import pytest
from obstore.exceptions import BaseError

from app.database import DatabaseUnavailable
from app.database.bucket import Bucket, Conflict
from app.items.in_s3 import S3ItemRepository
from app.items.models import ItemCreate, ItemUpdate
from devservers.s3 import EmbeddedS3
from tests.core.database.backends import Backend


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedS3]:
    with EmbeddedS3() as server:
        yield server


class Gateway(ThreadingHTTPServer):
    """Passes requests on to an S3 server, with faults."""

    def __init__(self, server: EmbeddedS3) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = server.port
        self.ignores_conditions = False
        self.code = "Fault"
        """The code that goes with them."""
        self.statuses: list[int] = []
        """Answers the next conditional writes, and deletions, so.

        After it has passed them on if it is a 500. A 200 is for deletions: its body tells that they
        failed.
        """

    @property
    def url(self) -> str:
        return f"http://development:development@127.0.0.1:{self.server_port}/development"


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_PUT(self) -> None:
        conditions = [self.headers[name] for name in ("If-Match", "If-None-Match")]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._change(body, may_fail=any(conditions))

    def do_GET(self) -> None:
        self._answer(*self._pass_on(b""))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._change(body, may_fail=self.path.endswith("?delete"))

    def _change(self, body: bytes, *, may_fail: bool) -> None:
        if may_fail and self.server.statuses:
            status = self.server.statuses.pop()
            if status == 500:
                self._pass_on(body)
            keys = b"".join(re.findall(b"<Key>.*?</Key>", body)) if status == 200 else b""
            self._answer(status, _FAULT % (keys, self.server.code.encode()), {})
        else:
            self._answer(*self._pass_on(body))

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _pass_on(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        if self.server.ignores_conditions:
            headers = {name: v for name, v in headers.items() if not name.lower().startswith("if-")}
        connection = HTTPConnection("127.0.0.1", self.server.behind, timeout=10)
        connection.request(self.command, self.path, body, headers)
        reply = connection.getresponse()
        content = reply.read()
        kept = {name: v for name, v in reply.getheaders() if name.lower() in _KEPT}
        connection.close()
        return reply.status, content, kept

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in map(str.lower, headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


_FAULT = b"<Result><Error>%s<Code>%s</Code><Message>Fault</Message></Error></Result>"
_KEPT = {"etag", "last-modified", "content-length", "content-type"}


@pytest.fixture
def gateway(server: EmbeddedS3) -> Iterator[Gateway]:
    with serving(Gateway(server)) as gateway:
        yield gateway


@contextmanager
def serving(gateway: Gateway) -> Iterator[Gateway]:
    thread = Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield gateway
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()


@pytest.fixture
async def bucket(gateway: Gateway) -> AsyncIterator[Bucket]:
    async with Backend("s3", gateway.url, None).open() as (bucket, _):
        assert isinstance(bucket, Bucket)
        yield bucket


async def test_a_server_that_ignores_conditions_is_refused(
    gateway: Gateway, bucket: Bucket
) -> None:
    gateway.ignores_conditions = True
    with pytest.raises(DatabaseUnavailable, match="ignores the conditions"):
        await bucket.ping()
    with pytest.raises(DatabaseUnavailable, match="ignores the conditions"):
        await bucket.create("key", b"")
    assert await bucket.get("key") is None


async def test_control_one_that_heeds_them_is_taken(gateway: Gateway, bucket: Bucket) -> None:
    await bucket.ping()
    await bucket.ping()
    await bucket.create("control", b"1")
    with pytest.raises(Conflict):
        await bucket.create("control", b"2")
    with pytest.raises(Conflict):
        await bucket.replace("control", b"3", etag='"0"')
    stored = await bucket.get("control")
    assert stored is not None
    await bucket.replace("control", b"4", etag=stored.etag)
    stored = await bucket.get("control")
    assert stored is not None
    assert stored.body == b"4"


async def test_an_emptied_bucket_is_safe_to_write_to_again(bucket: Bucket) -> None:
    await bucket.ping()
    await bucket.delete("conditional-writes")
    await bucket.ping()
    assert await bucket.exists("conditional-writes")


@pytest.mark.parametrize(
    ("status", "name"),
    [
        pytest.param(409, "in the way of another one", id="not written"),
        pytest.param(500, "written, whatever it says", id="written"),
    ],
)
async def test_a_write_that_fails_is_looked_at_again(
    gateway: Gateway, bucket: Bucket, status: int, name: str
) -> None:
    items = S3ItemRepository(bucket)
    item = await items.create(ItemCreate(name="lamp"))
    gateway.statuses = [status]
    changed = await items.update(item.id, ItemUpdate(name=name, version=1))
    assert (changed.name, changed.version) == (name, 2)
    assert await items.get(item.id) == changed


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (400, "RequestTimeout", True),
        (400, "ExpiredToken", True),
        (400, "InvalidRequest", False),
        (400, "EntityTooLarge", False),
        (400, "KeyTooLongError", False),
        (401, "Unauthorized", True),
        (403, "AccessDenied", False),
        (403, "InvalidAccessKeyId", True),
        (403, "RequestTimeTooSkewed", True),
        (403, "SignatureDoesNotMatch", True),
        (405, "MethodNotAllowed", False),
        (411, "MissingContentLength", False),
        (429, "TooManyRequests", True),
        (500, "InternalError", True),
        (501, "NotImplemented", False),
        (503, "SlowDown", True),
        (503, "ServiceUnavailable", True),
    ],
)
async def test_what_an_answer_means_its_code_says(
    gateway: Gateway, bucket: Bucket, status: int, code: str, passes: bool
) -> None:
    await bucket.ping()
    gateway.code = code
    gateway.statuses = [status]
    with pytest.raises(DatabaseUnavailable if passes else BaseError, match=code) as raised:
        await bucket.create(str(uuid4()), b"")
    assert bucket.is_transient(raised.value) is passes


async def test_writes_that_keep_failing_are_an_outage(gateway: Gateway, bucket: Bucket) -> None:
    items = S3ItemRepository(bucket)
    item = await items.create(ItemCreate(name="lamp"))
    gateway.statuses = [503] * 100
    with pytest.raises(DatabaseUnavailable, match="503"):
        await items.update(item.id, ItemUpdate(name="new", version=1))
    assert len(gateway.statuses) > 90


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(200, id="not deleted, in the body of a success"),
        pytest.param(409, id="not deleted"),
        pytest.param(500, id="deleted, whatever it says"),
    ],
)
async def test_a_deletion_that_fails_is_looked_at_again(
    gateway: Gateway, bucket: Bucket, status: int
) -> None:
    items = S3ItemRepository(bucket)
    item = await items.create(ItemCreate(name="lamp"))
    gateway.statuses = [status]
    assert await items.delete(item.id)
    assert gateway.statuses == []
    assert await items.get(item.id) is None


async def test_deletions_that_keep_failing_are_an_outage(gateway: Gateway, bucket: Bucket) -> None:
    items = S3ItemRepository(bucket)
    item = await items.create(ItemCreate(name="lamp"))
    gateway.statuses = [200] * 100
    with pytest.raises(DatabaseUnavailable, match="Fault"):
        await items.delete(item.id)
    assert len(gateway.statuses) > 90
    assert await items.get(item.id) == item


async def test_a_bucket_that_is_not_there_is_no_empty_one(server: EmbeddedS3) -> None:
    nowhere = server.url.replace("/development", "/nowhere")
    async with Backend("s3", nowhere, None).open() as (bucket, items):
        for attempt in (
            bucket.ping(),
            items.get(uuid4()),
            items.page(None, 3),
            items.create(ItemCreate(name="lamp")),
        ):
            with pytest.raises(DatabaseUnavailable, match="no bucket 'nowhere'"):
                await attempt

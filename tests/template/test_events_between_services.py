"""One service changes an item, and the cache of another one forgets it.

The two run as the page `several-services.md` says: on one Redis, and only the
first has access control.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from devservers.waiting import HANG, wait_until
from scripts.running import free_port, service_environment
from tests.template.answers import ROOT
from tests.template.conftest import Render
from tests.template.edits import OWN_FEATURES, insert_after, replace, write
from tests.template.test_profiles import run

FIRST_OWN_IMPORT = "from app.core.serializers.json import JsonSerializer\n"

# What the page on events shows, as a feature of another one.
CATALOG = '''"""Items of the service `orders`, kept for as long as they do not change there."""

import os
from uuid import UUID

import httpx2
from fastapi import APIRouter

from app.core.cache import Cache
from app.core.events import Event, Events, EventsLost
from app.core.service import Service


class ItemUpdated(Event, name="item.updated"):
    item_id: UUID


def install_catalog(service: Service, cache: Cache, events: Events) -> None:
    router = APIRouter(prefix="/catalog")
    names = cache.policy("catalog", str, ttl=3600)

    @events.on("orders", ItemUpdated)
    async def forget(event: ItemUpdated) -> None:
        await cache.invalidate_tags(f"item:{event.item_id}")

    @events.on("orders", EventsLost)
    async def forget_all(event: EventsLost) -> None:
        await names.clear()

    @router.get("/{item_id}")
    @names.http(public=True, tags=lambda item_id: [f"item:{item_id}"])
    async def read(item_id: UUID) -> str:
        async with httpx2.AsyncClient(base_url=os.environ["ORDERS_URL"]) as orders:
            return str((await orders.get(f"/items/{item_id}")).json()["name"])

    service.include(router)
'''


def environment_of(folder: Path) -> Path:
    assert run(folder, "sync --quiet") == ""
    return folder


@pytest.fixture
def orders(render: Render, tmp_path: Path) -> Path:
    rendered = render(events=True, access=True, database="sqlite")
    return environment_of(Path(shutil.copytree(rendered, tmp_path / "orders")))


@pytest.fixture
def billing(render: Render, tmp_path: Path) -> Path:
    rendered = render(events=True, database="sqlite", service_name="billing")
    folder = Path(shutil.copytree(rendered, tmp_path / "billing"))
    write(folder / "app/catalog/__init__.py", "")
    write(folder / "app/catalog/install.py", CATALOG)
    main = folder / "app/main.py"
    insert_after(main, OWN_FEATURES, "    install_catalog(service, cache, events)\n")
    catalog = "from app.catalog.install import install_catalog\n"
    replace(main, FIRST_OWN_IMPORT, catalog + FIRST_OWN_IMPORT)
    return environment_of(folder)


RECIPE = ROOT / "template/docs/how-to/several-services.md.jinja"


@contextmanager
def terminal(
    folder: Path, command: str, log: Path, **variables: str
) -> Iterator[Callable[[], str]]:
    """Run a command as in a terminal that is closed in the end; gives what it has written."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env={**service_environment(), "DEVSERVERS": "", **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield lambda: log.read_text("utf-8", errors="replace")
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(HANG)


def is_ready(url: str) -> bool:
    with suppress(httpx2.TransportError):
        return httpx2.get(f"{url}/health/ready", timeout=HANG).is_success
    return False


def read(url: str) -> tuple[str, str]:
    """The answer, and what the cache says of it."""
    response = httpx2.get(url, timeout=HANG)
    assert response.status_code == 200, response.text
    return response.json(), response.headers["cache-status"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_service_forgets_what_has_changed(
    orders: Path, billing: Path, tmp_path: Path
) -> None:
    redis_port, orders_port, billing_port = (str(free_port()) for _ in range(3))
    recipe = RECIPE.read_text("utf-8").replace("6379", redis_port).replace("8001", orders_port)
    redis, follower, source = re.findall(r"^```sh\n(.*?)\n```$", recipe, re.MULTILINE | re.DOTALL)
    orders_url, billing_url = (f"http://127.0.0.1:{port}" for port in (orders_port, billing_port))
    with ExitStack() as stack:

        def run(command: str, name: str, **variables: str) -> Callable[[], str]:
            log = tmp_path / f"{name}.log"
            return stack.enter_context(terminal(tmp_path, command, log, **variables))

        said = run(redis, "redis")
        wait_until(lambda: "until Ctrl-C" in said(), what="the shared Redis")
        run(follower, "billing", PORT=billing_port, ORDERS_URL=orders_url)
        run(source, "orders")
        for url in (orders_url, billing_url):
            wait_until(partial(is_ready, url), what=url)

        item = httpx2.post(f"{orders_url}/items", json={"name": "old"}).json()
        cached = f"{billing_url}/catalog/{item['id']}"
        assert read(cached)[0] == "old"
        name, status = read(cached)
        assert (name, "hit" in status) == ("old", True)

        change = {"name": "new", "version": item["version"]}
        assert httpx2.put(f"{orders_url}/items/{item['id']}", json=change).status_code == 200

        wait_until(lambda: read(cached)[0] == "new", what="the event")

        # One of them is under rules, as in production.
        assert httpx2.get(f"{orders_url}/documents/a").status_code == 401
        login = subprocess.run(
            [".venv/bin/python", "-m", "app.access", "login", "cache"],
            cwd=orders, env=service_environment(), capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        with Redis(port=int(redis_port), username=login[0], password=login[1]) as cache:
            assert cache.get("orders:1:item:{x}") is None
            with pytest.raises(NoPermissionError):
                cache.get("billing:1:catalog:{x}")

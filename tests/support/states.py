"""States in which a server answers, but not with what was asked for: entered and left again."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from app.core.redis import reply_code
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import wait_until
from tests.support.asking import ask
from tests.support.versions import is_before_7

State = Callable[[EmbeddedValkey], AbstractContextManager[None]]


def stateful(server: type[EmbeddedValkey] = EmbeddedValkey) -> EmbeddedValkey:
    """A server that can be brought into all of them."""
    if is_before_7(server):  # allows everything, and has no settings that say so
        return server()
    return server(enable_debug_command="yes", enable_protected_configs="yes")


def replies_with(server: EmbeddedValkey, word: str, *command: str) -> bool:
    try:
        ask(server, *command)
    except RedisError as error:
        return reply_code(error) == word
    return False


@contextmanager
def _configured(server: EmbeddedValkey, name: str, value: str | int) -> Iterator[None]:
    _, before = ask(server, "CONFIG", "GET", name).popitem()
    ask(server, "CONFIG", "SET", name, value)
    yield
    ask(server, "CONFIG", "SET", name, before)


def without_replicas(server: EmbeddedValkey) -> AbstractContextManager[None]:
    """NOREPLICAS to writes: a primary that has lost its replicas."""
    return _configured(server, "min-replicas-to-write", 1)


def full(server: EmbeddedValkey) -> AbstractContextManager[None]:
    """OOM to what takes memory: the limit is reached, and nothing may be evicted."""
    return _configured(server, "maxmemory", 1)


@contextmanager
def unsaved(server: EmbeddedValkey) -> Iterator[None]:
    """MISCONF to writes: the last snapshot failed, because its folder is gone."""
    folder = Path(server.folder) / "snapshots"
    folder.mkdir(exist_ok=True)
    ask(server, "CONFIG", "SET", "dir", str(folder))
    shutil.rmtree(folder)
    with _configured(server, "save", "3600 1000000"):
        ask(server, "BGSAVE")
        wait_until(lambda: "rdb_last_bgsave_status:err" in _persistence(server))
        yield
    ask(server, "CONFIG", "SET", "dir", str(server.folder))


def _persistence(server: EmbeddedValkey) -> str:
    with Redis(port=server.port) as client:
        client.response_callbacks.clear()
        return str(client.execute_command("INFO", "persistence").decode())


@contextmanager
def demoted(server: EmbeddedValkey) -> Iterator[None]:
    """READONLY to writes: it has become the replica of another server."""
    ask(server, "REPLICAOF", "127.0.0.1", free_port())
    yield
    ask(server, "REPLICAOF", "NO", "ONE")


@contextmanager
def cut_off(server: EmbeddedValkey) -> Iterator[None]:
    """MASTERDOWN to reads: a replica that does not see its primary, and says nothing outdated."""
    with _configured(server, "replica-serve-stale-data", "no"), demoted(server):
        yield


@contextmanager
def busy(server: EmbeddedValkey) -> Iterator[None]:
    """BUSY to everything: a script that does not end."""
    with _configured(server, "lua-time-limit", 1):
        script = threading.Thread(target=_never_ending, args=(server,))
        script.start()
        wait_until(lambda: replies_with(server, "BUSY", "GET", "x"))
        yield
        ask(server, "SCRIPT", "KILL")
        script.join()


def _never_ending(server: EmbeddedValkey) -> None:
    with Redis(port=server.port, socket_timeout=None) as client, suppress(RedisError):
        client.execute_command("EVAL", "while true do end", 0)


@contextmanager
def loading(server: EmbeddedValkey) -> Iterator[None]:
    """LOADING to everything: a server that has just started, and reads its data."""
    with Redis(port=server.port) as client:
        client.mset({f"ballast:{number}": "x" * 200_000 for number in range(200)})
    # It looks at its clients after every two megabytes, which are ten keys and 50 ms.
    ask(server, "CONFIG", "SET", "rdbcompression", "no")
    ask(server, "CONFIG", "SET", "key-load-delay", 5000)
    load = threading.Thread(target=_reload, args=(server,))
    load.start()
    wait_until(lambda: replies_with(server, "LOADING", "GET", "x"))
    yield
    server.kill()
    load.join()
    server.restart()


def _reload(server: EmbeddedValkey) -> None:
    with Redis(port=server.port, socket_timeout=None) as client, suppress(RedisError):
        client.execute_command("DEBUG", "RELOAD")


WRITES_REFUSED: dict[str, State] = {
    "NOREPLICAS": without_replicas,
    "OOM": full,
    "MISCONF": unsaved,
    "READONLY": demoted,
}
"""Reads are answered, writes are not: by the first word of the reply."""

NOTHING_ANSWERED: dict[str, State] = {"MASTERDOWN": cut_off, "BUSY": busy, "LOADING": loading}
"""Reads are not answered either."""

"""The embedded Valkey: starts quickly, fails clearly, and can be tormented."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from devservers import server as server_module
from devservers.guard import ServerUnavailable
from devservers.server import free_port
from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG

TEMPLATE = Path(__file__).parents[3] / "template"


def connect(server: EmbeddedValkey, **options: object) -> Redis:
    return Redis.from_url(server.url, **{"socket_timeout": HANG, **options})


def test_starts_and_stops_and_leaves_nothing() -> None:
    with EmbeddedValkey() as server:
        with connect(server) as client:
            assert client.info("server")["process_id"] == server.pid
            assert client.config_get("bind", "save", "appendonly", "dir") == {
                "bind": "127.0.0.1",
                "save": "",
                "appendonly": "no",
                "dir": str(server.folder.resolve()),
            }
        folder = server.folder
    assert not folder.exists()
    assert not server.answers()


@contextmanager
def for_several_services(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """As `python -m devservers.valkey` starts it."""
    command = [sys.executable, "-m", "devservers.valkey", *arguments]
    with subprocess.Popen(command, cwd=TEMPLATE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_one_for_several_services_runs_until_it_is_interrupted() -> None:
    port = free_port()
    with for_several_services(str(port)) as process:
        assert process.stderr is not None
        assert f":{port}/0, until Ctrl-C" in process.stderr.readline()
        with Redis(port=port, socket_timeout=HANG) as client:
            assert client.ping()
            process.send_signal(signal.SIGINT)
            assert process.wait(HANG) == 0
            with pytest.raises(RedisConnectionError):
                client.ping()


def test_one_for_several_services_says_what_it_needs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, told in (([port], 1, port), ([], 2, "PORT"), (["x"], 2, "PORT")):
            with for_several_services(*arguments) as process:
                _, error = process.communicate(timeout=HANG)
            assert process.returncode == code
            assert told in error
            assert "Traceback" not in error


def test_can_be_started_again_after_it_was_stopped() -> None:
    server = EmbeddedValkey()
    for _ in range(2):
        server.start()
        assert server.answers()
        server.stop()
    server.stop()  # nothing to do
    with pytest.raises(RuntimeError, match="not started"):
        server.kill()


def test_starting_twice_is_refused() -> None:
    with EmbeddedValkey() as server, pytest.raises(RuntimeError, match="started already"):
        server.start()


def test_killed_server_resets_connections_and_comes_back_empty_on_its_port() -> None:
    with EmbeddedValkey() as server, connect(server) as client:
        client.set("key", "value")
        port, pid = server.port, server.pid
        server.kill()
        assert not server.answers()
        with pytest.raises(RedisConnectionError):
            client.get("key")
        server.kill()  # nothing to do
        server.restart()
        assert (server.port, server.pid != pid) == (port, True)
        assert client.get("key") is None


def test_frozen_server_accepts_and_says_nothing_until_thawed() -> None:
    with (
        EmbeddedValkey() as server,
        connect(server) as client,
        connect(server, socket_timeout=0.2, retry=None) as impatient,
    ):
        client.set("key", "value")
        server.freeze()
        with pytest.raises(RedisTimeoutError):
            impatient.get("key")
        with socket.create_connection((server.host, server.port), timeout=HANG):
            pass
        server.thaw()
        assert client.get("key") == b"value"


def test_frozen_server_can_be_killed_and_restarted() -> None:
    with EmbeddedValkey() as server:
        server.freeze()
        server.kill()
        server.restart()
        assert server.answers()


def test_configuration_reaches_the_server_and_its_url() -> None:
    with EmbeddedValkey(
        maxmemory="5mb", requirepass="p@ss/word", client_output_buffer_limit=("pubsub", 1, 2, 3)
    ) as server:
        with connect(server) as client:
            assert client.config_get("maxmemory")["maxmemory"] == str(5 * 1024 * 1024)
            assert "pubsub 1 2 3" in client.config_get("*")["client-output-buffer-limit"]
        with socket.create_connection((server.host, server.port)) as stranger:
            stranger.sendall(b"PING\r\n")
            assert stranger.recv(100).startswith(b"-NOAUTH")


def test_acl_file(tmp_path: Path) -> None:
    acl = tmp_path / "users.acl"
    acl.write_text("user default off\nuser app on >secret ~app:* +@read\n")
    with (
        EmbeddedValkey(aclfile=str(acl)) as server,
        Redis(port=server.port, username="app", password="secret") as client,
    ):
        assert client.get("app:1") is None


def test_folder_that_is_given_is_kept(tmp_path: Path) -> None:
    for runs in 1, 2:
        with EmbeddedValkey(folder=tmp_path / "valkey") as server:
            assert server.answers()
        log = (tmp_path / "valkey" / "log").read_text()
        assert log.count("Ready to accept connections") == runs


def test_failed_start_shows_the_end_of_the_log() -> None:
    server = EmbeddedValkey(maxmemory="plenty")
    with pytest.raises(ServerUnavailable) as caught:
        server.start()
    assert "Valkey ended at once" in str(caught.value)
    assert "maxmemory" in str(caught.value)
    assert not server.folder.exists()


def test_start_that_takes_too_long_is_given_up() -> None:
    # It never says that it is ready, so that nobody waits for more than this.
    server = EmbeddedValkey(start_timeout=0.3, loglevel="warning")
    with pytest.raises(ServerUnavailable, match=r"not ready in 0\.3 s"):
        server.start()
    assert not server.folder.exists()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    server = EmbeddedValkey(folder=tmp_path / "missing" / "valkey")
    with pytest.raises(ServerUnavailable, match="No such file or directory"):
        server.start()


def test_fixed_port_that_is_taken_is_an_error_although_a_server_answers_there() -> None:
    with EmbeddedValkey() as first:
        second = EmbeddedValkey(port=first.port)
        with pytest.raises(ServerUnavailable, match=f"port {first.port} is taken"):
            second.start()
        assert first.answers()


def test_port_that_was_taken_in_between_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedValkey() as first:
        free = server_module.free_port()
        ports = iter([first.port, first.port, free])
        monkeypatch.setattr(server_module, "free_port", lambda: next(ports))
        with EmbeddedValkey() as second:
            assert second.port == free
            assert second.answers()


def test_restart_on_a_port_that_somebody_has_taken_says_so() -> None:
    with EmbeddedValkey() as server:
        server.kill()
        with (
            socket.create_server((server.host, server.port)),
            pytest.raises(ServerUnavailable, match="is taken"),
        ):
            server.restart()
        server.restart()
        assert server.answers()


def test_port_is_not_one_that_outgoing_connections_get() -> None:
    ports = {server_module.free_port() for _ in range(50)}
    assert len(ports) > 40
    assert all(15_000 <= port < 32_000 for port in ports)

"""A real S3 server: Ceph's object gateway, with the smallest cluster that it can stand on."""

import os
import secrets
import shutil
import subprocess
from contextlib import ExitStack
from textwrap import dedent
from urllib.request import urlopen
from uuid import uuid4

from devservers.guard import Guard, ServerUnavailable
from devservers.s3 import make_bucket
from devservers.server import EmbeddedServer, free_port

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
BUCKET = "contract"
# Seconds for one of its commands; the longest one makes the pools.
_PATIENCE = 60


class EmbeddedCeph(EmbeddedServer):
    """One gateway on the loopback interface, with one bucket; ready in some 12 s.

    `kill`, `freeze` and `restart` are about the gateway. The cluster behind it, a monitor and a
    store in memory, goes on.
    """

    _name = "Ceph"
    _ready = "starting handler: beast"

    def __init__(self) -> None:
        """Say how to start it.

        Raises:
            ServerUnavailable: not all of its programs are installed.
        """
        super().__init__()
        if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
            raise ServerUnavailable(
                f"not installed: {', '.join(missing)}. On Debian: apt install "
                "--no-install-recommends ceph-mon ceph-osd radosgw"
            )
        self._secret = secrets.token_hex(16)
        self._cluster = ExitStack()

    @property
    def url(self) -> str:
        return f"http://service:{self._secret}@{self.host}:{self.port}/{BUCKET}"

    def answers(self) -> bool:
        try:
            with urlopen(f"http://{self.host}:{self.port}/", timeout=0.5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def start(self) -> "EmbeddedCeph":
        super().start()
        make_bucket(self.url)
        return self

    def stop(self) -> None:
        super().stop()
        self._cluster.close()

    def _prepare(self) -> None:
        folder, identity, monitor_port = self.folder, str(uuid4()), free_port()
        (folder / "ceph.conf").write_text(self._configuration(identity, monitor_port))
        monitor = f"[v2:{self.host}:{monitor_port}]"
        self._run_tool(
            "monmaptool", "--create", "--fsid", identity, "--addv", "a", monitor, "monmap"
        )
        self._make_keys()
        self._run_tool(
            "ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring"
        )
        self._keep_running("ceph-mon", "a")
        store = str(uuid4())
        self._run_tool("ceph", "osd", "new", store)
        self._run_tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", store)
        self._keep_running("ceph-osd", "0")
        login = ("--access-key", "service", "--secret", self._secret)
        self._run_tool(
            *("radosgw-admin", "user", "create", "--uid", "service", "--display-name", "service"),
            *login,
        )

    def _configuration(self, identity: str, monitor_port: int) -> str:
        folder = self.folder
        (folder / "mon").mkdir()
        (folder / "osd").mkdir()
        return dedent(f"""\
            [global]
            fsid = {identity}
            mon host = v2:{self.host}:{monitor_port}/0
            mon initial members = a
            public addr = {self.host}
            keyring = {folder}/keyring
            run dir = {folder}
            admin socket = {folder}/$name.asok
            log file = {folder}/$name.log
            mon cluster log file = {folder}/cluster.log
            mon data = {folder}/mon
            mon data avail warn = 1
            mon data avail crit = 0
            mon allow pool size one = true
            osd data = {folder}/osd
            osd objectstore = memstore
            memstore device bytes = 1073741824
            osd pool default size = 1
            osd pool default min size = 1
            osd pool default pg num = 1
            osd pool default pgp num = 1
            osd pool default pg autoscale mode = off
            osd crush chooseleaf type = 0
            osd class load list = *
            osd class default list = *
            rgw data = {folder}/rgw
            """)

    def _make_keys(self) -> None:
        everything = ("--cap", "mon", "allow *", "--cap", "osd", "allow *")
        new = ("ceph-authtool", "keyring", "--gen-key")
        self._run_tool(*new, "--create-keyring", "--name", "mon.", *everything)
        self._run_tool(*new, "--name", "client.admin", *everything)
        self._run_tool(*new, "--name", "osd.0", *everything)

    def _run_tool(self, *command: str) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, "CEPH_CONF": str(self.folder / "ceph.conf")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        if done.returncode:
            raise ServerUnavailable(f"{command[0]} failed: {done.stdout[-1000:]}")

    def _keep_running(self, program: str, identity: str) -> None:
        guard = self._cluster.enter_context(Guard(program))
        guard.run([program, "-c", str(self.folder / "ceph.conf"), "-f", "-i", identity])

    def _command(self) -> list[str]:
        return [
            *("radosgw", "-c", str(self.folder / "ceph.conf"), "-n", "client.admin", "-d"),
            f"--rgw-frontends=beast endpoint={self.host}:{self.port}",
        ]

"""A Redis Cluster: primaries without replicas, each with its share of the slots."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from devservers.valkey import EmbeddedValkey
from devservers.waiting import HANG
from tests.support.asking import ask

SLOTS = 16_384
_POLL = 0.02


class ClusterNode(EmbeddedValkey):
    """One node. It keeps its place in the cluster when it is killed and restarted."""

    def __init__(self) -> None:
        super().__init__(cluster_enabled="yes", cluster_node_timeout=1000)

    def _command(self) -> list[str]:
        # The default, ten thousand higher, is among the ports of outgoing connections.
        self.configuration["cluster-port"] = self.bus_port
        return super()._command()

    @property
    def bus_port(self) -> int:
        """Where the nodes talk to each other."""
        return self.port + 1


class EmbeddedCluster:
    """A cluster that is ready on entering and gone on leaving."""

    nodes: Sequence[ClusterNode]

    def __init__(self, size: int = 3) -> None:
        self._size = size
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        nodes = ",".join(f"{node.host}:{node.port}" for node in self.nodes)
        return f"redis+cluster://{nodes}"

    def wait_until_ready(self, timeout: float = HANG) -> None:
        """Wait until all nodes serve all slots and agree on who has which.

        Raises:
            TimeoutError: they do not after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._agree():
            if time.monotonic() > deadline:
                told = "\n".join(str(ask(node, "CLUSTER", "INFO")) for node in self.nodes)
                raise TimeoutError(f"no cluster after {timeout:g} s:\n{told}")
            time.sleep(_POLL)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.nodes = [stack.enter_context(ClusterNode()) for _ in range(self._size)]
            self._form()
            self.wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _form(self) -> None:
        for index, node in enumerate(self.nodes):
            first, end = (SLOTS * edge // self._size for edge in (index, index + 1))
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            # Otherwise all start at the same epoch, and settle that one after the other.
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", index + 1)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    ask(node, "CLUSTER", "MEET", other.host, other.port, other.bus_port)

    def _agree(self) -> bool:
        if any("cluster_state:ok" not in str(ask(node, "CLUSTER", "INFO")) for node in self.nodes):
            return False
        views = [ask(node, "CLUSTER", "SLOTS") for node in self.nodes]
        owners = {tuple((first, last, port) for first, last, (_, port, *_) in v) for v in views}
        return len(owners) == 1 and len(next(iter(owners))) == self._size

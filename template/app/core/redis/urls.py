"""Where Redis is: one URL names the topology, the hosts and the credentials.

    redis://user:password@host:6379/0            one server
    rediss://user:password@host:6379/0           one server, TLS
    redis+sentinel://h1:26379,h2:26379/service/0 the primary that the sentinels name
    redis+cluster://h1:6379,h2:6379              a cluster, discovered from any of its nodes

`rediss+sentinel` and `rediss+cluster` are the same over TLS. A username and password in the URL are
those of the data nodes; sentinels take theirs from `?sentinel_username=...&sentinel_password=...`.
"""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit


class Topology(StrEnum):
    """How the servers behind one URL are arranged."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": (Topology.STANDALONE, False),
    "rediss": (Topology.STANDALONE, True),
    "redis+sentinel": (Topology.SENTINEL, False),
    "rediss+sentinel": (Topology.SENTINEL, True),
    "redis+cluster": (Topology.CLUSTER, False),
    "rediss+cluster": (Topology.CLUSTER, True),
}
_DEFAULT_PORTS = {
    Topology.STANDALONE: 6379,
    Topology.SENTINEL: 26379,
    Topology.CLUSTER: 6379,
}
_OPTIONS = frozenset(
    {
        "sentinel_username",
        "sentinel_password",
        "ssl_ca_certs",
        "ssl_certfile",
        "ssl_keyfile",
    }
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed Redis URL."""

    topology: Topology
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    database: int
    service: str | None
    options: dict[str, str]

    def __str__(self) -> str:
        """The address without its credentials, fit for a log."""
        nodes = ",".join(f"{host}:{port}" for host, port in self.nodes)
        where = f"{self.topology} {nodes}"
        if self.service is not None:
            where += f" service {self.service}"
        return f"{where} database {self.database}{' (TLS)' if self.tls else ''}"


def parse_url(url: str) -> RedisAddress:
    """Read a Redis URL.

    Raises:
        ValueError: the URL is malformed; the message says what was wrong, never the password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise ValueError(f"a Redis URL starts with one of {known}, not {parts.scheme!r}")
    topology, tls = _SCHEMES[parts.scheme]
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = tuple(_node(host, _DEFAULT_PORTS[topology]) for host in hosts.split(","))
    if topology is Topology.STANDALONE and len(nodes) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    service, database = _service_and_database(topology, parts.path)
    return RedisAddress(
        topology=topology,
        tls=tls,
        nodes=nodes,
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=database,
        service=service,
        options=_options(parts),
    )


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{text}")
        host, port = split.hostname, split.port
    except ValueError:
        raise ValueError(f"{text!r} is not host:port") from None
    if not host:
        raise ValueError("a Redis URL needs a host")
    return host, port or default_port


def _service_and_database(topology: Topology, path: str) -> tuple[str | None, int]:
    segments = [unquote(segment) for segment in path.strip("/").split("/") if segment]
    service = None
    if topology is Topology.SENTINEL:
        if not segments:
            raise ValueError("redis+sentinel:// needs the service name: redis+sentinel://host/name")
        service = segments.pop(0)
    if len(segments) > 1 or (segments and not segments[0].isdecimal()):
        raise ValueError(f"the path of a Redis URL ends with a database number, not {path!r}")
    database = int(segments[0]) if segments else 0
    if topology is Topology.CLUSTER and database:
        raise ValueError("a Redis cluster has database 0 only")
    return service, database


def _options(parts: SplitResult) -> dict[str, str]:
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := options.keys() - _OPTIONS:
        raise ValueError(
            f"a Redis URL does not take {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(sorted(_OPTIONS))}, and timeouts and pool sizes are settings"
        )
    return options

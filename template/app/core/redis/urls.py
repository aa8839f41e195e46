"""Redis URLs: one text names the topology, the hosts and the credentials.

    redis://user:password@host:6379/0            one server
    rediss://user:password@host:6379/0           one server, TLS
    redis+sentinel://h1:26379,h2:26379/service/0 the primary that the sentinels name
    redis+cluster://h1:6379,h2:6379              a cluster, discovered from any of its nodes

`rediss+sentinel` and `rediss+cluster` are the same over TLS; the certificate must match the host
and come from an authority that the system trusts, or that `?ssl_ca_certs=/path/ca.pem` contains.
A username and password in the URL are those of the data nodes; those of the sentinels are
`?sentinel_username=...&sentinel_password=...`.
The characters / ? # @ % of a password are percent-encoded.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import quote, unquote, urlsplit


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
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_OPTIONS = _SENTINEL_OPTIONS | _TLS_OPTIONS

# Not urllib: its errors quote what they could not read, which may be the password.
_AFTER_SCHEME = re.compile(
    r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(\?(?P<query>[^#]*))?(?P<rest>.*)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A parsed Redis URL."""

    topology: Topology
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None = field(repr=False)
    database: int
    service: str | None
    options: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        """The address without its credentials, fit for a log."""
        nodes = ",".join(_host_and_port(node) for node in self.nodes)
        where = f"{self.topology} {nodes}"
        if self.service is not None:
            where += f" service {self.service}"
        return f"{where} database {self.database}{' (TLS)' if self.tls else ''}"


def parse_url(url: str) -> RedisAddress:
    """Parse a Redis URL.

    Raises:
        ValueError: the URL is malformed; the message says what is wrong, never the password.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        given = f", not {scheme}://" if separator else ""
        raise ValueError(f"a Redis URL starts with one of {known}{given}")
    parts = _AFTER_SCHEME.fullmatch(rest)
    assert parts is not None  # it takes any text
    path, query = parts["path"], parts["query"] or ""
    if parts["rest"] or "@" in path + query:
        raise ValueError(
            "the characters / ? # @ % of a password or an option must be percent-encoded: "
            "%2F %3F %23 %40 %25"
        )
    topology, tls = _SCHEMES[scheme.lower()]
    credentials, _, hosts = parts["authority"].rpartition("@")
    username, _, password = credentials.partition(":")
    nodes = tuple(_node(host, _DEFAULT_PORTS[topology]) for host in hosts.split(","))
    if topology is Topology.STANDALONE and len(nodes) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    service, database = _service_and_database(topology, path)
    return RedisAddress(
        topology=topology,
        tls=tls,
        nodes=nodes,
        username=unquote(username) or None,
        password=unquote(password) or None,
        database=database,
        service=service,
        options=_options(query, topology, tls),
    )


def with_login(url: str, username: str, password: str) -> str:
    """Return the URL of the same servers with another user and password."""
    scheme, _, rest = url.strip().partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    hosts = authority.rpartition("@")[2]
    login = f"{quote(username, safe='')}:{quote(password, safe='')}"
    return f"{scheme}://{login}@{hosts}{rest.removeprefix(authority)}"


def _node(text: str, default_port: int) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{text}")
        host, port = split.hostname, split.port
    except ValueError:
        port = 0
    if port == 0:
        # Without quoting it: for somebody who forgot the host, it is the password.
        raise ValueError("what follows :// or @ in a Redis URL is not host:port") from None
    if not host:
        raise ValueError("a Redis URL needs a host")
    return host, port or default_port


def _host_and_port(node: tuple[str, int]) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _service_and_database(topology: Topology, path: str) -> tuple[str | None, int]:
    segments = [unquote(segment) for segment in path.strip("/").split("/") if segment]
    service = None
    if topology is Topology.SENTINEL:
        if not segments:
            raise ValueError("redis+sentinel:// needs the service name: redis+sentinel://host/name")
        service = segments.pop(0)
    if len(segments) > 1 or (segments and not segments[0].isdecimal()):
        raise ValueError("the path of a Redis URL ends with a database number")
    database = int(segments[0]) if segments else 0
    if topology is Topology.CLUSTER and database:
        raise ValueError("a Redis cluster has database 0 only")
    return service, database


def _options(query: str, topology: Topology, tls: bool) -> dict[str, str]:
    pairs = (item.partition("=") for item in query.split("&") if item)
    options = {unquote(name): unquote(value) for name, _, value in pairs}
    if unknown := options.keys() - _OPTIONS:
        raise ValueError(
            f"a Redis URL does not take {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(sorted(_OPTIONS))}, and timeouts and pool sizes are settings"
        )
    if not tls and (idle := options.keys() & _TLS_OPTIONS):
        raise ValueError(f"{', '.join(sorted(idle))} needs TLS: rediss://")
    if topology is not Topology.SENTINEL and (idle := options.keys() & _SENTINEL_OPTIONS):
        raise ValueError(f"{', '.join(sorted(idle))} needs redis+sentinel://")
    return options

"""Redis URLs: what they may say, and what is said about wrong ones."""

import pytest

from app.core.redis import Topology, parse_url


def test_one_server() -> None:
    address = parse_url("redis://user:pa%40ss%2Fword@cache.example:7000/3")
    assert address.topology is Topology.STANDALONE
    assert address.nodes == (("cache.example", 7000),)
    assert (address.username, address.password) == ("user", "pa@ss/word")
    assert (address.database, address.tls) == (3, False)


def test_what_is_left_out_has_its_usual_value() -> None:
    address = parse_url("rediss://cache")
    assert address.nodes == (("cache", 6379),)
    assert (address.username, address.password, address.database) == (None, None, 0)
    assert address.tls


def test_a_password_alone() -> None:
    assert parse_url("redis://:secret@cache").password == "secret"
    assert parse_url("redis://:secret@cache").username is None


def test_ipv6() -> None:
    assert parse_url("redis://[::1]:7000").nodes == (("::1", 7000),)


def test_sentinels() -> None:
    address = parse_url("redis+sentinel://:data@s1,s2:27000/orders/2?sentinel_password=watch")
    assert address.topology is Topology.SENTINEL
    assert address.nodes == (("s1", 26379), ("s2", 27000))
    assert (address.service, address.database) == ("orders", 2)
    assert (address.password, address.options["sentinel_password"]) == ("data", "watch")


def test_a_cluster() -> None:
    address = parse_url("rediss+cluster://n1:7000,n2:7001")
    assert (address.topology, address.tls) == (Topology.CLUSTER, True)
    assert address.nodes == (("n1", 7000), ("n2", 7001))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://cache", "starts with one of redis://"),
        ("cache:6379", "starts with one of redis://"),
        ("redis://", "needs a host"),
        ("redis://:hunter2@cache:port", "not host:port"),
        ("redis://:hunter2@cache:99999", "not host:port"),
        ("redis://:hunter2@a,b", "redis\\+sentinel:// or redis\\+cluster://"),
        ("redis://:hunter2@cache/zero", "database number"),
        ("redis://:hunter2@cache/0/1", "database number"),
        ("redis+sentinel://:hunter2@s1", "service name"),
        ("redis+cluster://:hunter2@n1/1", "database 0 only"),
        ("redis://:hunter2@cache?socket_timeout=9", "socket_timeout.*are settings"),
        ("redis://:hunter2/3@cache", "percent-encoded"),
        ("redis://:hunter2?3@cache", "percent-encoded"),
        ("redis://:hunter2#3@cache", "percent-encoded"),
        ("redis://:hunter2", "not host:port"),
        ("hunter2", "starts with one of redis://"),
        ("redis://:hunter2@cache?ssl_ca_certs=ca.pem", "ssl_ca_certs needs TLS"),
        ("redis://cache?sentinel_password=hunter2", r"needs redis\+sentinel://"),
    ],
)
def test_a_wrong_url_is_explained_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as error:
        parse_url(url)
    assert "hunter2" not in str(error.value)


def test_an_address_shows_no_credentials() -> None:
    address = parse_url(
        "rediss+sentinel://user:hunter2@s1,[::1]:7/orders?sentinel_password=hunter2"
    )
    assert "hunter2" not in str(address) + repr(address)
    assert "s1:26379,[::1]:7" in str(address)

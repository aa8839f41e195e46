"""The cluster and the sentinels that other tests build on do what real ones do."""

import time
from collections.abc import Callable

import pytest
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel

from app.core.redis import Topology, parse_url
from devservers.waiting import PATIENCE, wait_until
from tests.support.asking import ask
from tests.support.cluster import SLOTS, EmbeddedCluster
from tests.support.sentinel import SERVICE, ReplicatedValkey

pytestmark = pytest.mark.slow

RecordProperty = Callable[[str, object], None]


def test_cluster_takes_keys_in_all_slots_and_survives_a_restart() -> None:
    with EmbeddedCluster() as cluster:
        address = parse_url(cluster.url)
        assert address.topology is Topology.CLUSTER
        assert [port for _, port in address.nodes] == [node.port for node in cluster.nodes]
        with RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port) as client:
            keys = [_key_in(client, slot) for slot in (0, SLOTS // 3, SLOTS // 2, SLOTS - 1)]
            for key in [*keys, *(f"key-{number}" for number in range(500))]:
                assert client.set(key, key)
                assert client.get(key) == key.encode()
            assert len({client.get_node_from_key(key).port for key in keys}) == 3
        assert sum(int(ask(node, "DBSIZE")) for node in cluster.nodes) == 504

        lost = cluster.nodes[1]
        lost.kill()
        wait_until(
            lambda: "cluster_state:fail" in str(ask(cluster.nodes[0], "CLUSTER", "INFO")),
            what="the failure of the cluster",
        )
        lost.restart()
        cluster.wait_until_ready()
        assert ask(lost, "DBSIZE") == 0


def test_failover(record_property: RecordProperty) -> None:
    with ReplicatedValkey() as servers:
        address = parse_url(servers.url)
        assert (address.topology, address.service) == (Topology.SENTINEL, SERVICE)
        sentinels = Sentinel(list(address.nodes), socket_timeout=PATIENCE)
        client = sentinels.master_for(SERVICE)
        client.set("key", "value")
        client.wait(1, 60_000)
        assert servers.primary() is servers.servers[0]

        started = time.monotonic()
        old = servers.kill_primary()
        new = servers.wait_for_new_primary(old)
        took = time.monotonic() - started
        record_property("seconds", took)
        assert new is servers.servers[1]
        assert servers.primary() is new
        assert client.get("key") == b"value"

        servers.bring_back(old)
        assert ask(old, "GET", "key") == "value"
        client.close()


def test_no_new_primary_without_a_quorum() -> None:
    with ReplicatedValkey() as servers:
        for sentinel in servers.sentinels[1:]:
            sentinel.kill()
        old = servers.kill_primary()
        with pytest.raises(TimeoutError, match="no new primary after 2 s"):
            servers.wait_for_new_primary(old, timeout=2)
        assert ask(servers.servers[1], "ROLE")[0] == "slave"


def _key_in(client: RedisCluster, slot: int) -> str:
    keys = map(str, range(200_000))
    return next(key for key in keys if client.keyslot(key) == slot)

"""An outage is told when it begins and when it is over, by whatever tries again meanwhile."""

from structlog.testing import capture_logs

from app.core.redis import OutageLog, PubSubConnection
from devservers.valkey import EmbeddedValkey
from devservers.waiting import until
from tests.core.redis.conftest import Connect
from tests.support.faultproxy import FaultProxy


def test_failures_are_counted_and_logged_once() -> None:
    now = 100.0
    outage = OutageLog("part.link", monotonic=lambda: now, channel="news")
    with capture_logs() as lines:
        outage.back()
        for _ in range(40):
            outage.lost(ConnectionError("refused"))
            now += 0.5
        outage.back()
        outage.back()
        outage.lost(ConnectionError("again"))
    assert [line["event"] for line in lines] == [
        "part.link_lost",
        "part.link_back",
        "part.link_lost",
    ]
    assert "refused" in lines[0]["error"]
    assert (lines[1]["seconds"], lines[1]["failures"], lines[1]["channel"]) == (20.0, 40, "news")


async def test_a_connection_that_listens(server: EmbeddedValkey, connect: Connect) -> None:
    subscriptions: list[str] = []
    async with FaultProxy(server.host, server.port) as proxy:
        connection = PubSubConnection(
            connect(proxy.url, timeout=1, connect_timeout=1),
            on_message=lambda channel, message: None,
            on_subscribe=subscriptions.append,
            outage_log=OutageLog("part.news"),
        )
        with capture_logs() as lines:
            connection.subscribe("news")
            await until(lambda: len(subscriptions) == 1)
            before = proxy.accepted
            await proxy.cut_replies(0)
            await until(lambda: proxy.accepted > before + 3)
            await proxy.heal()
            await until(lambda: len(subscriptions) == 2)
            await connection.close()
    assert [line["event"] for line in lines] == ["part.news_lost", "part.news_back"]
    assert lines[1]["failures"] > 1

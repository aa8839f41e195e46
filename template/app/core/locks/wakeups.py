"""Wakes whoever waits for a lock when it is released, in this process or in another."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.core.locks.store import PubSubFactory
from app.core.locks.subscriber import Subscriber

_GRACE = 0.003
"""Seconds that the reports of the other servers may lag behind the first one's."""
_SPREAD = 0.001
"""Seconds, per server that has to agree, over which those try who do not try at once."""


@dataclass(slots=True)
class Topic:
    """What the one who waits for a name has heard."""

    name: str
    event: asyncio.Event = field(default_factory=asyncio.Event)
    token: bytes = b""
    reports: set[int] = field(default_factory=set)
    timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        self.cancel_timer()
        self.event.set()

    def wake_within(self, seconds: float) -> None:
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(seconds, self.wake)

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Wakeups:
    """Topics that somebody waits for, fed by one subscriber per server."""

    def __init__(
        self,
        prefix: str,
        sources: Sequence[PubSubFactory],
        *,
        quorum: int,
    ) -> None:
        """`prefix` is what a channel has before the name of the lock."""
        self._prefix = prefix
        self._quorum = quorum
        self._topics: dict[str, Topic] = {}
        self.unheard = False
        """Releases are not published: whoever waits has to ask."""
        self._subscribers = [
            Subscriber(source, number, self) for number, source in enumerate(sources)
        ]

    @contextmanager
    def topic(self, name: str) -> Iterator[Topic]:
        """Hear about `name` for the time of the block; one task at a time does so for a name."""
        topic = self._topics[name] = Topic(name)
        try:
            yield topic
        finally:
            topic.cancel_timer()
            del self._topics[name]

    def listen(self, topic: Topic) -> bool:
        """Subscribe if need be; whether enough servers already report releases of the topic."""
        for subscriber in self._subscribers:
            subscriber.want(self._prefix + topic.name)
        return not self.unheard and self._subscriptions(topic) >= self._quorum

    def released_here(self, name: str, told: int) -> None:
        """Wake the next waiter of this process, but with no head start over other processes."""
        topic = self._topics.get(name)
        if topic is None:
            return
        if self._subscriptions(topic):
            topic.wake_within(_SPREAD)  # the message will be here before that
        else:
            self._wake_one_of(topic, told + 1)

    async def close(self) -> None:
        """Wake everybody, to find that there is nothing left to wait for."""
        for topic in self._topics.values():
            topic.wake()
        await asyncio.gather(*(subscriber.close() for subscriber in self._subscribers))

    def wants(self, channel: str) -> bool:
        """Whether somebody waits for what the channel reports."""
        return channel[len(self._prefix) :] in self._topics

    def heard_release(self, source: int, channel: str, message: bytes) -> None:
        """One server reports the release of one claim; with a quorum, wait for a majority to."""
        topic = self._topics.get(channel[len(self._prefix) :])
        if topic is None:
            return
        listeners, _, token = message.partition(b" ")
        if topic.token != token:
            topic.token = token
            topic.reports.clear()
        topic.reports.add(source)
        if len(topic.reports) < self._quorum:
            topic.wake_within(_GRACE)
        elif len(topic.reports) == self._quorum:
            topic.cancel_timer()
            self._wake_one_of(topic, int(listeners))

    def heard_subscription(self, channel: str) -> None:
        """A subscription is (again) in place: a release may have gone unheard just before."""
        topic = self._topics.get(channel[len(self._prefix) :])
        if topic is not None and self._subscriptions(topic) >= self._quorum:
            self._wake_one_of(topic, 1)

    def _wake_one_of(self, topic: Topic, processes: int) -> None:
        """Try at once in one process of those that wait (by lot, and on average), else soon.

        If all tried at once they would get in each other's way, and the one that the server tells
        first would win every time.
        """
        if random.random() * processes < 1:
            topic.wake()
        else:
            topic.wake_within(random.uniform(0, _SPREAD * self._quorum))

    def _subscriptions(self, topic: Topic) -> int:
        channel = self._prefix + topic.name
        return sum(channel in subscriber.confirmed for subscriber in self._subscribers)

"""The events of one service: what features are given."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from app.core.events import metrics
from app.core.events.consumer import BroadcastConsumer, ExclusiveConsumer
from app.core.events.event import Event, EventsLost
from app.core.events.publish import EventsUnavailable, PublishBuffer
from app.core.events.stream import NONE, EventId, Stream, channel_of
from app.core.events.subscription import Handlers, Subscription
from app.core.redis import OutageLog, Probe, PubSubConnection, RedisClient, is_transient
from app.core.tasks import Tasks

E = TypeVar("E", bound=Event)

_STOP_GRACE = 5.0
"""Seconds that the end waits for events that are being handled, and then for those to be sent."""


class Events:
    """Publishes the events of a service, and hands it those of other services.

    Subscribe before entering it. Entering starts the tasks that send and read. Leaving waits for
    the events that are being handled, and sends what is left. The client stays the caller's.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        service: str,
        max_length: int = 100_000,
        buffer_limit: int = 10_000,
        transient: Callable[[Exception], bool] = is_transient,
        handler_timeout: float = 30.0,
        ownership_ttl: float = 10.0,
    ) -> None:
        """Make the events of `service`, whose name is how others subscribe to them.

        Args:
            client: has a pool of its own.
            service: the name of this service.
            max_length: how many events stay in Redis for subscribers that are behind or away.
            buffer_limit: how many events may wait in this process while Redis is away. Those that
                come then are dropped, and subscribers are told how many (`EventsLost`).
            transient: says which errors of handlers are no fault of the event, such as an outage:
                the handler is tried again until they have passed. Any other error counts against
                the event, which is skipped after three attempts.
            handler_timeout: the longest one attempt of a handler may take, in seconds.
            ownership_ttl: seconds until another process goes on for one that has died.
        """
        self._client = client
        self._service = service
        stream = Stream(client, service)
        self._buffer = PublishBuffer(stream, max_length=max_length, limit=buffer_limit)
        self._transient = transient
        self._handler_timeout = handler_timeout
        self._ownership_ttl = ownership_ttl
        self._subscriptions: dict[tuple[str, bool], Subscription] = {}
        self._tasks = Tasks()
        self._announcements = PubSubConnection(
            client,
            on_message=self._wake_subscriptions,
            on_subscribe=self._wake_subscriptions,
            on_disconnect=metrics.disconnects.inc,
            outage_log=OutageLog("events.announcements"),
        )

    def on(
        self, publisher: str, event_type: type[E], *, every_process: bool = False
    ) -> Callable[[Callable[[E], Awaitable[None]]], Callable[[E], Awaitable[None]]]:
        """Have a function handle the events of a type that the service `publisher` publishes.

        One process of this service handles each event, in order, and goes on where the service
        stopped, also after a restart. If a process dies while it handles an event, that event comes
        again: handlers must tolerate that. While an event is tried again, all behind it wait.

        Args:
            publisher: the name of the service whose events they are.
            event_type: which of its events.
            every_process: each process of this service handles all of them, from its own start on:
                for what it keeps in its memory.

        Raises:
            ValueError: the event has no name.
            RuntimeError: the service has started already.
        """
        if not event_type.event_name:
            raise ValueError(f"{event_type.__name__} needs a name: class ...(Event, name='...')")
        if self._tasks:
            raise RuntimeError("subscribe before the service starts")
        subscription = self._subscription(publisher, every_process)

        def subscribe(handle: Callable[[E], Awaitable[None]]) -> Callable[[E], Awaitable[None]]:
            subscription.handlers.add(event_type, handle)
            return handle

        return subscribe

    async def publish(self, event: Event, *, strict: bool = False) -> None:
        """Publish an event; do it after the change it tells of is committed. One round trip.

        While Redis is away the event waits in this process, and is sent in order when Redis is
        back. It is lost if the process ends before that.

        Raises:
            ValueError: the event has no name, or is `EventsLost`.
            RuntimeError: the service has not started, or has ended.
            EventsUnavailable: with `strict`, if the event is not known to be in Redis (it is still
                sent).
        """
        if not event.event_name or isinstance(event, EventsLost):
            raise ValueError(f"{type(event).__name__} is not to be published")
        if not self._tasks:
            raise RuntimeError("the service has not started, or has ended")
        await self._buffer.put(event, strict=strict)

    async def check(self) -> None:
        """Check for the health page that events are sent and read.

        Raises:
            EventsUnavailable: they are not; the message says why.
        """
        if self._buffer.error is not None:
            raise EventsUnavailable(
                f"{len(self._buffer)} events wait for Redis: {self._buffer.error}"
            )
        for (publisher, _), subscription in self._subscriptions.items():
            if subscription.error is not None:
                raise EventsUnavailable(f"events of {publisher}: {subscription.error}")

    @property
    def probe(self) -> Probe:
        """What events need of their server."""
        channel = channel_of(self._service)
        return Probe(
            part="events",
            client=self._client,
            key=f"{channel}:probe",
            write=("XADD", "*", "probe", "1"),
            publish=channel,
            subscribe=channel,
        )

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(each.start() for each in self._subscriptions.values()))
        self._tasks.start(self._buffer.run())
        channels = {each.stream.channel for each in self._subscriptions.values()}
        self._announcements.subscribe(*channels)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(each.stop(_STOP_GRACE) for each in self._subscriptions.values()))
        await self._buffer.drain(_STOP_GRACE)
        await asyncio.gather(self._tasks.stop(), self._announcements.close())
        self._buffer.close()

    def _subscription(self, publisher: str, every_process: bool) -> Subscription:
        key = (publisher, every_process)
        if key not in self._subscriptions:
            metrics.expect_publisher(publisher)
            stream = Stream(self._client, publisher)
            handlers = Handlers(
                publisher, is_transient=self._transient, timeout=self._handler_timeout
            )
            consumer = (
                BroadcastConsumer(stream)
                if every_process
                else ExclusiveConsumer(self._client, stream, self._service, ttl=self._ownership_ttl)
            )
            self._subscriptions[key] = Subscription(stream, handlers, consumer)
        return self._subscriptions[key]

    def _wake_subscriptions(self, channel: str, message: bytes = b"") -> None:
        newest = EventId.parse(message) if message else NONE
        for subscription in self._subscriptions.values():
            if subscription.stream.channel == channel:
                subscription.wake(newest)

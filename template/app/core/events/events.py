"""The events of one service: what features are given."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from app.core.events import keys, metrics
from app.core.events.event import Event, Missed
from app.core.events.handling import Handlers
from app.core.events.outbox import EventsUnavailable, Outbox
from app.core.events.position import NONE, EventId
from app.core.events.stream import Stream
from app.core.events.subscription import Subscription
from app.core.events.turns import OwnTurn, SharedTurn
from app.core.redis import PubSubConnection, RedisClient, is_transient, refusals_of, stop_tasks

E = TypeVar("E", bound=Event)

_PATIENCE = 5.0
"""Seconds that the end waits for an event that is being handled, and for those to be sent."""


class Events:
    """Publishes the events of a service, and hands it those of other services.

    Subscribe before entering it. Entering starts the tasks that send and read; leaving lets the
    event that is being handled end, and sends what waits. The client stays the caller's.
    """

    def __init__(
        self,
        client: RedisClient,
        *,
        service: str,
        kept: int = 100_000,
        most_waiting: int = 10_000,
        transient: Callable[[Exception], bool] = is_transient,
        handler_timeout: float = 30.0,
        turn_ttl: float = 10.0,
    ) -> None:
        """Make the events of `service`, whose name is how others subscribe to them.

        Args:
            kept: how many events stay in Redis for subscribers that are behind or away.
            most_waiting: how many may wait in this process while Redis is away. Of those that come
                then, only the number is kept, and subscribers are told it (`Missed`).
            transient: says which errors of handlers are no fault of the event, such as an outage:
                it is tried again until they have passed. Any other error is taken for one of the
                event, which is skipped after three attempts.
            handler_timeout: the longest one attempt may take, in seconds.
            turn_ttl: after so many seconds another process goes on for one that has died.
        """
        self._client = client
        self._service = service
        self._outbox = Outbox(Stream(client, service), length=kept, limit=most_waiting)
        self._transient = transient
        self._handler_timeout = handler_timeout
        self._turn_ttl = turn_ttl
        self._subscriptions: dict[tuple[str, bool], Subscription] = {}
        self._running: list[asyncio.Task[None]] = []

    def on(
        self, publisher: str, event_type: type[E], *, every_process: bool = False
    ) -> Callable[[Callable[[E], Awaitable[None]]], Callable[[E], Awaitable[None]]]:
        """Have a function handle the events of that type that the service `publisher` publishes.

        One process of this service handles each, in order, and the service goes on where it
        stopped, also after a restart. If a process dies while it handles an event, that one comes
        again: handlers have to bear that. An event that comes while they fail waits, and all
        behind it.

        With `every_process` each process of this service handles all of them, from its own start
        on: for what it keeps in its memory.

        Raises:
            ValueError: the event has no name.
            RuntimeError: the events are running already.
        """
        if not event_type.event_name:
            raise ValueError(f"{event_type.__name__} needs a name: class ...(Event, name='...')")
        if self._running:
            raise RuntimeError("subscribe before the service starts")
        subscription = self._subscription(publisher, every_process)

        def subscribe(handle: Callable[[E], Awaitable[None]]) -> Callable[[E], Awaitable[None]]:
            subscription.handlers.add(event_type, handle)
            return handle

        return subscribe

    async def publish(self, event: Event, *, strict: bool = False) -> None:
        """Publish an event, after the change that it tells of is committed. One round trip.

        While Redis is away the event waits in this process and is sent, in order, when Redis is
        back. It is lost if the process ends before that.

        Raises:
            ValueError: the event has no name, or one that is not to be published.
            RuntimeError: the events are not running.
            EventsUnavailable: with `strict`, if it is not known to be in Redis (it is still sent).
        """
        if not event.event_name or isinstance(event, Missed):
            raise ValueError(f"{type(event).__name__} is not to be published")
        if not self._running:
            raise RuntimeError("the service has not started, or has ended")
        await self._outbox.put(event, strict=strict)

    async def check(self) -> None:
        """For the health page.

        Raises:
            EventsUnavailable: events cannot be sent, or none can be read; it says why.
            Refused: Redis has lately refused something that events need.
        """
        if self._outbox.error is not None:
            raise EventsUnavailable(
                f"{len(self._outbox)} events wait for Redis: {self._outbox.error}"
            )
        for (publisher, _), subscription in self._subscriptions.items():
            if subscription.error is not None:
                raise EventsUnavailable(f"events of {publisher}: {subscription.error}")
        refusals_of(self._client).check()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(each.start() for each in self._subscriptions.values()))
        tasks = [self._outbox.run()]
        if self._subscriptions:
            tasks.append(self._link().run())
        self._running = [asyncio.create_task(task) for task in tasks]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(each.stop(_PATIENCE) for each in self._subscriptions.values()))
        await self._outbox.drain(_PATIENCE)
        await stop_tasks(self._running)
        self._running = []
        self._outbox.close()

    def _subscription(self, publisher: str, every_process: bool) -> Subscription:
        key = (publisher, every_process)
        if key not in self._subscriptions:
            metrics.expect_publisher(publisher)
            stream = Stream(self._client, publisher)
            handlers = Handlers(publisher, transient=self._transient, timeout=self._handler_timeout)
            turn = (
                OwnTurn(stream)
                if every_process
                else SharedTurn(self._client, stream, self._service, ttl=self._turn_ttl)
            )
            self._subscriptions[key] = Subscription(stream, handlers, turn)
        return self._subscriptions[key]

    def _link(self) -> PubSubConnection:
        publishers = {publisher for publisher, _ in self._subscriptions}
        return PubSubConnection(
            self._client,
            [keys.channel(publisher) for publisher in publishers],
            on_message=self._heard,
            on_disconnect=metrics.link_losses.inc,
        )

    def _heard(self, channel: str, message: bytes | None) -> None:
        announced = EventId.parse(message) if message else NONE
        for (publisher, _), subscription in self._subscriptions.items():
            if keys.channel(publisher) == channel:
                subscription.wake(announced)

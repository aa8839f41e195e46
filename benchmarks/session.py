"""What every experiment is given: how long to measure, applications, a Redis, a progress bar."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress, TaskID

from benchmarks import load
from benchmarks.environments import Environments
from benchmarks.peers import SERVICE, Peer
from benchmarks.servers import Application, Applications
from devservers.valkey import EmbeddedValkey

Serving = dict[Peer, tuple[Application, EmbeddedValkey]]
"""Applications, and the Redis that each has for itself."""


async def steadily(
    serving: Serving,
    items: Sequence[str],
    *,
    rate: float,
    seconds: float,
    patience: float = load.PATIENCE,
) -> list[load.Sample]:
    """What comes of `rate` requests a second for these items, to each of them; see `load`.

    They begin one after the other within the time from one request of each to its next, so that not
    all requests come at the same moment.
    """

    async def ask(number: int, peer: Peer, application: Application) -> load.Sample:
        await asyncio.sleep(number / rate / len(serving))
        paths = peer.url_paths(items)
        return await load.steadily(
            application.port, paths, rate=rate, seconds=seconds, patience=patience
        )

    return await asyncio.gather(
        *(
            ask(number, peer, application)
            for number, (peer, (application, _)) in enumerate(serving.items())
        )
    )


@dataclass(slots=True)
class Session:
    environments: Environments
    applications: Applications
    folder: Path
    """For files that nobody needs afterwards."""
    progress: Progress
    task: TaskID
    quick: bool
    """One tiny round, without what needs an environment of its own: shows that all still runs."""
    used: set[str] = field(default_factory=set)
    """The environments of what was measured."""

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 7

    def seconds(self, full: float, quick: float = 0.1) -> float:
        return quick if self.quick else full

    def peers(self, *peers: Peer) -> list[Peer]:
        """Those that take part in this run."""
        own = ("plain", SERVICE.name)
        return [peer for peer in peers if not self.quick or peer.environment.name in own]

    def steps(self, total: int) -> None:
        """How often `step` will be called."""
        self.progress.update(self.task, total=total, completed=0)

    def step(self, what: str) -> None:
        """Say what comes now."""
        self.progress.update(self.task, advance=1, what=what)
        self.progress.refresh()

    @contextmanager
    def serving(
        self, peers: Sequence[Peer], redis_url: str, **variables: str
    ) -> Iterator[dict[Peer, Application]]:
        """All of them at once; those that nobody asks anything cost nothing."""
        with ExitStack() as stack:
            yield {
                peer: stack.enter_context(self.serve(peer, redis_url, None, **variables))
                for peer in peers
            }

    @contextmanager
    def serving_apart(self, peers: Sequence[Peer], **variables: str) -> Iterator[Serving]:
        """All of them at once, each with a Redis of its own."""
        with ExitStack() as stack:
            found: Serving = {}
            for peer in peers:
                redis = stack.enter_context(self.redis())
                found[peer] = (
                    stack.enter_context(self.serve(peer, redis.url, None, **variables)),
                    redis,
                )
            yield found

    @contextmanager
    def serve(
        self, peer: Peer, redis_url: str, calls: Path | None = None, **variables: str
    ) -> Iterator[Application]:
        self.used.add(peer.environment.name)
        running = self.applications.running(peer, redis_url, calls=calls, **variables)
        with running as application:
            yield application

    @contextmanager
    def redis(self) -> Iterator[EmbeddedValkey]:
        with EmbeddedValkey(maxclients=20_000) as server:
            yield server

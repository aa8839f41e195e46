"""Redis: addresses, clients, fair pools and batched reads."""

from app.core.redis.batching import BatchReader
from app.core.redis.clients import (
    ClientOptions,
    RedisClient,
    create_client,
    create_standalone_client,
)
from app.core.redis.dependency import RedisDependency
from app.core.redis.link import Link
from app.core.redis.outages import OUTAGES
from app.core.redis.pool import PoolTimeout
from app.core.redis.report import ServerReport, UnsuitableServer, report
from app.core.redis.script import Script
from app.core.redis.tasks import stop_tasks
from app.core.redis.urls import RedisAddress, Topology, parse_url, with_login

__all__ = [
    "OUTAGES",
    "BatchReader",
    "ClientOptions",
    "Link",
    "PoolTimeout",
    "RedisAddress",
    "RedisClient",
    "RedisDependency",
    "Script",
    "ServerReport",
    "Topology",
    "UnsuitableServer",
    "create_client",
    "create_standalone_client",
    "parse_url",
    "report",
    "stop_tasks",
    "with_login",
]

"""Redis: URLs, clients, fair pools, batches, pub/sub, and what its errors mean."""

from app.core.redis.batching import BatchReader
from app.core.redis.clients import (
    ClientOptions,
    RedisClient,
    RedisDependency,
    check_client,
    create_client,
    on_connect,
    pool_size,
    refusals_of,
)
from app.core.redis.cluster import FairCluster
from app.core.redis.commands import Command, CommandBatcher
from app.core.redis.outages import (
    OutageLog,
    Refusals,
    Refused,
    advice,
    is_refusal,
    is_transient,
    is_unreadable,
    reply_code,
)
from app.core.redis.pool import PoolTimeout
from app.core.redis.probe import Probe, log_refusal, try_subscribe
from app.core.redis.pubsub import PubSubConnection
from app.core.redis.report import Kept, RedisServers, UnsuitableServer, report
from app.core.redis.script import Script
from app.core.redis.urls import RedisAddress, Topology, parse_url, with_login

__all__ = [
    "BatchReader",
    "ClientOptions",
    "Command",
    "CommandBatcher",
    "FairCluster",
    "Kept",
    "OutageLog",
    "PoolTimeout",
    "Probe",
    "PubSubConnection",
    "RedisAddress",
    "RedisClient",
    "RedisDependency",
    "RedisServers",
    "Refusals",
    "Refused",
    "Script",
    "Topology",
    "UnsuitableServer",
    "advice",
    "check_client",
    "create_client",
    "is_refusal",
    "is_transient",
    "is_unreadable",
    "log_refusal",
    "on_connect",
    "parse_url",
    "pool_size",
    "refusals_of",
    "reply_code",
    "report",
    "try_subscribe",
    "with_login",
]

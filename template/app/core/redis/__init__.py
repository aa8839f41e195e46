"""Redis: URLs, clients, fair pools, batches, pub/sub, and what its errors mean."""

from app.core.redis.batching import BatchReader
from app.core.redis.clients import (
    ClientOptions,
    RedisClient,
    RedisDependency,
    check_client,
    create_client,
    create_standalone_client,
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
from app.core.redis.pubsub import PubSubConnection
from app.core.redis.report import (
    Probe,
    ServerReport,
    UnsuitableServer,
    log_refusal,
    report,
    try_subscribe,
)
from app.core.redis.script import Script, ScriptCall
from app.core.redis.urls import RedisAddress, Topology, parse_url, with_login

__all__ = [
    "BatchReader",
    "ClientOptions",
    "Command",
    "CommandBatcher",
    "FairCluster",
    "OutageLog",
    "PoolTimeout",
    "Probe",
    "PubSubConnection",
    "RedisAddress",
    "RedisClient",
    "RedisDependency",
    "Refusals",
    "Refused",
    "Script",
    "ScriptCall",
    "ServerReport",
    "Topology",
    "UnsuitableServer",
    "advice",
    "check_client",
    "create_client",
    "create_standalone_client",
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

"""Commands that no role may have: they reach other roles' keys, or the server itself."""

import re

_NAME = re.compile(r"[a-z]+(\|[a-z-]+)?", re.ASCII)

# These show the names of keys, whatever the patterns of a role.
_REVEAL = {"keys", "scan", "randomkey", "dbsize", "monitor", "slowlog", "latency", "sync", "psync"}
# These reach all keys, or are not bound to keys at all.
_REACH_ALL = {"flushall", "flushdb", "swapdb", "migrate", "function", "fcall", "fcall_ro", "script"}
# These change or stop the server, or say who may do what.
_RULE = {
    "acl", "bgrewriteaof", "bgsave", "client", "cluster", "config", "debug", "failover", "hotkeys",
    "module", "pfdebug", "pfselftest", "pubsub", "replconf", "replicaof", "reset",
    "restore-asking", "save", "shutdown", "slaveof",
}  # fmt: skip
_REFUSED = _REVEAL | _REACH_ALL | _RULE
# The harmless part of them.
_ALLOWED = {
    "acl|log",
    "acl|whoami",
    "client|getname",
    "client|id",
    "client|setinfo",
    "client|setname",
    "cluster|shards",
    "cluster|slots",
    "pubsub|numsub",
}


def objection(command: str) -> str | None:
    """Why no role may have this command; None if one may.

    Categories (`@read`) are refused: what is in them changes with the version of the server, and
    some of it shows the names of other roles' keys.
    """
    if command.startswith("@"):
        return "is a category, and what is in it changes with the server: name the commands"
    if not _NAME.fullmatch(command):
        return "is not the name of a command, in lower case: get, or client|setname"
    if command not in _ALLOWED and command.partition("|")[0] in _REFUSED:
        return "reaches beyond the keys of a role"
    return None

"""One word for each thing: names that were given up do not come back.

A name of this list said something else in two places, or nothing to who reads it for the first
time. `docs/glossary.md` has the words that are used.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RETIRED = {
    "Ask": "LeaseRequest",
    "Audience": "ReleaseListener",
    "Backoff": "Cooldown",
    "Decoded": "DecodeMemo",
    "Detached": "Tasks",
    "DirectConnection": "RawConnection",
    "Failed": "ServerErrorResponse",
    "FairCheckout": "FairPool",
    "Found": "RouteMatch",
    "KeySource": "JwksClient",
    "Learned": "ClientState",
    "Link": "PubSubConnection",
    "Loaded": "CacheResult",
    "Logins": "RedisCredentials",
    "LuaStore": "Node",
    "Missed": "EventsLost",
    "OUTAGES": "TRANSIENT_ERRORS",
    "Outbox": "PublishBuffer",
    "OwnTurn": "BroadcastConsumer",
    "Place": "ParamSource",
    "Position": "Offset",
    "Producer": "ResponseBuilder",
    "Recipe": "Lookup",
    "Reply": "ResponseSender",
    "Seen": "ReadResult",
    "SharedTurn": "ExclusiveConsumer",
    "Shortcut": "PreroutedRoute",
    "Solver": "DependencyPlan",
    "TOUCHED": "PERSONALIZED_BY",
    "Tally": "BufferedMetrics",
    "Topic": "Waiter",
    "Turn": "Consumer",
    "TurnLost": "OwnershipLost",
    "Turns": "LocalQueue",
    "Visit": "RequestSession",
    "Wakeups": "ReleaseNotifier",
    "Way": "RouteTarget",
    "calm_until": "early_refresh_from",
    "crew": "workers",
    "give_back": "release",
    "give_up": "release",
    "head_start": "xfetch_gap",
    "objection": "forbidden_reason",
    "of_user": "user_prefix",
    "outliving": "loader_safety",
    "renew_versions": "drop_versions",
    "stop_tasks": "Tasks.stop",
    "survey": "check_nodes",
    "unchanged": "verify_round_trip",
}
RETIRED_MODULES = {
    *("announcements", "described", "direct", "edge", "link", "manager", "msgpack_tags"),
    *("outage_log", "outbox", "outliving", "position", "seen", "series", "shortcut", "solver"),
    *("tally", "turns", "visit", "wakeups"),
}
FOLDERS = ["template", "benchmarks", "fleet", "scripts"]
LOG_LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z]+\.[a-z_]+")
"""What a line of the log is called: a part of the service, and what happened to it."""


def retired_in(source: str) -> list[str]:
    """Find retired names among the identifiers of Python code; text and comments are free."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names = [name]
            case ast.keyword(arg=str(name)) | ast.ClassDef(name=name):
                names = [name]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names = [name]
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names = [part for alias in aliases for part in alias.name.split(".")]
            case _:
                continue
        line = getattr(node, "lineno", 0)
        found += [f"line {line}: {n}, say {RETIRED[n]}" for n in names if n in RETIRED]
    return found


def logged_in(source: str) -> list[str]:
    """Find the names of the lines that code logs."""
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in LOG_LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    ]


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from (ROOT / folder).rglob("*.py")


@pytest.mark.parametrize(
    ("source", "is_found"),
    [
        ("class Visit: ...", True),
        ("from app.core.redis import Link", True),
        ("import outliving", True),
        ("keys.of_user(name)", True),
        ("def survey(): ...", True),
        ("f(crew=2)", True),
        ("def f(crew): ...", True),
        ("visit = 'a Visit'  # of_user", False),
        ("class Visitor: ...", False),
    ],
)
def test_control_a_retired_name_is_found(source: str, is_found: bool) -> None:
    assert bool(retired_in(source)) is is_found


def test_no_code_has_a_retired_name() -> None:
    found = {
        str(path.relative_to(ROOT)): retired_in(path.read_text()) for path in sources(*FOLDERS)
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_no_module_of_the_core_has_a_retired_name() -> None:
    found = [path for path in sources("template/app/core") if path.stem in RETIRED_MODULES]
    assert found == []


def test_lines_of_the_log_are_called_after_a_part_and_what_happened() -> None:
    events = [event for path in sources("template/app") for event in logged_in(path.read_text())]
    assert events
    assert [event for event in events if not EVENT.fullmatch(event)] == []

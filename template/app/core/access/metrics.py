"""Metrics of access control. Subjects and keys are no labels: their number is unlimited."""

from collections.abc import Iterable

from prometheus_client import Counter

from app.core.observability.metrics import begin_at_zero

tokens = Counter(
    "access_tokens",
    "Tokens that came with requests: accepted, missing, expired, or invalid in another way.",
    ["outcome"],
)
denials = Counter(
    "access_denials",
    "Requests that were denied: their identity has no role, or Redis denies it to their role.",
    ["role"],
)
logged_denials = Counter(
    "access_logged_denials",
    "Denials in the log of the Redis servers, whoever asked: command, key, channel, auth.",
    ["role", "reason"],
)
lost_denials = Counter(
    "access_lost_denials",
    "Denials that a server has counted and that are no longer in its log: pushed out, or erased.",
)
key_fetches = Counter(
    "access_key_fetches", "Fetches of the issuer's keys: fetched, failed.", ["outcome"]
)

begin_at_zero(tokens, ("accepted", "missing", "expired", "invalid"))
begin_at_zero(key_fetches, ("fetched", "failed"))


def expect_roles(asking: Iterable[str], all_roles: Iterable[str]) -> None:
    """Begin the series of the roles that identities may have, and of all roles."""
    begin_at_zero(denials, ("none", *asking))
    begin_at_zero(logged_denials, ("unknown", *all_roles), ("command", "key", "channel", "auth"))

"""What access control tells Prometheus. Subjects and keys are no labels: they have no end."""

from prometheus_client import Counter

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
    "Denials that a server has counted and that are in its log no more: pushed out, or erased.",
)
key_fetches = Counter(
    "access_key_fetches", "Looks at the keys of the issuer: fetched, failed.", ["outcome"]
)

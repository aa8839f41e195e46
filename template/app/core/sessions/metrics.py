"""Metrics of sessions. Ids and users are no labels: there is no limit to their number."""

from prometheus_client import Counter

from app.core.observability.metrics import begin_at_zero

loads = Counter(
    "session_loads",
    "Cookies that came with requests: loaded, unknown, retired (its key), tampered, unreadable.",
    ["outcome"],
)
writes = Counter(
    "session_writes",
    "Changes of sessions: created, saved, merged, replaced, ended; and lost ones: conflict, gone, "
    "late (after the response had begun).",
    ["outcome"],
)
refusals = Counter(
    "session_csrf_refusals",
    "Writes that another site may have sent: site, origin, token.",
    ["reason"],
)

begin_at_zero(loads, ("loaded", "unknown", "retired", "tampered", "unreadable"))
begin_at_zero(
    writes, ("created", "saved", "merged", "replaced", "ended", "conflict", "gone", "late")
)
begin_at_zero(refusals, ("site", "origin", "token"))

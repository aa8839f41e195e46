"""Errors, reported to Sentry."""

from typing import Any

import sentry_sdk


def report_errors(dsn: str, **options: Any) -> None:
    """Report what fails; an empty `dsn` reports nothing. `options` are those of Sentry."""
    if dsn:
        sentry_sdk.init(dsn=dsn, traces_sample_rate=0, **options)

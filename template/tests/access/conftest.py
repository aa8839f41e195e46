"""Tokens, made with the development key as `python -m app.access token` makes them."""

import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from app.core.access import DEVELOPMENT_SECRET
from app.settings import Settings

Headers = dict[str, str]
Bearer = Callable[..., Headers]


@pytest.fixture
def bearer(settings: Settings) -> Bearer:
    """The headers of a request by `subject`, who is in these groups."""

    def bearer(subject: str, *groups: str, **changes: Any) -> Headers:
        claims: dict[str, Any] = {
            "sub": subject,
            "groups": list(groups),
            "iss": settings.access_issuer,
            "aud": settings.access_audience,
            "exp": int(time.time()) + 60,
        }
        token = jwt.encode(
            claims | changes, DEVELOPMENT_SECRET, "HS256", headers={"kid": "development"}
        )
        return {"authorization": f"Bearer {token}"}

    return bearer

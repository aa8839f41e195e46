"""The setting reaches the feature, and a wrong one stops the start."""

import pytest

from app.settings import SettingsError, load_settings
from tests.conftest import Serve


async def test_the_setting_reaches_the_feature(serve: Serve) -> None:
    async with serve(greeting="hi") as client:
        assert (await client.get("/greeting")).json() == "hi"


def test_a_wrong_one_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREETING", "")
    with pytest.raises(SettingsError, match="GREETING"):
        load_settings()

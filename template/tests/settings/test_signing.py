"""Keys that sign what is cached are chosen in production, and made by each process elsewhere."""

import pytest

from app.settings import SettingsError
from tests.test_settings import SAFE, load, nothing_set

__all__ = ["nothing_set"]  # a fixture


def test_production_signs_what_is_cached_with_a_secret_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unset = {name: value for name, value in SAFE.items() if name != "CACHE_SIGNING_KEYS"}
    with pytest.raises(SettingsError, match="CACHE_SIGNING_KEYS must be set"):
        load(monkeypatch, **unset)


def test_signing_keys_are_replaced_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    both = f"{'new' * 11}, {'old' * 11}"
    assert load(monkeypatch, CACHE_SIGNING_KEYS=both).signing_keys == ["new" * 11, "old" * 11]


def test_every_process_makes_a_signing_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = load(monkeypatch), load(monkeypatch)
    assert one.signing_keys != other.signing_keys
    assert one.signing_keys[0] not in repr(one)

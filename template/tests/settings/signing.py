"""The keys that sign what is cached."""

from tests.settings.part import Part

PART = Part(
    safe={"CACHE_SIGNING_KEYS": "vB8xQ2nLw6KzR4mYt9Pc3Hs7dJf1gUeA"},
    wrong=[
        ("CACHE_SIGNING_KEYS", ""),
        ("CACHE_SIGNING_KEYS", "a secret of thirty-two characters,short"),
    ],
    unsafe=[("CACHE_SIGNING_KEYS", "a" * 32, "key 1 of CACHE_SIGNING_KEYS repeats")],
    hidden=[("CACHE_SIGNING_KEYS", "hunter2" * 5)],
)

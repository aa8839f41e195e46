"""How long things are cached, and what makes them invalid."""

from uuid import UUID

from app.core.cache import Cache, CachePolicy
from scaffold.app.things.models import Thing, ThingPage

PAGES = "things"
"""The tag of every page of things."""


def thing_policy(cache: Cache) -> CachePolicy[Thing]:
    """Read often, changed seldom, and an old one is better than none."""
    return cache.policy(
        "thing", Thing, ttl=60, stale_while_revalidate=30, stale_if_error=3600, negative_ttl=15
    )


def page_policy(cache: Cache) -> CachePolicy[ThingPage]:
    """Pages change with everything that is on them."""
    return cache.policy("things", ThingPage, ttl=10, stale_if_error=3600)


def thing_tag(thing_id: UUID) -> str:
    return f"thing:{thing_id}"


async def forget_thing(cache: Cache, thing_id: UUID) -> None:
    """Make invalid what shows a thing that has changed."""
    await cache.invalidate_tags(thing_tag(thing_id), PAGES)

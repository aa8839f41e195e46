"""How long items are cached, and what makes them invalid."""

from uuid import UUID

from app.core.cache import Cache, CachePolicy
from app.items.changes import Change, Listener
from app.items.models import Item, ItemPage, Stock

LISTS = "items"
"""The tag of every page of items, and of what is made of several."""


def item_policy(cache: Cache) -> CachePolicy[Item]:
    """Single items: read often, changed seldom, and an old one is better than none."""
    return cache.policy(
        "item", Item, ttl=60, stale_while_revalidate=30, stale_if_error=3600, negative_ttl=15
    )


def page_policy(cache: Cache) -> CachePolicy[ItemPage]:
    """Pages change with every item on them."""
    return cache.policy("items", ItemPage, ttl=10, stale_if_error=3600)


def name_policy(cache: Cache) -> CachePolicy[str]:
    """Names are asked for most: with `NEAR_CACHE_BYTES`, each process keeps them for a moment."""
    return cache.policy("item_name", str, ttl=60, near_ttl=5, stale_if_error=3600)


def stock_policy(cache: Cache) -> CachePolicy[Stock]:
    """Nobody waits for the count: who asks gets the last one while it is made anew."""
    return cache.policy("stock", Stock, ttl=10, stale_while_revalidate=60, stale_if_error=3600)


def item_tag(item_id: UUID) -> str:
    return f"item:{item_id}"


def forget_item(cache: Cache) -> Listener:
    """Makes what shows a changed item invalid."""

    async def forget(item_id: UUID, change: Change) -> None:
        await cache.invalidate_tags(item_tag(item_id), LISTS)

    return forget

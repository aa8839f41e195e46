"""Baskets: everybody has one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel

from app.core.cache import Cache
from app.core.service import Service


class Basket(BaseModel):
    items: list[str]


async def get_user(x_user: Annotated[str, Header()]) -> str:
    return x_user


def install_baskets(service: Service) -> None:
    """Serve baskets, and cache one for each user."""
    policy = service.find(Cache).policy("basket", Basket, ttl=60)
    baskets = {"ann": ["lamp"], "bob": ["rug"]}
    router = APIRouter()

    @router.get("/basket")
    @policy.http(vary_by=get_user)
    async def read_basket(user: Annotated[str, Depends(get_user)]) -> Basket:
        return Basket(items=baskets[user])

    service.include(router)

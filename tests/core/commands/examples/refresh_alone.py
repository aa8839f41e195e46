"""What the refresh would be without the lease: the control."""

import argparse

from app.core.cache import Cache
from app.core.service import Service


async def run(service: Service, arguments: argparse.Namespace) -> None:
    await service.find(Cache).refresh()

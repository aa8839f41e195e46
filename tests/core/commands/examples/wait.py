"""Wait for ever, and say so."""

import argparse
import asyncio
import sys

from app.core.service import Service


async def run(service: Service, arguments: argparse.Namespace) -> None:
    print("waiting", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)
        sys.stdout.flush()

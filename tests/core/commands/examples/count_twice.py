"""Count twice as far.

More about that.
"""

import argparse

import structlog

from app.core.service import Service

log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("number", type=int)


async def run(service: Service, arguments: argparse.Namespace) -> int:
    """Return 3 for negative numbers."""
    log.warning("count.begins", service=service.name)
    if arguments.number == 0:
        raise ValueError("nothing is twice as far")
    print(arguments.number * 2)
    return 3 if arguments.number < 0 else 0

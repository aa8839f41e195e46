"""Run a command: `python -m app.commands NAME`."""

import sys

from app import commands
from app.core.commands import main
from app.core.service import Service


def make_service() -> Service:
    # Not above: to see what there is, nobody needs settings.
    from app.main import create_service
    from app.settings import load_settings

    settings = load_settings()
    # No client waits for a command: it has the time to ask Redis before it loads something itself.
    settings.cache_read_timeout = max(settings.cache_read_timeout, settings.redis_timeout)
    return create_service(settings)


if __name__ == "__main__":
    sys.exit(main(commands, make_service, sys.argv[1:]))

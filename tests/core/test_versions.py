"""The core on the oldest Redis that is supported, and on Debian's: the tests that tell the most.

Any other server is tried with `TEST_REDIS_SERVER=/path/to/redis-server pytest tests/core`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devservers.valkey import EmbeddedValkey
from tests.support.versions import VERSIONS

CORE = Path(__file__).parent
TELLING = [
    "cache/test_entries.py",
    "cache/test_invalidation.py",
    "cache/test_many.py",
    "cache/test_near.py",
    "events/test_delivery.py",
    "locks/test_contention.py",
    "locks/test_quarantine.py",
    "locks/test_waiting.py",
    "redis/test_batching.py",
    "redis/test_poor_servers.py",
    "sessions/test_attacks.py",
    "sessions/test_lifetimes.py",
    "sessions/test_sessions.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("version", [each for each in VERSIONS if each.id != "valkey-9"])
def test_all_parts(version: type[EmbeddedValkey]) -> None:
    assert version.program is not None
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider"]
        + [str(CORE / file) for file in TELLING],
        env={**os.environ, "TEST_REDIS_SERVER": str(version.program)},
        cwd=CORE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]

"""Ends what the fleet has started when the fleet is gone, however it ended, and removes its folder.

A process of its own, run by its path, because one that is killed with SIGKILL cannot clean up. It
reads `+pgid` and `-pgid` from its standard input; only the fleet holds the other end of that pipe.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main(folder: str) -> None:
    # Ctrl-C and a closed terminal are for the fleet, which ends us by letting go of the pipe.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for order in sys.stdin:
        group = int(order[1:])
        if order[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):  # it has just ended
            os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])

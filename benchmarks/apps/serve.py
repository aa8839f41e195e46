"""Serve one application on one core, for as long as the process that started this lives.

    python serve.py MODULE PORT [CORE]

It runs in the environment of a peer, so it imports nothing of this repository. The service's own
options of uvicorn (see its Dockerfile) are everybody's.
"""

import os
import sys
import threading

import uvicorn


def _end_with_owner() -> None:
    # The owner holds the other end, and never writes. Not through sys.stdin, which the end of the
    # interpreter would wait for.
    while os.read(0, 1):
        pass
    os._exit(0)


def main(module: str, port: str, core: str = "") -> None:
    if core:
        os.sched_setaffinity(0, {int(core)})
    threading.Thread(target=_end_with_owner, daemon=True).start()
    uvicorn.run(
        f"{module}:app",
        host="127.0.0.1",
        port=int(port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        log_level="warning",
        backlog=4096,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

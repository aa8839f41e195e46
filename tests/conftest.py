"""How the tests are shared out among the processes of `-n`, where that is `--dist loadfile`."""

import re
import signal

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# Files whose tests take long, and have little in common that each process would have to make anew.
SHARED_OUT = ("test_profiles.py", "test_update.py")
# The tests of all combinations with one database, which are rendered once for them.
ALL_WITH = re.compile(r"all with \w+")

# A background job of a shell ignores Ctrl-C, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


class FilesAndLongTests(LoadFileScheduling):  # type: ignore[misc] # xdist is not typed
    """A file stays in one process, but for what takes long and shares little."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        if combinations := ALL_WITH.search(nodeid):
            return f"{file} {combinations[0]}"
        return nodeid if file.endswith(SHARED_OUT) else file


@pytest.hookimpl(optionalhook=True)  # `-p no:xdist` knows no such hook
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesAndLongTests | None:
    return FilesAndLongTests(config, log) if config.getoption("dist") == "loadfile" else None

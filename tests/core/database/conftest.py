from collections.abc import Iterator

import pytest

from tests.core.database.backends import ALL, SLOW, Backend, running


@pytest.fixture(
    scope="session",
    params=[pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in ALL],
)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Backend]:
    """Each of the databases, one after the other."""
    with running(request.param, tmp_path_factory.mktemp(request.param)) as backend:
        yield backend

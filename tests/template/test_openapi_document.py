"""A generated service answers whatever Schemathesis makes of its OpenAPI document as that says.

Valid requests and invalid ones, missing and forged credentials, methods that are not there, and
what follows from earlier answers: no 5xx, no status, content type or body that is not documented,
nothing valid that is refused and nothing invalid that is taken.

    schemathesis --config-file tests/template/schemathesis.toml run URL/openapi.json -n 500

has more of them, with SESSION, CSRF_TOKEN and TOKEN in the environment.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.cookies import SimpleCookie
from pathlib import Path

import httpx2
import pytest

from devservers.waiting import HANG
from scripts.running import running_service, service_environment
from tests.template.conftest import Render
from tests.template.edits import OWN_FEATURES, insert_after, write
from tests.template.test_profiles import run

SCHEMATHESIS = [
    str(Path(sys.executable).with_name("schemathesis")),
    f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
    "--no-color",
    "run",
]
# So many examples for each operation and phase, every time the same.
BOUNDED = ["--max-examples=5", "--seed=1", "--no-shrink", "--continue-on-failure"]
HOST = "orders.test"  # as in schemathesis.toml
WRITERS = "documents-writers"
NOBODY = {"TOKEN": "none", "SESSION": "none", "CSRF_TOKEN": "none"}
CREDENTIALS = {"name": "ann", "password": "correct horse battery"}

# The control: each route breaks one promise of its document.
BROKEN = '''"""Routes that do not keep to what they say."""

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import JSONResponse

router = APIRouter(prefix="/broken")


@router.get("/fails")
async def fails(number: int) -> int:
    return 1 // 0


@router.get("/status")
async def status() -> None:
    raise HTTPException(418)


@router.get("/body", response_model=None, responses={200: {"model": list[int]}})
async def body() -> Any:
    return ["one"]


@router.get("/error", responses={404: {"description": "None"}})
async def error() -> None:
    return JSONResponse({"detail": "not as problem details"}, 404)


@router.get("/refuses")
async def refuses(number: int) -> None:
    raise HTTPException(422, [])


@router.get("/takes", openapi_extra={
    "parameters": [
        {"name": "number", "in": "query", "required": True, "schema": {"type": "integer"}}
    ]
})
async def takes() -> None: ...
'''
FOUND = {
    "/broken/fails": "Server error",
    "/broken/status": "Undocumented status code",
    "/broken/body": "Response violates schema",
    "/broken/error": "Undocumented Content-Type",
    "/broken/refuses": "Schema-valid request rejected",
    "/broken/takes": "Schema-violating request accepted",
}


@dataclass(frozen=True)
class Asked:
    """A running service, and what Schemathesis has in its environment: somebody's credentials."""

    url: str
    variables: dict[str, str]

    def by_schemathesis(self, place: Path, *options: str) -> tuple[int, str]:
        """Its exit code, which is 1 if it found something, and all that it said."""
        done = subprocess.run(
            [*SCHEMATHESIS, f"{self.url}/openapi.json", *options],
            cwd=place,  # for what it remembers
            env=os.environ | self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def service(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """With everything there is to choose, the control, and an account."""
    place = tmp_path_factory.mktemp("openapi")
    rendered = render(database="sqlite", sessions=True, events=True, access=True)
    folder = Path(shutil.copytree(rendered, place / "service"))
    write(folder / "app/broken.py", BROKEN)
    main = folder / "app/main.py"
    insert_after(main, "import install_items\n", "from app.broken import router\n")
    insert_after(main, OWN_FEATURES, "    service.include(router)\n")
    assert run(folder, "sync --quiet") == ""
    token = subprocess.run(
        [folder / ".venv/bin/python", "-m", "app.access", "token", "ann", f"groups={WRITERS}"],
        cwd=folder,
        env=service_environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.strip()
    with running_service(folder, place / "log") as running:
        logged_in = log_in(running.url)
        yield Asked(running.url, {"TOKEN": token, **logged_in})


def log_in(url: str) -> dict[str, str]:
    with httpx2.Client(base_url=url, headers={"host": HOST}, timeout=HANG) as client:
        client.post("/accounts", json=CREDENTIALS).raise_for_status()
        answer = client.post("/accounts/login", json=CREDENTIALS).raise_for_status()
    cookie = SimpleCookie(answer.headers["set-cookie"])
    return {
        "SESSION": cookie["__Host-orders-session"].value,
        "CSRF_TOKEN": answer.json()["csrf_token"],
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("paths", "credentials"),
    [
        pytest.param("--exclude-path-regex=^/(broken|accounts/log)", True, id="somebody"),
        # Whoever logs in or out with a session ends it, for all the requests that follow.
        pytest.param("--include-path-regex=^/accounts", False, id="a stranger"),
    ],
)
def test_every_request_is_answered_as_documented(
    service: Asked, tmp_path: Path, paths: str, credentials: bool
) -> None:
    asked = service if credentials else replace(service, variables=NOBODY)
    code, said = asked.by_schemathesis(tmp_path, paths, *BOUNDED)
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_routes_that_break_their_promises_are_found(service: Asked, tmp_path: Path) -> None:
    code, said = service.by_schemathesis(tmp_path, "--include-path-regex=^/broken", *BOUNDED)
    assert code == 1, said
    for path, mistake in FOUND.items():
        part = re.search(rf"_ GET {path} _(.*?)\n_+ ", said + "\n___ ", re.DOTALL)
        assert part is not None, f"nothing on {path}:\n{said}"
        assert mistake in part[1], said

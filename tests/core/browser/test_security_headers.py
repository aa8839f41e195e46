"""Whatever is answered, and on whichever way, has the headers that protect it, once each."""

import httpx2
import pytest

from app.core.browser import API_POLICY, check_policy, security_headers
from app.core.responses import AddedHeaders
from tests.core.browser.conftest import OWN_POLICY, MakeApp, asking_a_server
from tests.core.browser.test_cors import ADMIN, FAILURES, NAMED, PREFLIGHT
from tests.core.cache.http.serving import status
from tests.support.fastpath import chosen

HEADERS = security_headers(policy=API_POLICY, hsts_seconds=60)
EXPECTED = {
    "content-security-policy": API_POLICY,
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
HSTS = "strict-transport-security"
ASKED = FAILURES | {
    "a hit": ("GET", "/items/7", 200, {}),
    "a hit of HEAD": ("HEAD", "/items/7", 200, {}),
    "somebody's hit": ("GET", "/mine/7", 200, {}),
    "a miss": ("GET", "/items/8", 200, {}),
    "no host": ("GET", "/items/7", 400, {"host": "evil.example"}),
    "a preflight": ("OPTIONS", "/items/7", 204, {"origin": ADMIN, **PREFLIGHT}),
    "a refused preflight": ("OPTIONS", "/items/7", 403, {"origin": "https://x", **PREFLIGHT}),
}


def found(answer: httpx2.Response) -> dict[str, str]:
    return {
        name: value
        for name in (*EXPECTED, HSTS)
        for value in [", ".join(answer.headers.get_list(name))]
        if value
    }


@pytest.mark.parametrize("fast", [True, False])
async def test_every_answer_has_them(make_app: MakeApp, fast: bool) -> None:
    app = make_app(cors=NAMED, hosts=["127.0.0.1"], headers=HEADERS)
    behind_tls = {"x-forwarded-proto": "https"}  # from a proxy that is trusted
    with chosen(fast=fast):
        async with asking_a_server(app) as client:
            for warm in ("/items/7", "/mine/7"):
                await client.get(warm)
            for kind, (method, path, code, headers) in ASKED.items():
                answer = await client.request(method, path, headers=headers)
                over_tls = await client.request(method, path, headers=headers | behind_tls)
                assert (answer.status_code, found(answer)) == (code, EXPECTED), kind
                assert found(over_tls) == EXPECTED | {HSTS: "max-age=60"}, kind


@pytest.mark.parametrize("fast", [True, False])
async def test_what_a_route_says_itself_stays(make_app: MakeApp, fast: bool) -> None:
    with chosen(fast=fast):
        async with asking_a_server(make_app(headers=HEADERS)) as client:
            for outcome in ("fwd=miss", "hit", "hit"):
                answer = await client.get("/page")
                assert status(answer) == outcome
                own = {"content-security-policy": OWN_POLICY, "x-frame-options": "SAMEORIGIN"}
                assert found(answer) == EXPECTED | own
            # Which is no matter of anybody else's.
            assert found(await client.get("/items/7")) == EXPECTED


@pytest.mark.parametrize(
    ("policy", "left_out"),
    [
        ("", {"content-security-policy", "x-frame-options"}),
        ("frame-ancestors 'self'", {"x-frame-options"}),
    ],
)
def test_what_is_not_wanted_is_left_out(policy: str, left_out: set[str]) -> None:
    for added in security_headers(policy=policy, hsts_seconds=0):
        assert {name.decode() for name, _ in added.headers} == set(EXPECTED) - left_out


@pytest.mark.parametrize("policy", ["default-src none", "a\nb", "script-src self; x", "ä"])
def test_a_policy_that_means_something_else_is_refused(policy: str) -> None:
    with pytest.raises(ValueError, match=r"ASCII|quotes"):
        check_policy(policy)


def test_only_what_senders_look_for_can_be_added() -> None:
    with pytest.raises(ValueError, match="x-other"):
        AddedHeaders([(b"x-other", b"1")])

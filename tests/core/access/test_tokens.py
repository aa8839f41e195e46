"""Forged, stale and misdirected tokens prove nothing; keys come, go and may be away."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from app.core.access import DEVELOPMENT_SECRET, JwksClient, Policy, TokenRules, Verifier
from app.core.access.jwks import DevelopmentKeys, KeysUnavailable
from app.core.access.tokens import InvalidToken
from devservers.server import free_port
from devservers.waiting import HANG, until
from tests.core.access.conftest import AUDIENCE, ISSUER, Issuer, good_claims

RULES = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=["RS256", "ES256"], leeway=5)


FAR = 2**32
"""Seconds since 1970: in the year 2106."""


MakeVerifier = Callable[..., Verifier]


@pytest.fixture
async def make_verifier(issuer: Issuer, policy: Policy) -> AsyncIterator[MakeVerifier]:
    """Makes verifiers, with time for a fetch on a busy machine, and closes them."""
    async with AsyncExitStack() as stack:

        def make_verifier(
            location: str = issuer.url, *, rules: TokenRules = RULES, **options: Any
        ) -> Verifier:
            keys = JwksClient(location, **{"timeout": HANG, "min_interval": 0, **options})
            verifier = Verifier(keys, rules, policy)
            stack.push_async_callback(verifier.close)
            return verifier

        yield make_verifier


@pytest.fixture
def verifier(make_verifier: MakeVerifier) -> Verifier:
    return make_verifier()


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def is_believed(verifier: Verifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except InvalidToken:
        return False
    return True


async def test_a_good_token_says_who_it_is(issuer: Issuer, verifier: Verifier) -> None:
    identity = await verifier.verify(issuer.token("first"))
    assert (identity.subject, identity.redis_role) == ("ann", "writer")


@pytest.mark.parametrize(
    ("claims", "role"),
    [
        ({"groups": ["writers"]}, "writer"),
        ({"groups": "writers"}, "writer"),
        ({"groups": ["others"], "realm": {"roles": ["readers"]}}, "reader"),
        ({"groups": None, "scope": "write read"}, "reader"),
        ({"groups": ["writers"], "scope": "read"}, "writer"),
        ({"groups": ["writers2"]}, None),
        ({"groups": "writers readers"}, None),
        ({"groups": {"writers": True}}, None),
        ({"groups": None, "realm": "readers"}, None),
        ({"groups": None}, None),
    ],
)
async def test_the_first_rule_that_fits_gives_the_role(
    issuer: Issuer, verifier: Verifier, claims: dict[str, Any], role: str | None
) -> None:
    assert (await verifier.verify(issuer.token("first", **claims))).redis_role == role


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"nbf": FAR},
        {"iat": FAR},
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://elsewhere.example/"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": " \t"},
        {"sub": ["ann"]},
        {"exp": float("inf")},
        {"nbf": float("inf")},
        {"iat": float("-inf")},
        {"exp": {}},
        {"aud": 5},
    ],
    ids=[
        *("expired", "for ever", "not yet", "from the future", "for another", "for nobody"),
        *("issued elsewhere", "issued nowhere", "of nobody"),
        *("of an empty name", "of a blank", "of a list", "until infinity", "from infinity"),
        *("issued at minus infinity", "until nonsense", "for a number"),
    ],
)
async def test_what_a_token_says_has_to_fit(
    issuer: Issuer, verifier: Verifier, claims: dict[str, Any]
) -> None:
    with pytest.raises(InvalidToken):
        await verifier.verify(issuer.token("first", **claims))


async def test_clocks_may_differ_a_little(issuer: Issuer, verifier: Verifier) -> None:
    assert await is_believed(verifier, issuer.token("first", exp=int(time.time()) - 2))


async def test_forged_tokens_are_refused(issuer: Issuer, verifier: Verifier) -> None:
    issuer.add_key("rsa", kind="RSA")
    public = issuer.keys["rsa"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    published = json.dumps(issuer.published[-1]).encode()
    stranger = Issuer()
    stranger.add_key("first")
    body = good_claims()
    good = issuer.token("rsa")
    signed, _, signature = good.rpartition(".")
    other_body = unsigned({"alg": "RS256", "kid": "rsa"}, {**body, "sub": "root"})
    forged = {
        "no algorithm": unsigned({"alg": "none", "kid": "rsa"}, body) + ".",
        "none, as another word": unsigned({"alg": "nOnE", "kid": "rsa"}, body) + ".",
        "no signature": signed + ".",
        "another body": f"{other_body}.{signature}",
        "another key of the same name": stranger.token("first"),
        "an algorithm of another key": jwt.encode(
            body, stranger.keys["first"], "ES256", headers={"kid": "rsa"}
        ),
        "a key that is brought along": jwt.encode(
            body, stranger.keys["first"], "ES256", headers={"jwk": stranger.published[0]}
        ),
        "a name that is a list": unsigned({"alg": "ES256", "kid": ["rsa"]}, body) + ".x",
        "a critical extension": unsigned({"alg": "ES256", "kid": "first", "crit": ["x"]}, body)
        + ".x",
        "a deep nest": f"{_encoded(b'[' * 5000)}.a.b",
        "letters that are none": "\u00e9.\u00e9.\u00e9",
        "not a token": "a.b.c",
        "too long": "a" * 10_000,
    }
    for secret, name in (pem, "PEM"), (published, "JWK"):
        text = unsigned({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, body)
        mac = hmac.digest(secret, text.encode(), hashlib.sha256)
        forged[f"the public key as a secret, {name}"] = f"{text}.{_encoded(mac)}"
    stranger.close()

    assert await is_believed(verifier, good)
    for how, token in forged.items():
        assert not await is_believed(verifier, token), how


async def test_the_control_what_is_refused_here_is_good_elsewhere(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    """So each of these tokens was refused for what it says, or who signed it, and nothing else."""
    other_rules = (
        (replace(RULES, audience="another"), {"aud": "another"}),
        (
            replace(RULES, issuer="https://elsewhere.example/"),
            {"iss": "https://elsewhere.example/"},
        ),
        (replace(RULES, leeway=120), {"exp": int(time.time()) - 60}),
        (replace(RULES, leeway=900), {"nbf": int(time.time()) + 600}),
    )
    for rules, claims in other_rules:
        verifier = make_verifier(rules=rules)
        assert await is_believed(verifier, issuer.token("first", **claims))
    stranger = Issuer()
    stranger.add_key("first")
    verifier = make_verifier(stranger.url)
    assert await is_believed(verifier, stranger.token("first"))
    assert not await is_believed(verifier, issuer.token("first"))
    stranger.close()


async def test_a_new_key_is_found_and_an_old_one_forgotten(
    issuer: Issuer, verifier: Verifier
) -> None:
    old = issuer.token("first")
    assert await is_believed(verifier, old)
    issuer.add_key("second")
    issuer.withdraw("first")
    assert await is_believed(verifier, issuer.token("second"))
    assert issuer.fetches == 2
    with pytest.raises(InvalidToken):
        await verifier.verify(old)


async def test_a_key_that_was_taken_back_is_forgotten_after_the_refresh(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    issuer.add_key("second")
    now = 0.0
    verifier = make_verifier(refresh_after=600, clock=lambda: now)
    old = issuer.token("first")
    await verifier.verify(old)
    issuer.withdraw("first")
    now = 600.0
    assert await is_believed(verifier, old)
    now = 601.0

    async def is_refused() -> bool:
        return not await is_believed(verifier, old)

    await until(is_refused)


async def test_unknown_keys_do_not_make_the_service_ask_again_and_again(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    verifier = make_verifier(min_interval=60)
    issuer.add_key("never published")
    issuer.withdraw("never published")
    tokens = [issuer.token("never published", jti=str(number)) for number in range(50)]
    answers = await asyncio.gather(
        *(verifier.verify(token) for token in tokens), return_exceptions=True
    )
    assert all(isinstance(answer, InvalidToken) for answer in answers)
    assert issuer.fetches == 1
    assert await is_believed(verifier, issuer.token("first"))


NO_SETS = [
    *(b"", b"<html>", b"\xff\xfe", b"[]", b"null", b"5", b'"keys"', b"{}", b'{"keys": {}}'),
    *(b'{"keys": null}', b'{"keys": ["x"]}', b'{"keys": [[]]}', b"[" * 100_000),
]


@pytest.mark.parametrize("answer", NO_SETS, ids=lambda answer: answer[:16].decode("latin-1"))
async def test_what_is_no_set_of_keys_changes_nothing(
    issuer: Issuer, make_verifier: MakeVerifier, answer: bytes
) -> None:
    known = make_verifier(refresh_after=0)
    token = issuer.token("first")
    await known.verify(token)
    issuer.answer = answer or b" "
    before = issuer.fetches
    await until(lambda: _is_believed_and_asked(known, token, issuer, before + 1))
    new = make_verifier()
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await new.verify(token)


async def _is_believed_and_asked(
    verifier: Verifier, token: str, issuer: Issuer, fetches: int
) -> bool:
    assert await is_believed(verifier, token)
    return issuer.fetches > fetches


@pytest.mark.parametrize("trouble", ["status", "huge", "slow"])
async def test_while_the_issuer_is_in_trouble_known_keys_stay_good(
    issuer: Issuer, make_verifier: MakeVerifier, trouble: str
) -> None:
    verifier = make_verifier(refresh_after=0)
    token = issuer.token("first")
    await verifier.verify(token)
    match trouble:
        case "status":
            issuer.status = 500
        case "huge":
            issuer.answer = b" " * 300_000
        case "slow":
            issuer.answers.clear()
    before = issuer.fetches
    # The first fetch may have been under way; of a slow issuer there is one at a time.
    enough = before if trouble == "slow" else before + 1
    await until(lambda: _is_believed_and_asked(verifier, token, issuer, enough))


@pytest.mark.parametrize("left", ["none", "one to encrypt with", "another one"])
async def test_withdrawn_is_withdrawn_whatever_is_left(
    issuer: Issuer, make_verifier: MakeVerifier, left: str
) -> None:
    verifier = make_verifier(refresh_after=0)
    token = issuer.token("first")
    await verifier.verify(token)
    if left == "another one":
        issuer.add_key("second")
    issuer.withdraw("first")
    if left == "one to encrypt with":
        issuer.add_key("encrypts")
        issuer.published[-1]["use"] = "enc"

    async def is_refused() -> bool:
        return not await is_believed(verifier, token)

    await until(is_refused)


async def test_keys_are_believed_for_a_day_without_their_issuer(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    now = 1000.0
    verifier = make_verifier(clock=lambda: now)
    token = issuer.token("first")
    await verifier.verify(token)
    issuer.status = 500
    now += 86_399
    assert await is_believed(verifier, token)
    now += 2
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token)
    issuer.status = 200
    assert await is_believed(verifier, token)


@pytest.mark.filterwarnings("ignore:The RSA key is 1024")
async def test_keys_that_prove_little_verify_nothing(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    """Short ones, private ones that were published, and what is no key beside one that is good."""
    issuer.add_key("short", kind="RSA", bits=1024)
    issuer.add_key("long", kind="RSA", bits=2048)
    issuer.add_key("public secret")
    private = issuer.keys["public secret"]
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    published = ECAlgorithm.to_jwk(private, as_dict=True)
    issuer.published[-1] = {**published, "kid": "public secret"}
    nonsense: list[dict[str, Any]] = [
        {},
        {"kty": 5},
        {"kty": "RSA", "n": 5, "e": []},
        {"kty": "EC", "crv": "P-256", "x": "\u00e9", "y": None},
        {**issuer.published[0], "kid": ["first"]},
        {**issuer.published[0], "kid": "bent", "x": "AAAA"},
    ]
    issuer.published += nonsense
    verifier = make_verifier()
    believed = {name: await is_believed(verifier, issuer.token(name)) for name in issuer.keys}
    assert believed == {"first": True, "short": False, "long": True, "public secret": False}


@pytest.mark.parametrize("place", ["https://[bad", "https://", "http://127.0.0.1:99999/", "/"])
async def test_a_place_that_cannot_be_read_is_told_as_such(
    issuer: Issuer, make_verifier: MakeVerifier, place: str
) -> None:
    with pytest.raises(KeysUnavailable):
        await make_verifier(place).verify(issuer.token("first"))


async def test_without_any_key_yet_nothing_is_judged_and_then_it_is(
    issuer: Issuer, make_verifier: MakeVerifier
) -> None:
    issuer.status = 503
    verifier = make_verifier()
    with pytest.raises(KeysUnavailable):
        await verifier.verify(issuer.token("first"))
    issuer.status = 200
    assert await is_believed(verifier, issuer.token("first"))
    nowhere = make_verifier(f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(KeysUnavailable):
        await nowhere.verify(issuer.token("first"))


async def test_keys_may_be_in_a_file_and_a_published_secret_verifies_nothing(
    issuer: Issuer, make_verifier: MakeVerifier, tmp_path: Path
) -> None:
    secret = {"kty": "oct", "kid": "secret", "k": _encoded(b"x" * 32)}
    encrypting = {**issuer.published[0], "kid": "encrypts", "use": "enc"}
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [secret, encrypting, *issuer.published]}))
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256", "ES256"])
    verifier = make_verifier(str(path), rules=rules)
    assert await is_believed(verifier, issuer.token("first"))
    for key_id, key, algorithm in (
        ("secret", b"x" * 32, "HS256"),
        ("encrypts", issuer.keys["first"], "ES256"),
    ):
        token = jwt.encode(good_claims(), key, algorithm, headers={"kid": key_id})
        with pytest.raises(InvalidToken):
            await verifier.verify(token)


async def test_the_development_key_is_one_that_tokens_name(policy: Policy) -> None:
    rules = TokenRules(issuer=ISSUER, audience=AUDIENCE, algorithms=["HS256"])
    verifier = Verifier(DevelopmentKeys(DEVELOPMENT_SECRET), rules, policy)
    named = {"kid": "development"}
    token = jwt.encode(good_claims(), DEVELOPMENT_SECRET, "HS256", headers=named)
    assert (await verifier.verify(token)).redis_role == "writer"
    for headers, secret in ({}, DEVELOPMENT_SECRET), (named, "another secret" * 3):
        with pytest.raises(InvalidToken):
            await verifier.verify(jwt.encode(good_claims(), secret, "HS256", headers=headers))

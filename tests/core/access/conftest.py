"""A policy, an issuer of tokens with a real key server, and their servers."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from app.core.access import Policy, load_policy
from devservers.valkey import EmbeddedValkey

ISSUER, AUDIENCE = "https://issuer.example/", "orders"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

POLICY = """
[connection]
commands = [
  "ping", "client|setname", "multi", "exec", "discard", "asking", "cluster|slots", "command",
]

[roles.audit]
about = "what the servers have denied"
keys = ["{service}:access:*"]
commands = ["info", "acl|log", "hgetall", "hset", "del", "pexpire", "eval", "evalsha"]

[roles.reader]
about = "reads"
read = ["{service}:reports*"]
commands = ["get"]

[roles.writer]
about = "writes"
keys = ["{service}:reports*"]
commands = ["get", "set", "eval"]

[[identities]]
claim = "groups"
value = "writers"
role = "writer"

[[identities]]
claim = ["realm", "roles"]
value = "readers"
role = "reader"

[[identities]]
claim = "scope"
value = "read"
role = "reader"
"""


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "access.toml"
    path.write_text(POLICY)
    return load_policy(path, service="orders")


class Issuer:
    """Has keys, publishes them over HTTP, and signs with any of them."""

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.published: list[dict[str, Any]] = []
        self.answer: bytes | None = None
        """Sent instead of the keys."""
        self.status = 200
        self.answers = threading.Event()
        """Cleared, it keeps whoever asks waiting."""
        self.answers.set()
        self.fetches = 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetches += 1
                issuer.answers.wait()
                with suppress(ConnectionError):  # nobody waits any more
                    self.send_keys()

            def send_keys(self) -> None:
                body = issuer.answer or json.dumps({"keys": issuer.published}).encode()
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def add_key(self, key_id: str, *, kind: str = "EC", bits: int = 2048) -> None:
        """Make a key and publish it; `bits` are those of an RSA key."""
        if kind == "RSA":
            rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
            self.keys[key_id] = rsa_key
            public = RSAAlgorithm.to_jwk(rsa_key.public_key(), as_dict=True)
        else:
            ec_key = ec.generate_private_key(ec.SECP256R1())
            self.keys[key_id] = ec_key
            public = ECAlgorithm.to_jwk(ec_key.public_key(), as_dict=True)
        self.published.append({**public, "kid": key_id, "use": "sig"})

    def withdraw(self, key_id: str) -> None:
        self.published = [key for key in self.published if key["kid"] != key_id]

    def token(self, key_id: str, **claims: Any) -> str:
        """A token that is good unless `claims` make it bad; None takes a claim away."""
        key = self.keys[key_id]
        algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
        return jwt.encode(good_claims(**claims), key, algorithm, headers={"kid": key_id})

    def close(self) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()


def good_claims(**changes: Any) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "sub": "ann",
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": int(time.time()) + 300,
        "groups": ["writers"],
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    issuer.add_key("first")
    yield issuer
    issuer.close()


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server

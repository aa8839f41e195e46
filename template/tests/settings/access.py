"""Access control: logins in Redis that follow from a secret, and tokens."""

from app.core.access import DEVELOPMENT_SECRET
from tests.settings.part import Part

PART = Part(
    safe={
        "REDIS_URL": "rediss://redis.example:6380/0",
        "ACCESS_SECRETS": "Zk7mVb2Xq9Tn4WcR1yPfK6dGs3LhUa8EoJ5tQiBwMxY=",
        "ACCESS_JWKS": "https://issuer.example/jwks.json",
        "ACCESS_ISSUER": "https://issuer.example/",
    },
    wrong=[
        ("REDIS_URL", "redis://user:word@host/0"),
        ("ACCESS_SECRETS", ""),
        ("ACCESS_SECRETS", "one,one"),
        ("ACCESS_ALGORITHMS", ""),
        ("ACCESS_ALGORITHMS", "none"),
        ("ACCESS_ALGORITHMS", "RS256,HS256"),
        ("ACCESS_JWKS", "ftp://issuer.example"),
        ("ACCESS_ISSUER", ""),
        ("ACCESS_LEEWAY", "-1"),
    ],
    unsafe=[
        ("ACCESS_SECRETS", DEVELOPMENT_SECRET, "secret 1 of ACCESS_SECRETS is the one for"),
        ("ACCESS_SECRETS", "ab" * 32, "secret 1 of ACCESS_SECRETS repeats"),
        ("ACCESS_SECRETS", "short", "secret 1 of ACCESS_SECRETS has 5 characters"),
        ("ACCESS_JWKS", "", "ACCESS_JWKS needs the address"),
        ("ACCESS_JWKS", "http://issuer.example/jwks.json", "ACCESS_JWKS needs https"),
        ("ACCESS_ISSUER", "development", "ACCESS_ISSUER needs"),
    ],
    hidden=[("ACCESS_SECRETS", "hunter2")],
)

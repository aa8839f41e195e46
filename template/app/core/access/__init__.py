"""Access control: who may touch what in Redis, kept by Redis itself.

One policy file maps identities to roles, and roles to commands, keys and channels. The server gets
it as an ACL file; the service logs in as the role that a request has, so that no code of the
service can do more than the role may.
"""

from app.core.access.access import Access, BearerDependency, RoleRedis, get_bearer
from app.core.access.acl import DEVELOPMENT_SECRET, RedisCredentials
from app.core.access.denials import answer_denial
from app.core.access.jwks import JwksClient
from app.core.access.policy import Policy, PolicyError, load_policy
from app.core.access.tokens import Bearer, TokenRules, Verifier

__all__ = [
    "DEVELOPMENT_SECRET",
    "Access",
    "Bearer",
    "BearerDependency",
    "JwksClient",
    "Policy",
    "PolicyError",
    "RedisCredentials",
    "RoleRedis",
    "TokenRules",
    "Verifier",
    "answer_denial",
    "get_bearer",
    "load_policy",
]

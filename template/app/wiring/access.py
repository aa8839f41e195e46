"""Access control."""

from collections.abc import Iterator
from contextlib import contextmanager

from app.core.access import (
    DEVELOPMENT_SECRET,
    Access,
    Policy,
    PolicyError,
    TokenRules,
    Verifier,
    answer_denial,
)
from app.core.access.audit import Audit
from app.core.access.jwks import DEVELOPMENT_ALGORITHM, DevelopmentKeys, JwksClient
from app.core.identity import Identities
from app.core.service import Service
from app.settings.access import AccessSettings


def install_access(
    service: Service, settings: AccessSettings, policy: Policy, identities: Identities
) -> Access:
    """Install what judges tokens, and a client for each role of the policy."""
    keys = JwksClient(settings.access_jwks) if settings.access_jwks else None
    rules = TokenRules(
        issuer=settings.access_issuer,
        audience=settings.access_audience,
        algorithms=settings.token_algorithms if keys else [DEVELOPMENT_ALGORITHM],
        leeway=settings.access_leeway,
    )
    access = Access(
        policy,
        Verifier(keys or DevelopmentKeys(DEVELOPMENT_SECRET), rules, policy),
        connect=lambda role: service.redis(
            role, pool_size=settings.access_pool_size, denials_expected=True
        ),
        audit=Audit(
            service.redis("audit", pool_size=1),
            users={settings.redis_credentials.user(role): role for role in policy.roles},
            prefix=f"{service.name}:access",
            interval=settings.access_audit_interval,
        ),
    )
    service.open(_every_purpose_has_a_role(service, settings, policy))
    service.open(access)
    service.share(access=access)
    access.identify(identities)
    service.check("access", access.check)
    service.answer_refusals(answer_denial)
    return access


@contextmanager
def _every_purpose_has_a_role(
    service: Service, settings: AccessSettings, policy: Policy
) -> Iterator[None]:
    """Refuse to start with a Redis client that could not log in.

    Raises:
        PolicyError: the policy has no role for it.
    """
    for purpose in sorted(service.purposes):
        if (role := settings.role_of(purpose)) not in policy.roles:
            raise PolicyError(
                f"app/access.toml has no role {role!r} for the Redis client {purpose!r}: add one "
                "with what it may do, then `make access`"
            )
    yield

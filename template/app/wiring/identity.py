"""Who asks."""

from app.core.identity import Identities, find_identity, get_identity
from app.core.openapi import NEEDS_LOGIN
from app.core.service import Service


def install_identity(service: Service) -> Identities:
    """Install what finds out who asks; each way to prove it is then added to the result."""
    identities = Identities()
    find_identity.describe(identities.schemes)
    NEEDS_LOGIN.add(get_identity)
    service.share(identities=identities)
    return identities

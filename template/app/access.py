"""Who may touch what in Redis: shows and checks the policy in `access.toml`, and writes its files.

`deploy/redis/users.acl` is for development: its passwords follow from a secret that everybody
knows. For production, print one with the secrets of production:

    ACCESS_SECRETS=... python -m app.access acl > users.acl
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from app.core.access import DEVELOPMENT_SECRET, Policy, PolicyError, RedisCredentials, load_policy
from app.core.access.acl import acl_file
from app.core.access.cli import CommandLine, roles_module
from app.settings import Settings, SettingsError, load_settings

_POLICY = Path(__file__).with_name("access.toml")
_ROOT = _POLICY.parents[1]


def policy(service: str) -> Policy:
    """Read the policy, for a service of this name.

    Raises:
        SettingsError: it is wrong; the message says where.
    """
    try:
        return load_policy(_POLICY, service=service)
    except PolicyError as error:
        raise SettingsError(str(error)) from None


def derived() -> dict[Path, str]:
    """Return the text of each file that follows from the policy."""
    service: str = Settings.model_fields["service_name"].default
    development = RedisCredentials(service, [DEVELOPMENT_SECRET])
    return {
        _ROOT / "deploy/redis/users.acl": acl_file(policy(service), development),
        _ROOT / "app/access_roles.py": roles_module(policy(service)),
    }


def main(arguments: Sequence[str]) -> int:
    settings = load_settings()
    command = CommandLine(
        policy(settings.service_name),
        settings.redis_credentials,
        derived=derived(),
        issuer=settings.access_issuer,
        audience=settings.access_audience,
    )
    return command.run(arguments, name="python -m app.access", about=__doc__ or "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

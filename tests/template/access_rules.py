"""Writes template/deploy/redis/users.acl.jinja, which follows from the policy of a service.

    python -m tests.template.access_rules

What makes the file in a service cannot make it here, because some of its users belong to answers.
"""

import re
import sys
import tempfile
from pathlib import Path

from jinja2 import Environment

from tests.template.answers import ROOT

sys.path.append(str(ROOT / "template"))  # behind this repository, which has a `benchmarks`, too

from app.core.access import DEVELOPMENT_SECRET, Policy, RedisCredentials, load_policy
from app.core.access.acl import acl_file

RULES = ROOT / "template/deploy/redis/users.acl.jinja"
# Stands for the name of the service, which a policy has to have.
_SERVICE = "the-service"
_CONDITIONS = {"locks": "lock_strategy != 'none'", "sessions": "sessions", "events": "events"}


def shipped_policy(folder: Path, service: str) -> Policy:
    """The policy of a service with everything, by way of a file in `folder`."""
    source = (ROOT / "template/app/access.toml.jinja").read_text("utf-8")
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    path = folder / "access.toml"
    path.write_text(
        environment.from_string(source).render(lock_strategy="lua", sessions=True, events=True)
    )
    return load_policy(path, service=service)


def rules() -> str:
    """The text of the file."""
    with tempfile.TemporaryDirectory() as folder:
        policy = shipped_policy(Path(folder), _SERVICE)
    lines = []
    for line in acl_file(policy, RedisCredentials(_SERVICE, [DEVELOPMENT_SECRET])).splitlines():
        role = re.sub(rf"^user (?:{_SERVICE}-)?(\S+).*", r"\1", line)
        line = line.replace(_SERVICE, "{{ service_name }}")
        if role in _CONDITIONS:
            lines += [f"{{% if {_CONDITIONS[role]} %}}", line, "{% endif %}"]
        else:
            lines.append(line)
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    RULES.write_text(rules(), "utf-8")

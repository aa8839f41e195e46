"""How settings are read, and what is said about wrong ones."""

import os
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)


class SettingsError(SystemExit):
    """The environment is wrong; the message has a line per problem.

    Like `sys.exit` it ends the process with that message, and without a traceback.
    """


def load(settings: type[S]) -> S:
    """Read them from the environment and, but for tests, from `.env`.

    Raises:
        SettingsError: a value is wrong or unsafe; the message names the variable and the remedy.
    """
    # A developer's .env must not decide how tests come out.
    env_file = None if os.environ.get("ENVIRONMENT") == "test" else ".env"
    try:
        return settings(_env_file=env_file)
    except ValidationError as error:
        raise SettingsError("\n".join(_lines(error))) from None


def _lines(error: ValidationError) -> list[str]:
    lines = ["The service does not start: its settings are wrong."]
    for detail in error.errors(include_url=False, include_input=False):
        name = "_".join(map(str, detail["loc"])).upper()
        for message in detail["msg"].removeprefix("Value error, ").splitlines():
            lines.append(f"  {name}: {message}" if name else f"  {message}")
    return lines

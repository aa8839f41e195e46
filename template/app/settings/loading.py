"""How settings are read, and what is said about wrong ones."""

import os
from collections.abc import Collection
from typing import TypeVar

from dotenv import dotenv_values
from pydantic import ValidationError

from app.settings.service import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


class SettingsError(SystemExit):
    """The environment is wrong; the message has a line per problem.

    Like `sys.exit` it ends the process with that message, and without a traceback.
    """


def load(settings: type[S]) -> S:
    """Read them from the environment and, but for tests, from `.env`.

    What may be meant otherwise is in their `doubts`: a variable that is called nearly like a
    setting, and an environment that nobody has named.

    Raises:
        SettingsError: a value is wrong or unsafe; the message names the variable and the remedy.
    """
    # A developer's .env must not decide how tests come out.
    env_file = None if os.environ.get("ENVIRONMENT") == "test" else ".env"
    try:
        loaded = settings(_env_file=env_file)  # type: ignore[call-arg]  # mypy's plugin lacks it
    except ValidationError as error:
        raise SettingsError("\n".join(_lines(error))) from None
    variables = {*os.environ, *(dotenv_values(env_file) if env_file else ())}
    loaded.doubts.extend(_misspelt(variables, settings.model_fields))
    if "environment" not in loaded.model_fields_set:
        loaded.doubts.append(
            "ENVIRONMENT is not set: this is taken for development, where unsafe settings pass; "
            "set ENVIRONMENT=production, or development to silence this"
        )
    return loaded


def _misspelt(variables: Collection[str], fields: Collection[str]) -> list[str]:
    """A line for every variable that is no setting and is called nearly like one."""
    settings = {name.upper() for name in fields}
    return [
        f"{variable} is no setting: did you mean {setting}?"
        for variable in sorted(variables)
        if variable.upper() not in settings
        for setting in sorted(settings)
        if _is_nearly(variable.upper(), setting)
    ]


def _is_nearly(one: str, other: str) -> bool:
    """Whether they have the same words, or differ by two letters at most."""
    if sorted(one.split("_")) == sorted(other.split("_")):
        return True
    if abs(len(one) - len(other)) > 2 or (one[:3] != other[:3] and one[-3:] != other[-3:]):
        return False  # most pairs: cheaper than what follows
    return _distance(one, other) <= 2


def _distance(one: str, other: str) -> int:
    """How many letters to insert, delete or replace, after Levenshtein."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, start=1):
        before, row = row, [place]
        for column, another in enumerate(other, start=1):
            row.append(
                min(before[column] + 1, row[-1] + 1, before[column - 1] + (letter != another))
            )
    return row[-1]


def _lines(error: ValidationError) -> list[str]:
    lines = ["The service does not start: its settings are wrong."]
    for detail in error.errors(include_url=False, include_input=False):
        name = "_".join(map(str, detail["loc"])).upper()
        for message in detail["msg"].removeprefix("Value error, ").splitlines():
            lines.append(f"  {name}: {message}" if name else f"  {message}")
    return lines

"""Fast paths: shorter ways through uvicorn, FastAPI and redis-py, which know their insides.

Each module says in its first lines what it replaces, and in `KNOWN` which version it was written
for. It stands aside where a library is not as it knows it:

* `uvicorn` writes a response in one piece, in place of `RequestResponseCycle.send`. Off if cycles
  have other attributes. A response or a request that is not as usual goes through ASGI.
* `fastapi` serves cached routes in place of the router and of `solve_dependencies`. Off if
  dependants have other fields. A route whose dependencies are not plain is left to FastAPI.
* `redis` writes batches of commands and reads their replies in place of redis-py's streams, and
  spares its pools a look at idle connections. Off if connections have no `_writer` or `_parser`. A
  connection with another kind of writer is left to redis-py, and so are pools whose metrics are on.

Nothing needs them: this folder can be deleted. `app/core/implementations.py` has the ordinary
implementation of each, and uses it wherever one is off. `FASTPATH=off` turns all of them off.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_MODULES = ("uvicorn", "fastapi", "redis")
"""Each has the name of the package that it knows."""


def known() -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return what the fast paths that know their library replace, and why the others are off."""
    on: dict[str, dict[str, Any]] = {}
    off: dict[str, str] = {}
    for name in _MODULES:
        try:
            module = import_module(f"{__name__}.{name}")
            is_known = module.is_known()
        except Exception as error:  # whatever it trips over in a library that has changed
            off[name] = f"{_installed(name)} is not known ({error})"
            continue
        if is_known:
            on[name] = module.IMPLEMENTATION
        else:
            off[name] = f"{_installed(name)} is not known, {module.KNOWN} is: {module.WITHOUT}"
    return on, off


def _installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name

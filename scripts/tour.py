"""A tour of a running service: what its API and its cache do, one request after the other."""

import time
from collections.abc import Callable
from typing import Any

import httpx2
from rich.console import Console

# Colours in a terminal, none in a file.
console = Console(highlight=False, markup=False, soft_wrap=True)

ROW = "{:<26} {:<23} {:>6} {:>7}  {}"
NAMES = ("notebook", "pencil", "eraser")
NOBODY = "/items/00000000-0000-7000-8000-000000000000"

Check = Callable[[httpx2.Response], bool]


class TourFailed(Exception):
    """The service did something else than it should; the message shows what."""


def take_tour(url: str) -> None:
    """Send the requests, and print a row of a table for each as soon as it is answered.

    Raises:
        TourFailed: an answer was not what it has to be.
    """
    console.print(ROW.format("step", "request", "status", "ms", "Cache-Status"), style="bold")
    with httpx2.Client(base_url=url, timeout=10) as client:
        step = Walk(client).step
        for name in NAMES:
            item = step(f"create: {name}", "POST", "/items", 201, {"name": name, "quantity": 3})
        path, change = f"/items/{item['id']}", {"name": "rubber", "version": item["version"]}
        step("read, cold", "GET", path, 200, check=all_of(misses, shows(item)))
        step("read, warm", "GET", path, 200, check=all_of(hits, shows(item)))
        changed = step("update: another name", "PUT", path, 200, change)
        step("read again: the new value", "GET", path, 200, check=shows(changed))
        step("read once more, warm", "GET", path, 200, check=all_of(hits, shows(changed)))
        step("update what has changed", "PUT", path, 409, change)
        step("list", "GET", "/items", 200, check=lists({*NAMES[:-1], "rubber"}))
        step("read what is not there", "GET", NOBODY, 404)


class Walk:
    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def step(
        self,
        what: str,
        method: str,
        path: str,
        status: int,
        body: Any = None,
        check: Check | None = None,
    ) -> Any:
        """Send one request, show what came back, and return its JSON."""
        started = time.perf_counter()
        answer = self._client.request(method, path, json=body)
        took = (time.perf_counter() - started) * 1000
        shown = f"{method} {path if len(path) <= 16 else path[:15] + '…'}"
        cache = answer.headers.get("cache-status", "-")
        row = ROW.format(what, shown, answer.status_code, f"{took:.1f}", cache)
        console.print(row, style="green" if hits(answer) else None)
        if answer.status_code != status or (check and not check(answer)):
            raise TourFailed(
                f"That is not the answer there should be. Its body:\n{answer.text[:1000]}"
            )
        return answer.json()


def all_of(*checks: Check) -> Check:
    return lambda answer: all(check(answer) for check in checks)


def hits(answer: httpx2.Response) -> bool:
    return "; hit" in answer.headers.get("cache-status", "")


def misses(answer: httpx2.Response) -> bool:
    return "; fwd=miss" in answer.headers.get("cache-status", "")


def shows(item: dict[str, Any]) -> Check:
    return lambda answer: bool(answer.json() == item)


def lists(names: set[str]) -> Check:
    return lambda answer: {item["name"] for item in answer.json()["items"]} >= names

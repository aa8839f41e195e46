"""The ceiling: what uvicorn can send at all."""

from typing import Any

from work import load


class Bare:
    def __init__(self) -> None:
        self._bodies: dict[str, tuple[bytes, list[tuple[bytes, bytes]]]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path not in self._bodies:
            body = (await load(path.rpartition("/")[2])).model_dump_json().encode()
            length = str(len(body)).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", length)]
            self._bodies[path] = body, headers
        body, headers = self._bodies[path]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


app = Bare()

"""A header on every answer."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TeapotMiddleware:
    """Adds a header to every answer; `short` is its value."""

    def __init__(self, app: ASGIApp, *, short: str) -> None:
        self._app = app
        self._header = (b"x-teapot", short.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], self._header]
            await send(message)

        await self._app(scope, receive, add_header)

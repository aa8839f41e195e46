"""Responses that are sent more than once, and the `send` through which requests are answered."""

from typing import Any

from starlette.types import Message, Send

Headers = list[tuple[bytes, bytes]]

REQUEST_ID_HEADER = b"x-request-id"


class PreparedResponse:
    """A response that is sent more than once."""

    __slots__ = ("body", "headers", "raw", "status")

    def __init__(self, status: int, headers: Headers, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.raw: Any = None
        """What a sender keeps here, so that it need not make it again."""


class ResponseSender:
    """The `send` of one request. It adds the request's id, and notes the status."""

    __slots__ = ("_id", "_send", "status")

    def __init__(self, send: Send, identity: bytes, status: int) -> None:
        """Answer through `send`; `status` is that of a request that is never answered."""
        self._send = send
        self._id = identity
        self.status = status

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            if self.status == 500:  # `internal_error` has it already
                headers = [pair for pair in headers if pair[0] != REQUEST_ID_HEADER]
            # A copy: the message may belong to a cache that sends it again.
            message = {**message, "headers": [*headers, (REQUEST_ID_HEADER, self._id)]}
        await self._send(message)

    def send_raw(self, response: PreparedResponse) -> bool:
        """Answer past ASGI, in one piece. False: nothing is sent, it has to go through ASGI."""
        return False

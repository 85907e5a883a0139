"""Around the application: who may ask, how much they may send, and in which time."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from micro_diffusion.serving.limits import Limits
from micro_diffusion.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
OPEN_PATHS = ("/health",)


def error(message: str) -> dict[str, Any]:
    """An error as clients of OpenAI's API read it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


class Guard:
    """An ASGI application that reads a whole request before another one sees it.

    Args:
        application: the other one.
        token: that requests must bear, or None for no token.
        limits: of the body and its time.
        metrics: counts answers.
    """

    def __init__(self, application: Any, *, token: str | None, limits: Limits, metrics: Metrics) -> None:
        self.application, self.token, self.limits, self.metrics = application, token, limits, metrics

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.answered(message["status"])
            await send(message)

        if not self._may_ask(scope):
            await _refuse(counted, 401, "the token is missing or wrong; send the header Authorization: Bearer TOKEN")
            return
        try:
            body = await asyncio.wait_for(self._body(receive), self.limits.seconds)
        except asyncio.TimeoutError:
            await _refuse(counted, 408, f"the request took over {self.limits.seconds:g} s to arrive; send it again")
            return
        except ValueError as problem:
            await _refuse(counted, 413, str(problem))
            return
        if body is not None:
            with self.metrics.open_request():
                await self.application(scope, _replayed(body, receive), counted)

    def _may_ask(self, scope: MutableMapping[str, Any]) -> bool:
        if self.token is None or scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + self.token.encode())

    async def _body(self, receive: Receive) -> bytes | None:
        """All of it; None when the client has gone. Raises ValueError when it is too large."""
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self.limits.body:
                raise ValueError(f"the request has more than {self.limits.body} bytes; send less")
            if not message.get("more_body"):
                return body


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, and then what else comes, which is that the client has gone."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


async def _refuse(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error(message)).encode()})

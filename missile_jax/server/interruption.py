"""What a request is answered that is given up because the server ends."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from missile_jax.errors import RuntimeClosedError
from missile_jax.server.answer import failure


def stopped() -> RuntimeClosedError:
    """What became of a request that was cancelled, which uvicorn does when a drain is over."""
    return RuntimeClosedError("the server stopped before the answer was there")


class Interruptible:
    """An ASGI application around another, which answers for that where it is cancelled."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            if started:
                raise
            status, body, headers, _ = failure(stopped())
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})

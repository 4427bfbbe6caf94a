"""HTTP routes that ask who calls before they answer."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from missile_jax.server.auth import Call, Tokens

# Where the scope of a guarded route has its `Caller`.
CALLER = "missile.caller"


def authorizations(scope: Scope) -> list[str]:
    """The values of a request's header ``Authorization``."""
    return [v.decode("latin-1") for name, v in scope["headers"] if name == b"authorization"]


def guarded(routes: Iterable[Route], call: Call, tokens: Tokens | None) -> list[Route]:
    """`routes` for those whose token allows `call`; as they are where there are no tokens."""
    if tokens is None:
        return list(routes)
    guard = Middleware(Guard, call=call, tokens=tokens)
    return [Route(r.path, r.endpoint, methods=r.methods, middleware=[guard]) for r in routes]


class Guard:
    """An ASGI application behind a check of the caller, which it finds in its scope.

    Raises AccessError, for the application around it to answer.
    """

    def __init__(self, app: ASGIApp, *, call: Call, tokens: Tokens) -> None:
        self._app = app
        self._call = call
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        caller = self._tokens.caller(authorizations(scope))
        caller.check(self._call)
        scope[CALLER] = caller
        await self._app(scope, receive, send)

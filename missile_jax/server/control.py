"""The HTTP routes of the model repository extension: index, load, unload.

Their errors are for the application to answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from missile_jax.server.auth import ANYONE, Caller
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.document import read_document
from missile_jax.server.guard import CALLER
from missile_jax.server.tensors import CodecError

_BASE = "/v2/repository"


def index_route(dataplane: Dataplane) -> Route:
    """``/v2/repository/index``."""

    async def index(_: str, document: dict[str, Any], caller: Caller) -> Any:
        ready_only = document.get("ready", False)
        if type(ready_only) is not bool:
            raise CodecError(f"ready={ready_only!r} must be true or false")
        return dataplane.index(ready_only, caller)

    return Route(_BASE + "/index", _endpoint(index), methods=["POST"])


def repository_routes(dataplane: Dataplane) -> list[Route]:
    """``/v2/repository/models/NAME/load`` and ``/unload``."""

    async def load(name: str, document: dict[str, Any], _: Caller) -> Any:
        await dataplane.load_model(name, _parameters(document))
        return {}

    async def unload(name: str, _: dict[str, Any], __: Caller) -> Any:
        await dataplane.unload_model(name)
        return {}

    base = _BASE + "/models/{name}"
    routes = (("/load", load), ("/unload", unload))
    return [Route(base + path, _endpoint(answer), methods=["POST"]) for path, answer in routes]


def _endpoint(
    answer: Callable[[str, dict[str, Any], Caller], Awaitable[Any]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        caller = request.scope.get(CALLER, ANYONE)
        name = request.path_params.get("name", "")
        document = await answer(name, await read_document(request), caller)
        return Response(orjson.dumps(document), media_type="application/json")

    return endpoint


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters") or {}
    if type(parameters) is not dict:
        raise CodecError("parameters must be an object")
    return parameters

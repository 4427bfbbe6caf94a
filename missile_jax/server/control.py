"""The HTTP routes of the model repository extension: index, load, unload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from missile_jax.server.dataplane import Dataplane
from missile_jax.server.document import read_document
from missile_jax.server.tensors import CodecError


def repository_routes(dataplane: Dataplane) -> list[Route]:
    """Routes under /v2/repository. Their errors are for the application to answer."""

    async def index(_: str, document: dict[str, Any]) -> Any:
        ready_only = document.get("ready", False)
        if type(ready_only) is not bool:
            raise CodecError(f"ready={ready_only!r} must be true or false")
        return dataplane.index(ready_only)

    async def load(name: str, document: dict[str, Any]) -> Any:
        await dataplane.load_model(name, _parameters(document))
        return {}

    async def unload(name: str, _: dict[str, Any]) -> Any:
        await dataplane.unload_model(name)
        return {}

    base = "/v2/repository"
    routes = (("/index", index), ("/models/{name}/load", load), ("/models/{name}/unload", unload))
    return [Route(base + path, _endpoint(answer), methods=["POST"]) for path, answer in routes]


def _endpoint(
    answer: Callable[[str, dict[str, Any]], Awaitable[Any]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        document = await answer(request.path_params.get("name", ""), await read_document(request))
        return Response(orjson.dumps(document), media_type="application/json")

    return endpoint


def _parameters(document: dict[str, Any]) -> dict[str, Any]:
    parameters = document.get("parameters") or {}
    if type(parameters) is not dict:
        raise CodecError("parameters must be an object")
    return parameters

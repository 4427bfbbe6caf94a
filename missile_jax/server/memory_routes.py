"""The HTTP routes that register, list and unregister regions of shared memory."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from missile_jax.server.document import read_document
from missile_jax.server.shared_memory import Region, Regions
from missile_jax.server.tensors import CodecError

_PATH = "/v2/systemsharedmemory"


def memory_routes(regions: Regions) -> list[Route]:
    """``/v2/systemsharedmemory[/region/NAME]/status``, ``/register`` and ``/unregister``."""

    async def status(request: Request) -> Response:
        found = [_plain(region) for region in regions.status(request.path_params.get("name", ""))]
        return Response(orjson.dumps(found), media_type="application/json")

    async def register(request: Request) -> Response:
        document = await read_document(request)
        regions.register(
            request.path_params["name"],
            _field(document, "key", str, None),
            _field(document, "offset", int, 0),
            _field(document, "byte_size", int, None),
        )
        return Response()

    async def unregister(request: Request) -> Response:
        regions.unregister(request.path_params.get("name", ""))
        return Response()

    region = _PATH + "/region/{name}"
    return [
        Route(region + "/register", register, methods=["POST"]),
        *(Route(base + "/status", status, methods=["GET"]) for base in (_PATH, region)),
        *(Route(base + "/unregister", unregister, methods=["POST"]) for base in (_PATH, region)),
    ]


def _plain(region: Region) -> dict[str, Any]:
    return {
        "name": region.name,
        "key": region.key,
        "offset": region.offset_bytes,
        "byte_size": region.size_bytes,
    }


def _field(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = document.get(name, default)
    if type(value) is not kind:
        raise CodecError(f"{name} must be of type {kind.__name__}, got {value!r:.80}")
    return value

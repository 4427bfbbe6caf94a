"""The body of a request that is no inference: a small JSON object."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request

from missile_jax.server.tensors import CodecError

_MAX_BYTES = 64 * 2**10


async def read_document(request: Request) -> dict[str, Any]:
    """The object in the body of `request`, an empty one where there is no body.

    Raises CodecError for any other body, HTTPException for one that is too long.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BYTES:
            raise HTTPException(413, f"the body is longer than the limit of {_MAX_BYTES} bytes")
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise CodecError(f"the body is not JSON: {error}") from None
    if type(document) is not dict:
        raise CodecError("the body must be a JSON object")
    return document

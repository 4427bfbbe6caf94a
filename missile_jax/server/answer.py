"""An answer over HTTP, and the one to each error: the map to status codes is here and nowhere else.

Every error has the body ``{"error": message}``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import NamedTuple

import orjson
from starlette.exceptions import HTTPException

from missile_jax.errors import (
    DeadlineExceededError,
    DeviceMemoryError,
    ForbiddenError,
    HostMemoryError,
    ModelNotFoundError,
    ModelUnavailableError,
    QueueFullError,
    RequestError,
    RuntimeClosedError,
    ServerBusyError,
    UnauthenticatedError,
)
from missile_jax.server.encoding import TooLongError
from missile_jax.server.watch import REQUEST_ID

JSON = (b"content-type", b"application/json")
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """One HTTP response, whose body is `body` and then `rest`."""

    status: int
    body: bytes
    headers: list[tuple[bytes, bytes]]
    rest: Sequence[memoryview] = ()


def failure(error: Exception, subject: str = "the server", request_id: str = "") -> Answer:
    """The answer to `error`, which was raised while `subject` was served.

    request_id: in the log, and in a header of the answer, so that one is found by the other.

    Only an error that the client can act on carries its own message: one of a model's code may hold
    paths and values, and goes to the log.
    """
    status, text, extra = 500, str(error), []
    if isinstance(error, HTTPException):
        status, text = error.status_code, error.detail
        extra = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
    elif isinstance(error, UnauthenticatedError):
        status, extra = 401, [(b"www-authenticate", b'Bearer realm="missile-jax"')]
    elif isinstance(error, ForbiddenError):
        status = 403
    elif isinstance(error, ModelNotFoundError):
        status = 404
    elif isinstance(error, DeadlineExceededError):
        status = 504
    elif isinstance(error, TooLongError):
        status = 413
    elif isinstance(error, RequestError):
        status = 400
    elif isinstance(error, QueueFullError):
        status, extra = 429, [_retry_after(error.retry_after_s)]
    elif isinstance(error, ServerBusyError):
        # Not 429: it is not this client that asks too much, and another server may have room.
        status, extra = 503, [_retry_after(error.retry_after_s)]
    elif isinstance(error, RuntimeClosedError | ModelUnavailableError):
        status = 503
    elif isinstance(error, DeviceMemoryError):
        status, text = 503, "the device is out of memory"
    elif isinstance(error, HostMemoryError):
        status, text = 503, "host memory is full"
    elif isinstance(error, CancelledError):
        status, text = 503, "the request was cancelled"
    else:
        text = f"{subject} failed; the server's log says why"
        _log.error("%s failed", subject, exc_info=error, extra={"request_id": request_id})
    if request_id:
        extra.append((REQUEST_ID.encode(), request_id.encode()))
    body = orjson.dumps({"error": text})
    return Answer(status, body, [(b"content-length", b"%d" % len(body)), JSON, *extra])


def _retry_after(seconds: float) -> tuple[bytes, bytes]:
    return b"retry-after", b"%d" % max(1, math.ceil(seconds))

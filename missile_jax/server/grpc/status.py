"""Errors as gRPC status codes: the map is here and nowhere else."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError
from typing import NamedTuple

from grpc import StatusCode

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

# The first that fits: some are kinds of others below them.
_CODES: dict[type[BaseException], StatusCode] = {
    ModelNotFoundError: StatusCode.NOT_FOUND,
    DeadlineExceededError: StatusCode.DEADLINE_EXCEEDED,
    RequestError: StatusCode.INVALID_ARGUMENT,
    QueueFullError: StatusCode.RESOURCE_EXHAUSTED,
    ServerBusyError: StatusCode.RESOURCE_EXHAUSTED,
    UnauthenticatedError: StatusCode.UNAUTHENTICATED,
    ForbiddenError: StatusCode.PERMISSION_DENIED,
    ModelUnavailableError: StatusCode.UNAVAILABLE,
    RuntimeClosedError: StatusCode.UNAVAILABLE,
}
# Their own messages tell of the machine and of other clients.
_TEXTS: dict[type[BaseException], tuple[StatusCode, str]] = {
    DeviceMemoryError: (StatusCode.RESOURCE_EXHAUSTED, "the device is out of memory"),
    HostMemoryError: (StatusCode.RESOURCE_EXHAUSTED, "host memory is full"),
    CancelledError: (StatusCode.CANCELLED, "the request was cancelled"),
}
_log = logging.getLogger(__name__)


class Status(NamedTuple):
    """How a call ends that failed."""

    code: StatusCode
    text: str


def status_of(error: Exception, subject: str, request_id: str = "") -> Status:
    """What a client hears of `error`, which was raised while `subject` was served.

    request_id: in the log, so that one is found by the other.

    Only an error that the client can act on carries its own message: one of a model's code may hold
    paths and values, and goes to the log.
    """
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return Status(code, str(error))
    for kind, (code, text) in _TEXTS.items():
        if isinstance(error, kind):
            return Status(code, text)
    _log.error("%s failed", subject, exc_info=error, extra={"request_id": request_id})
    return Status(StatusCode.INTERNAL, f"{subject} failed; the server's log says why")

"""grpc.health.v1: whether this server takes requests."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from grpc import StatusCode
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from missile_jax.server.grpc.service import SERVICE, InferenceService

_SERVICES = ("", SERVICE)
_WATCH_S = 1.0


class Health(health_pb2_grpc.HealthServicer):
    """Follows the readiness of an `InferenceService`.

    The servicer of grpcio-health-checking has to be told of each change, and loses all but one of
    several watchers; readiness is asked for instead, by a watcher once a second.
    """

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    async def Check(self, request: pb.HealthCheckRequest, context: Any) -> pb.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not served here."""
        if request.service not in _SERVICES:
            await context.abort(StatusCode.NOT_FOUND, f"no service {request.service!r:.80}")
        return self._status(request.service)

    async def Watch(self, request: pb.HealthCheckRequest, context: Any) -> None:
        """The status now and whenever it changes, until the server stops."""
        last = None
        while not self._service.stopping.is_set():
            status = self._status(request.service)
            if status != last:
                await context.write(status)
                last = status
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._service.stopping.wait(), _WATCH_S)
        await context.write(self._status(request.service))

    def _status(self, service: str) -> pb.HealthCheckResponse:
        if service not in _SERVICES:
            status = pb.HealthCheckResponse.SERVICE_UNKNOWN
        elif self._service.ready():
            status = pb.HealthCheckResponse.SERVING
        else:
            status = pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=status)

"""A running gRPC server: `InferenceService` on grpc.aio, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from missile_jax.errors import ConfigError
from missile_jax.options import GrpcOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.calls import CallLimit
from missile_jax.server.grpc.health import Health
from missile_jax.server.grpc.service import SERVICE, InferenceService, PublicInferenceService
from missile_jax.server.tls import Certificates, Tls
from missile_jax.server.watch import Watch

_HEALTH_CALLS = [f"/{SERVICE}/{call}" for call in ("ServerLive", "ServerReady")]
_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_BEYOND_S = 60.0


class GrpcServer:
    """Serves a `Dataplane` over gRPC between `start` and `close`, or inside a ``with`` block.

    watch: follows each inference; None for no one. tls: None for plain text.
    admin: whether it also answers those who run the server.
    host, port: where it listens, also where `options` asked for any free port.

    The address is taken at once: ConfigError if it cannot be. Runtime and watch stay the caller's,
    to be closed after the server.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        options: GrpcOptions,
        *,
        watch: Watch | None = None,
        tls: Tls | None = None,
        admin: bool = True,
    ) -> None:
        self.host = options.host
        self._options = options
        self._started = False
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="missile-grpc", daemon=True
        )
        self._thread.start()
        try:
            self.port: int = self._do(self._bind(dataplane, watch, tls, admin))
        except RuntimeError as error:
            self._end()
            problem = str(error).partition(";")[0]  # how to debug gRPC follows
            raise ConfigError(
                f"cannot listen on host={options.host!r}, port={options.port!r}: {problem}"
            ) from None

    @property
    def url(self) -> str:
        """Where clients reach the server, such as ``"127.0.0.1:8001"``."""
        return _address(self.host, self.port)

    def start(self) -> Self:
        """Take calls from now on. Clients that come before wait."""
        self._do(self._server.start())
        self._started = True
        return self

    def close(self) -> None:
        """Take no more calls, let those in flight end, stop. May be called again."""
        if self._thread.is_alive():
            self._do(self._stop())
            self._end()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _bind(
        self, dataplane: Dataplane, watch: Watch | None, tls: Tls | None, admin: bool
    ) -> int:
        options = self._options
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # else a port in use would be shared
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Beyond the first it may refuse; the second is where it must.
                ("grpc.max_metadata_size", options.max_metadata_bytes),
                ("grpc.absolute_max_metadata_size", options.max_metadata_bytes),
                ("grpc.max_allowed_incoming_connections", options.max_connections),
                ("grpc.max_concurrent_streams", options.max_connection_calls),
                ("grpc.server_handshake_timeout_ms", round(options.handshake_timeout_s * 1e3)),
                ("grpc.max_connection_idle_ms", round(options.idle_timeout_s * 1e3)),
            ]
        )
        service = InferenceService if admin else PublicInferenceService
        self._service = service(dataplane, options.max_stream_requests, watch)
        limit = CallLimit(
            self._server, options.max_calls, _HEALTH_CALLS, refused=self._service.refused
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._service, limit)
        beside: Any = CallLimit(self._server, options.max_calls)
        health_pb2_grpc.add_HealthServicer_to_server(Health(self._service), beside)
        reflection.enable_server_reflection([SERVICE, _HEALTH, reflection.SERVICE_NAME], beside)
        address = _address(options.host, options.port)
        if tls is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, _credentials(tls))
        if options.port not in (0, port):  # gRPC takes the lower 16 bits of any number
            raise RuntimeError("no such port")
        return port

    async def _stop(self) -> None:
        drain_s = self._options.drain_s
        if not self._started:  # gRPC gives a port back only when it stops
            await self._server.start()
        # Clients are told at once to go elsewhere. The service itself gives up what is late, and
        # says why; calls without a request in flight, such as reflection, are not waited for.
        stopping = asyncio.create_task(self._server.stop(drain_s + _BEYOND_S))
        await self._service.stop(drain_s)
        await self._server.stop(None)
        await stopping
        self._service.workers.close()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    """Credentials that gRPC has renewed at each handshake after `tls` has."""
    shown = tls.now

    def configuration(now: Certificates) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(now.key, now.certificate)], now.client_ca
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        if tls.now is shown:
            return None
        shown = tls.now
        return configuration(shown)

    return grpc.dynamic_ssl_server_credentials(
        configuration(shown),
        renewed,  # type: ignore[arg-type]  # None, for no change, is missing in its type
        shown.client_ca is not None,
    )


def _address(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

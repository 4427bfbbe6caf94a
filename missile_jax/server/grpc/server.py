"""A running gRPC server: `InferenceService` on grpc.aio, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from missile_jax.errors import ConfigError
from missile_jax.options import GrpcOptions, TlsOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.health import Health
from missile_jax.server.grpc.service import SERVICE, InferenceService, PublicInferenceService
from missile_jax.server.tls import ssl_context

_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_BEYOND_S = 60.0


class GrpcServer:
    """Serves a `Dataplane` over gRPC between `start` and `close`, or inside a ``with`` block.

    admin: whether it also answers those who run the server.
    host, port: where it listens, also where `options` asked for any free port.

    The address is taken at once: ConfigError if it cannot be, or if files of `tls` are wrong. The
    runtime stays the caller's, to be closed after the server.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        options: GrpcOptions,
        *,
        tls: TlsOptions = TlsOptions(),
        admin: bool = True,
    ) -> None:
        credentials = _credentials(tls)
        self.host = options.host
        self._options = options
        self._started = False
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="missile-grpc", daemon=True
        )
        self._thread.start()
        try:
            self.port: int = self._do(self._bind(dataplane, credentials, admin))
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
        self, dataplane: Dataplane, credentials: grpc.ServerCredentials | None, admin: bool
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
            ]
        )
        service = InferenceService if admin else PublicInferenceService
        self._service = service(dataplane, options.max_stream_requests)
        handlers: Any = _Generic(self._server)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self._service, handlers)
        health_pb2_grpc.add_HealthServicer_to_server(Health(self._service), handlers)
        reflection.enable_server_reflection([SERVICE, _HEALTH, reflection.SERVICE_NAME], handlers)
        address = _address(options.host, options.port)
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
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


class _Generic:
    """A server as generated code sees it, whose methods are all found by one generic handler.

    For methods that are registered by name, grpc.aio waits for the next call of each of them, and
    does so anew for all of them after every call.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Nothing: generated code adds them as generic ones too."""


def _credentials(options: TlsOptions) -> grpc.ServerCredentials | None:
    """None where there is no certificate. Raises ConfigError as `ssl_context` does."""
    if ssl_context(options) is None:  # gRPC itself does not say what is wrong with a file
        return None
    key, certificate = Path(str(options.key)), Path(str(options.certificate))
    authorities = None if options.client_ca is None else Path(options.client_ca).read_bytes()
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())], authorities, authorities is not None
    )


def _address(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

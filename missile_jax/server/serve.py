"""A running HTTP server: `HttpApp` behind uvicorn, in a thread of its own."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from typing import Any, Self

import uvicorn
import uvloop

from missile_jax.errors import ConfigError
from missile_jax.options import HttpOptions, ObserveOptions
from missile_jax.server.admin import operator_routes
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.http import HttpApp
from missile_jax.server.protocol import limited_protocol
from missile_jax.server.tls import Tls
from missile_jax.server.watch import Watch

_BACKLOG = 2048


class _Loop(uvloop.Loop):
    """A loop whose TLS handshakes have so long: uvicorn cannot be told, and a minute is long.

    Who is in one does not count as a connection yet.
    """

    def __init__(self, handshake_timeout_s: float) -> None:
        super().__init__()
        self._handshake_timeout_s = handshake_timeout_s

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        """As uvloop does."""
        if ssl is not None:
            options["ssl_handshake_timeout"] = self._handshake_timeout_s
        return await super().create_server(*args, ssl=ssl, **options)


class HttpServer:
    """Serves a `Dataplane` over HTTP between `start` and `close`, or inside a ``with`` block.

    observe: what it shows of itself. watch: follows each inference; None for no one.
    tls: None for plain HTTP.
    admin: whether it also answers those who run the server.
    host, port: where it listens, also where `options` asked for any free port.

    The address is taken at once: ConfigError if it cannot be. Runtime and watch stay the caller's,
    to be closed after the server.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        options: HttpOptions = HttpOptions(),
        *,
        observe: ObserveOptions = ObserveOptions(),
        watch: Watch | None = None,
        tls: Tls | None = None,
        admin: bool = True,
    ) -> None:
        self._scheme = "http" if tls is None else "https"
        self._socket = _bind(options.host, options.port)
        self._new_loop = functools.partial(_Loop, options.head_timeout_s)
        self.host = options.host
        self.port: int = self._socket.getsockname()[1]
        self._app = HttpApp(
            dataplane,
            max_body_bytes=options.max_body_bytes,
            watch=watch,
            routes=operator_routes(dataplane, observe) if admin else (),
        )
        config = uvicorn.Config(
            self._app,
            http=limited_protocol(options, self._app.refused, self._app.begins_at_once),
            ws="none",
            lifespan="off",
            interface="asgi3",
            backlog=_BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            # Nothing asks who the client behind a proxy is, and anybody may say so.
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(options.drain_s)),
        )
        config.load()
        config.ssl = (
            None if tls is None else tls.context()
        )  # its own would take ciphers that are out of date
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="missile-http", daemon=True)

    @property
    def url(self) -> str:
        """Where clients reach the server, such as ``"http://127.0.0.1:8000"``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self._scheme}://{host}:{self.port}"

    def start(self) -> Self:
        """Take connections from now on."""
        # Clients that come before the loop runs wait in the backlog.
        self._socket.listen(_BACKLOG)
        self._thread.start()
        return self

    def close(self) -> None:
        """Take no more connections, let the requests in flight end, stop. May be called again."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._app.workers.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot listen on host={host!r}, port={port!r}: {error}") from None
    return listener

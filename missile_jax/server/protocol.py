"""uvicorn's HTTP/1.1 protocol with what it lacks.

Limits on the head of a request (only its slower parser has one: Kludex/uvicorn#157, #1684), on
connections, and on the time in which a request arrives; errors in JSON; and a `Connection` that the
application finds in its scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from missile_jax.options import HttpOptions

CONNECTION = "missile.connection"


class Connection:
    """The transport of one client, as the ASGI extension `CONNECTION`.

    on_lost: called if the client leaves, each while it is in the set.

    Between `hold` and `release` what is written is kept, so that head and body of a response go out
    in one system call, which a short answer notices.
    """

    def __init__(self, transport: asyncio.Transport, others: Collection[object]) -> None:
        self._transport = transport
        self._others = others
        self._held: list[bytes] | None = None
        self.on_lost: set[Callable[[], None]] = set()
        self.is_closing = transport.is_closing

    @property
    def alone(self) -> bool:
        """Whether the server has no other connection."""
        return len(self._others) <= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data`, or keep it for `release`."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)

    def hold(self) -> None:
        """Keep what is written from now on."""
        self._held = []

    def release(self) -> None:
        """Send what was kept."""
        held, self._held = self._held, None
        if held:
            self._transport.writelines(held)

    def close(self) -> None:
        """Send what was kept and close."""
        self.release()
        self._transport.close()


class LimitedProtocol(HttpToolsProtocol):
    """Answers 431 to a request whose head is too long, 408 to one that does not arrive in time.

    One connection too many is answered with 503.
    """

    limits: HttpOptions
    refused: Callable[[int], None]
    _head_bytes = 0
    _in_head = False
    _in_body = False
    _timer: asyncio.TimerHandle | None = None
    # Whether the timer was set in a head, or on a connection that is silent.
    _timer_in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = Connection(transport, self.connections)
        self._extensions: Any = {CONNECTION: self._connection}
        super().connection_made(self._connection)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"there are {self.limits.max_connections} connections already")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        super().connection_lost(exc)
        for call in tuple(self._connection.on_lost):
            call()

    def data_received(self, data: bytes) -> None:
        began_before = self._in_head
        super().data_received(data)
        if began_before and self._in_head:
            # httptools shows a header only once it is whole; unfinished ones are counted here.
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.max_header_bytes:
                self._refuse(431, self._too_large())
        # Most requests arrive in one piece and never need a timer.
        if self._in_head:
            if self._timer is None or not self._timer_in_head:
                self._await_head()
        elif self._in_body:
            if self._timer is None or self._timer_in_head:
                self._await_body()
        elif self.cycle is None or self.cycle.response_complete:
            if self._timer is None:  # what came is the start of nothing, such as an empty line
                self._await_head()
        elif self._timer is not None:
            self._unset_timer()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._unset_timer()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > self.limits.max_header_bytes:
            self._refuse(431, self._too_large())
            raise httptools.HttpParserError("the head is too large")
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def _await_head(self) -> None:
        self._timer_in_head = True
        self._set_timer(self.limits.head_timeout_s)

    def _await_body(self) -> None:
        self._timer_in_head = False
        self._set_timer(self.limits.body_timeout_s)

    def _set_timer(self, seconds: float) -> None:
        self._unset_timer()
        self._timer = self.loop.call_later(seconds, self._on_late, seconds)

    def _unset_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_late(self, seconds: float) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or (self._timer_in_head and answering):
            # It waits for an earlier request, or for us to read.
            self._set_timer(seconds)
        elif self._in_head or (self._in_body and not self.cycle.response_started):
            part = "head" if self._in_head else "body"
            self._refuse(408, f"the {part} of the request did not arrive within {seconds:g} s")
        else:  # nobody asked for anything, or the answer was sent before its request had come
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _too_large(self) -> str:
        return f"path and headers are longer than the limit of {self.limits.max_header_bytes} bytes"

    def _refuse(self, status: int, message: str) -> None:
        if self.transport.is_closing():
            return
        self.refused(status)
        self._in_head = self._in_body = False
        body = orjson.dumps({"error": message})
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        self.transport.close()


def limited_protocol(limits: HttpOptions, refused: Callable[[int], None]) -> type[LimitedProtocol]:
    """The protocol class for uvicorn's ``http=``, which takes a class and no arguments.

    refused: called with the status of each answer that the application knows nothing of.
    """
    fields = {"limits": limits, "refused": staticmethod(refused)}
    return type("Protocol", (LimitedProtocol,), fields)

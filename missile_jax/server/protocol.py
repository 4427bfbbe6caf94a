"""uvicorn's HTTP/1.1 protocol with what it lacks.

Limits on head and trailers of a request (only its slower parser has one: Kludex/uvicorn#157,
#1684), on connections, and on the time in which a request arrives and its answer is taken; errors
in JSON and in order; upgrades ignored; and a `Connection` in the application's scope.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from missile_jax.options import HttpOptions
from missile_jax.server.connection import ANSWER, CONNECTION, Connection
from missile_jax.server.eager import begin

_NOT_HTTP = "what came is not a request of HTTP/1.1"


class LimitedProtocol(HttpToolsProtocol):
    """Answers 431 to a request whose head is too long, 408 to one that does not arrive in time.

    One connection too many is answered with 503, and one that takes no answers is reset.
    """

    limits: HttpOptions
    refused: Callable[[int], None]
    begins_at_once: Callable[[str], bool]
    # Of a head, or of the trailers of a body.
    _head_bytes = 0
    _in_head = False
    _in_body = False
    # Whether what came last is a piece of a head or of trailers, and shows nothing whole.
    _fragment = False
    _timer: asyncio.TimerHandle | None = None
    # Whether the timer was set in a head, or on a connection that is silent.
    _timer_in_head = False
    _write_timer: asyncio.TimerHandle | None = None
    # The answer to what cannot be parsed, while those to earlier requests are made.
    _last_answer: bytes | None = None
    # The head of a request that asked for an upgrade, without that.
    _plain_head = b""
    # While what came is read: a request to begin behind it, which may be whole by then.
    _reading = False
    _next: tuple[Any, Any] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = Connection(transport, self.connections, self._await_taken)
        self._extensions: Any = {CONNECTION: self._connection}
        super().connection_made(self._connection)  # type: ignore[arg-type]
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, f"there are {self.limits.max_connections} connections already")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_timer()
        self._unset_write_timer()
        super().connection_lost(exc)
        for call in tuple(self._connection.on_lost):
            call()

    def data_received(self, data: bytes) -> None:
        if self._last_answer is not None:
            return
        self._unset_keepalive_if_required()
        began_in_head, began_in_body = self._in_head, self._in_body
        self._fragment = self._reading = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data, upgrade)
        except httptools.HttpParserError:
            self._refuse(400, _NOT_HTTP)
        self._reading = False
        if self._fragment and (
            (began_in_head and self._in_head) or (began_in_body and self._in_body)
        ):
            # httptools shows a header only once it is whole; unfinished ones are counted here.
            self._count(len(data))
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
        if self._next is not None:
            self._begin(*self._next)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if self._reading and self.begins_at_once(cycle.scope["path"]):
            self._next = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _begin(self, cycle: Any, app: Any) -> None:
        self._next = None
        if cycle.more_body:  # it would wait
            super()._start_asgi_task(cycle, app)
            return
        task = begin(cycle.run_asgi(app), self.loop)
        if task is not None:
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _answer(
        self, cycle: Any, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
    ) -> bool:
        """`send` of a whole answer at once; False, and nothing is sent, where it would wait."""
        if cycle.disconnected or self.flow.write_paused:
            return False
        lines = [STATUS_LINE[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines += (b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n", body)
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.transport.write(b"".join(lines))
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def _ignore_upgrade(
        self, data: bytes | memoryview, upgrade: httptools.HttpParserUpgrade | None
    ) -> None:
        """Go on behind a head in `data` that asks for an upgrade, which a server may ignore.

        To its parser what follows is no HTTP, so another reads it, which is not told of any upgrade
        (RFC 9110, 7.8).
        """
        try:
            while upgrade is not None:
                data = memoryview(data)[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(self._plain_head)
                upgrade = self._feed(data)
        except httptools.HttpParserError:
            self._refuse(400, _NOT_HTTP)

    def _feed(self, data: memoryview) -> httptools.HttpParserUpgrade | None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return upgrade
        return None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions
        self._unset_timer()
        self._in_head = True
        self._fragment = False
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:  # a trailer: nobody asks for one, and it must not pass for a header
            self._fragment = False
            self._count(len(name) + len(value))
            if self._last_answer is not None or self.transport.is_closing():
                raise httptools.HttpParserError("refused")  # what follows is not read
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > self.limits.max_header_bytes:
            self._refuse(431, self._too_large("path and headers"))
            raise httptools.HttpParserError("the head is too large")
        if self.parser.should_upgrade():
            self._forget_upgrade()
            return
        self._head_bytes = 0
        super().on_headers_complete()
        self.scope[ANSWER] = functools.partial(self._answer, self.cycle)  # type: ignore[typeddict-unknown-key]
        self._in_body = True  # and not where its target is none

    def _forget_upgrade(self) -> None:
        method = self.parser.get_method()
        if method == b"CONNECT":  # whose target is no path, and which has no upgrade to ignore
            self._refuse(501, "CONNECT is not implemented: this server is no proxy")
            raise httptools.HttpParserError("CONNECT")
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self._plain_head = b"\r\n".join(lines) + b"\r\n\r\n"

    def on_body(self, body: bytes) -> None:
        self._fragment = False
        self._head_bytes = 0
        cycle = self.cycle
        if self._in_body and not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = False
            cycle = self.cycle
            if not cycle.response_complete:
                cycle.more_body = False
                cycle.message_event.set()
            if self.flow.read_paused and not self.pipeline:
                # It has come whole; who does not read does not see the client leave either.
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if self._last_answer is not None and is_last:
            self.transport.write(self._last_answer)
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_taken()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._unset_write_timer()

    def _await_taken(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(
                self.limits.write_timeout_s, self._connection.reset
            )

    def _unset_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

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

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.max_header_bytes:
            self._refuse(431, self._too_large("path and headers" if self._in_head else "trailers"))

    def _too_large(self, what: str) -> str:
        return f"{what} are longer than the limit of {self.limits.max_header_bytes} bytes"

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is being parsed, after all that came before it, and close."""
        if self.transport.is_closing() or self._last_answer is not None:
            return
        body = orjson.dumps({"error": message})
        answer = (
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[status], len(body), body)
        )
        cycle, in_body = self.cycle, self._in_body
        self._in_head = self._in_body = False
        is_behind = cycle is not None and not (in_body or cycle.response_complete)
        if in_body and self.pipeline:
            self.pipeline.popleft()  # it would be answered last; now this is its answer
            is_behind = True
        elif in_body and cycle.response_started:
            self.transport.close()  # it has had an answer
            return
        self.refused(status)
        if not is_behind:
            self.transport.write(answer)
            self.transport.close()
            return
        self._last_answer = answer
        self._unset_timer()
        self.flow.pause_reading()


def limited_protocol(
    limits: HttpOptions,
    refused: Callable[[int], None],
    begins_at_once: Callable[[str], bool] = lambda path: False,
) -> type[LimitedProtocol]:
    """The protocol class for uvicorn's ``http=``, which takes a class and no arguments.

    refused: called with the status of each answer that the application knows nothing of.
    begins_at_once: whether requests for a path begin as soon as they have come, without a task of
        their own until they wait for something; see `eager`.
    """
    fields = {
        "limits": limits,
        "refused": staticmethod(refused),
        "begins_at_once": staticmethod(begins_at_once),
    }
    return type("Protocol", (LimitedProtocol,), fields)

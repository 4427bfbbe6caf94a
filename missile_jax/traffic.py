"""Load on a running server over HTTP: ready-made requests on raw connections.

`open_loop` sends when requests are due, whether or not earlier ones are answered, and counts each
latency from the time its request was due: a slow answer that holds the next ones up shows in theirs
(no coordinated omission). `closed_loop` sends the next request when the last is answered.
"""

from __future__ import annotations

import asyncio
import selectors
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httptools
import numpy as np


class Lost(ConnectionError):
    """The connection ended before the answer was whole."""


@dataclass(slots=True)
class Outcome:
    """What became of a load.

    latencies_s: [n] of the requests that were answered with 200. errors: how many others, by
    kind: a status code, or how the connection failed. seconds: from the first request to the last
    answer.
    """

    latencies_s: np.ndarray
    errors: dict[str, int]
    seconds: float

    @property
    def rate_per_s(self) -> float:
        """Answers with 200 a second."""
        return len(self.latencies_s) / self.seconds


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection with one request at a time in flight; opened when used.

    timeout_s: after which a request without an answer is lost.
    tls: of a client; None for plain HTTP.
    """

    def __init__(
        self,
        host: str,
        port: int,
        timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = (host, port)
        self._timeout_s = timeout_s
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self.body = b""

    async def send(self, request: bytes) -> int:
        """The status of the answer, whose body is `body` then. Raises OSError, Lost among them."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._transport, _ = await loop.create_connection(
                lambda: self, *self._address, ssl=self._tls
            )
        self._parts: list[bytes] = []
        self._answer = loop.create_future()
        self._transport.write(request)
        expiry = loop.call_later(self._timeout_s, self._lose, f"no answer in {self._timeout_s:g} s")
        try:
            status = await self._answer
        finally:
            expiry.cancel()
        self.body = b"".join(self._parts)
        return status

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._transport is None:
            return
        if self._tls is None:
            self._transport.close()
        else:  # TLS would say goodbye and wait for the answer, longer than the loop may run
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._lose("the answer is not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose("the server closed the connection")

    # Called by the parser.

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._parser.get_status_code())

    def _lose(self, why: str) -> None:
        self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(why))


class Sender(Protocol):
    """What requests go out on, one at a time: a `Connection`, or another transport's."""

    async def send(self, request: bytes) -> int:
        """As `Connection.send`."""
        ...

    def close(self) -> None:
        """As `Connection.close`."""
        ...


@dataclass(slots=True)
class _Tally:
    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    async def send(self, sender: Sender, request: bytes, due_s: float) -> None:
        """Send, and note how it ends; the latency counts from `due_s`."""
        try:
            status = await sender.send(request)
        except OSError as error:
            self.errors[str(error) if isinstance(error, Lost) else type(error).__name__] += 1
            return
        if status == 200:
            self.latencies_s.append(time.perf_counter() - due_s)
        else:
            self.errors[str(status)] += 1

    def outcome(self, start_s: float) -> Outcome:
        seconds = time.perf_counter() - start_s
        return Outcome(np.array(self.latencies_s), dict(self.errors), seconds)


async def open_loop(
    senders: Sequence[Sender], requests: Sequence[bytes], due_s: np.ndarray
) -> Outcome:
    """Sends a request at each of `due_s` [n], ascending offsets from now, the requests in turn.

    A request that is due while all senders are in use waits for one, and that counts.
    """
    tally, start_s = _Tally(), time.perf_counter()
    arrivals = iter(enumerate(start_s + due_s))

    async def serve(sender: Sender) -> None:
        for k, due in arrivals:
            await asyncio.sleep(due - time.perf_counter())
            await tally.send(sender, requests[k % len(requests)], due)

    await _on_each(senders, serve)
    return tally.outcome(start_s)


async def closed_loop(
    senders: Sequence[Sender], requests: Sequence[bytes], seconds: float
) -> Outcome:
    """Sends on each of `senders` the next request when the last is answered, for so long."""
    tally, start_s = _Tally(), time.perf_counter()

    async def serve(sender: Sender) -> None:
        k = 0
        while (now := time.perf_counter()) < start_s + seconds:
            await tally.send(sender, requests[k % len(requests)], now)
            k += 1

    await _on_each(senders, serve)
    return tally.outcome(start_s)


def precise_loop() -> asyncio.SelectorEventLoop:
    """An event loop for `open_loop`: others sleep whole milliseconds, so arrivals would be late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _on_each(
    senders: Sequence[Sender], serve: Callable[[Sender], Coroutine[Any, Any, None]]
) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(serve(sender))
    finally:
        for sender in senders:
            sender.close()

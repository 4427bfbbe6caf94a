"""Bodies of inferences over HTTP: what their heads say, and how they are read within limits."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from missile_jax.server.connection import Connection
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.encoding import ENCODINGS, accepted, inflate
from missile_jax.server.inflight import Claim, ReleasedError
from missile_jax.server.turns import Turns
from missile_jax.server.workers import LARGE_BYTES, Workers


class Bodies:
    """Reads them.

    max_body_bytes: a longer one, or one that inflates to more, is an HTTPException.
    workers: what is compressed is inflated on them.
    """

    def __init__(self, dataplane: Dataplane, max_body_bytes: int, workers: Workers) -> None:
        self._dataplane = dataplane
        self._max_body_bytes = max_body_bytes
        self._workers = workers
        self._turns = Turns()

    def head(
        self, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[int | None, str | None, str | None]:
        """Where the JSON part of the body ends, how it is compressed, and how the answer may be.

        Raises HTTPException for headers that rule the body out.
        """
        length = encoding = accept = None
        for key, value in headers:
            if key == b"inference-header-content-length":
                length = _number(key, value)
            elif key == b"content-length":
                if _number(key, value) > self._max_body_bytes:
                    raise _too_large(self._max_body_bytes)
            elif key == b"content-encoding":
                encoding = _encoding(value)
            elif key == b"accept-encoding":
                accept = accepted(value.decode("latin-1"))
        return length, encoding, accept

    def whole(self, message: Message) -> list[bytes] | None:
        """The body that is in one message. Raises HTTPException for one over the limit."""
        if message["type"] == "http.disconnect":
            return None
        if len(message["body"]) > self._max_body_bytes:
            raise _too_large(self._max_body_bytes)
        return [message["body"]]

    async def read(
        self, name: str, message: Message, receive: Receive, claim: Claim
    ) -> list[bytes] | None:
        """The body in parts, one unless it is large; None where the client left before its end.

        message: the first of it.

        Raises HTTPException for one over the limit, ServerBusyError where there is no room for it.
        """
        parts, total = [message.get("body", b"")], 0
        if message.get("more_body") and not self._dataplane.is_latency(name):
            receive = functools.partial(self._turns.receive, receive)
        while True:
            if message["type"] == "http.disconnect":
                return None
            total += len(parts[-1])
            if total > self._max_body_bytes:
                raise _too_large(self._max_body_bytes)
            claim.add(len(parts[-1]))
            if not message.get("more_body"):
                break
            message = await receive()
            parts.append(message.get("body", b""))
        return parts if len(parts) == 1 or total >= LARGE_BYTES else [b"".join(parts)]

    async def inflate(
        self,
        name: str,
        parts: list[bytes],
        encoding: str,
        claim: Claim,
        connection: Connection,
    ) -> list[bytes] | None:
        """What the body holds, in one part; None where the client leaves, which ends the work."""
        body = b"".join(parts)
        parts.clear()
        work = functools.partial(inflate, body, encoding, self._max_body_bytes, claim.add)
        connection.on_lost.add(claim.release)
        try:
            return [await self._workers.run(self._dataplane.is_latency(name), work)]
        except ReleasedError:
            return None
        finally:
            connection.on_lost.discard(claim.release)


def _encoding(value: bytes) -> str | None:
    """How a body is compressed, None for not at all."""
    name = value.decode("latin-1").strip().lower()
    if name == "identity":
        return None
    if name not in ENCODINGS:
        allowed = ", ".join(ENCODINGS)
        raise HTTPException(
            415,
            f"Content-Encoding {name:.40} is not known; allowed: {allowed}",
            {"Accept-Encoding": allowed},
        )
    return name


def _number(key: bytes, value: bytes) -> int:
    if value.isdigit() and len(value) <= 18:
        return int(value)
    raise HTTPException(400, f"header {key.decode()} must be a whole number")


def _too_large(max_body_bytes: int) -> HTTPException:
    return HTTPException(413, f"the body is longer than the limit of {max_body_bytes} bytes")

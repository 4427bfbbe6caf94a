"""How many bytes of requests the server holds at a time, over all doors and connections.

Each request has a limit, and so have connections and calls, but the product of the two is more than
a machine has. Who would pass this limit is refused and does not wait: what waits holds memory too,
and those who wait for each other's would all wait for ever.
"""

from __future__ import annotations

import threading
from typing import Self

from missile_jax.errors import ServerBusyError

# What one request may hold uncounted. Queues bound how many do.
SMALL_BYTES = 2**16


class ReleasedError(Exception):
    """What a request holds was given back while it was still read: nobody waits for it."""


class Inflight:
    """The bytes that requests hold. May be used from any thread.

    max_bytes: in all. A request that would be alone is let in whatever its size.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        return self._held_bytes

    def claim(self, size_bytes: int = 0) -> Claim:
        """What one request holds: `size_bytes`, and what is added to it.

        Raises ServerBusyError as `Claim.add` does.
        """
        claim = Claim(self)
        claim.add(size_bytes)
        return claim

    def _count(self, claim: Claim, size_bytes: int) -> None:
        with self._lock:
            if claim.released:
                raise ReleasedError
            others = self._held_bytes - claim.counted_bytes
            if others and others + size_bytes > self._max_bytes:
                raise ServerBusyError(
                    f"requests in flight hold {others} bytes of at most {self._max_bytes}, which "
                    "leaves no room for this one; ask again later"
                )
            claim.counted_bytes = size_bytes
            self._held_bytes = others + size_bytes

    def _release(self, claim: Claim) -> None:
        with self._lock:
            claim.released = True
            self._held_bytes -= claim.counted_bytes
            claim.counted_bytes = 0


class Claim:
    """What one request holds, until it is released at the end of a ``with`` block or before.

    counted_bytes, released: for `Inflight`.
    """

    __slots__ = ("_inflight", "_size_bytes", "counted_bytes", "released")

    def __init__(self, inflight: Inflight) -> None:
        self._inflight = inflight
        self._size_bytes = 0
        self.counted_bytes = 0
        self.released = False

    def add(self, size_bytes: int) -> None:
        """Hold so much more.

        Raises ServerBusyError where others leave no room, ReleasedError once it was released.
        """
        self._size_bytes += size_bytes
        if self._size_bytes > SMALL_BYTES or self.released:
            self._inflight._count(self, self._size_bytes)

    def release(self) -> None:
        """Hold nothing any more. May be called again."""
        self._inflight._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

"""This process as a tenant of a device that it shares with others: see docs/arbiter.md."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from missile_jax._native import Tenant
from missile_jax.errors import RuntimeClosedError

# So often a piece that waits for its turn looks whether the runtime was closed.
_LOOK_S = 0.1


class Sharing:
    """Announces latency-sensitive work to the arbiter, and asks it for best-effort turns.

    join: makes a tenant of a class, once it is needed. `latency` is its argument.
    """

    def __init__(self, join: Callable[[bool], Tenant]) -> None:
        self._join = join
        self._tenants: dict[bool, Tenant] = {}
        self._closed = False

    def expect(self, latency: bool) -> None:
        """There is a model of this class now. Raises what `join` raises."""
        if latency not in self._tenants:
            self._tenants[latency] = self._join(latency)

    def announce(self, future: Future) -> None:
        """LS work is there until `future` is done."""
        tenant = self._tenants[True]
        entered_ns = tenant.enter()
        assert entered_ns is not None
        future.add_done_callback(lambda _: tenant.leave(entered_ns))

    def enter(self, latency: bool) -> int:
        """Before a launch; best effort waits for its turn. Returns what `leave` takes.

        Raises RuntimeClosedError if `close` was called meanwhile.
        """
        tenant = self._tenants[latency]
        while (entered_ns := tenant.enter(_LOOK_S)) is None:
            if self._closed:
                raise RuntimeClosedError("the runtime was closed before it was this launch's turn")
        return entered_ns

    def leave(self, latency: bool, entered_ns: int) -> None:
        """The launch has ended."""
        self._tenants[latency].leave(entered_ns)

    def close(self) -> None:
        """No launch waits any longer."""
        self._closed = True

"""The transport of one client, as the application finds it in its scope."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Collection
from typing import Any

CONNECTION = "missile.connection"
# Where a scope has what sends a whole answer at once: (status, headers, body) -> whether it did.
# Headers are not looked at: they may hold nothing that a client has sent.
ANSWER = "missile.answer"
# SO_LINGER, on and for no time: what was not sent is dropped when the socket is closed.
_RESET = struct.pack("ii", 1, 0)


class Connection:
    """The transport of one client, as the ASGI extension `CONNECTION`.

    on_lost: called if the client leaves, each while it is in the set.
    on_backlog: called where it is closed before all was sent.

    Between `hold` and `release` what is written is kept, so that head and body of a response go out
    in one system call, which a short answer notices.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        others: Collection[object],
        on_backlog: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._others = others
        self._on_backlog = on_backlog
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
        if self._transport.get_write_buffer_size() > 0:
            self._on_backlog()

    def reset(self) -> None:
        """Close at once, and have the kernel drop what it has not sent either."""
        with contextlib.suppress(OSError):  # the client has just gone
            found = self._transport.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

"""Large bodies take turns to be read, so that an event loop has other requests between them.

A connection brings up to 256 KiB each time the loop comes round. Of 64 that send large tensors all
would be read in one round, and another request would wait for all of them. Bodies for latency
models are read as they come.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

# So many are read at a time: while one is copied, the next may come in.
_AT_A_TIME = 2
# A client that sends nothing for so long gives its turn away.
_PATIENCE_S = 0.005


class Turns:
    """Of all bodies that one event loop reads."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_AT_A_TIME)

    async def receive(self, receive: Receive) -> Message:
        """The next message of a large body, once it is this client's turn."""
        async with self._places:
            message = asyncio.ensure_future(receive())
            try:
                await asyncio.wait((message,), timeout=_PATIENCE_S)
            except asyncio.CancelledError:
                message.cancel()
                raise
        # It need not have come yet. Then it comes without a turn, and the next one needs a turn.
        return await message

"""Calls that come side by side, whose short requests share batches.

gRPC hands an event loop one thing at a time, so that calls that came together reach the service
over some turns of the loop. A request that waits for the others runs with them, which takes no
longer than one alone where a launch reads the same weights for many rows as for one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from missile_jax.runtime import Soon

TURNS = 16
# So many calls after two were under way at once, there may be two again.
CROWDED_CALLS = 64


class Crowd:
    """Whether there is one: a client that is alone need not wait for anybody."""

    def __init__(self) -> None:
        self._calls_left = 0

    def soon(self, under_way: int) -> Soon | None:
        """When the request of a call is to run; `under_way` counts that call too."""
        if under_way > 1:
            self._calls_left = CROWDED_CALLS
        elif self._calls_left:
            self._calls_left -= 1
        return in_some_turns if self._calls_left else None


def in_some_turns(call: Callable[[], None], turns: int = TURNS) -> None:
    """Call a function once the running event loop has come round so often."""
    loop = asyncio.get_running_loop()
    if turns > 1:
        loop.call_soon(in_some_turns, call, turns - 1)
    else:
        loop.call_soon(call)

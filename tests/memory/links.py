"""What the tests of the link share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from missile_jax import _native

MakeLink = Callable[..., _native.Link]

PATIENCE_S = 60.0
KIB = 1 << 10


def endless(flow: _native.Flow) -> _native.Copy:
    """A copy of many seconds, over and over the same bytes: to be cancelled."""
    size = 1 << 20
    return flow.copy_many(bytearray(size), bytes(size), [(0, 0, size)] * (1 << 16))


def finish(*copies: _native.Copy) -> None:
    for copy in copies:
        assert copy.wait(PATIENCE_S)
        assert copy.error is None


def run_together(link: _native.Link, ask: Callable[[], list[_native.Copy]]) -> None:
    """Finishes the copies that `ask` asks of best-effort flows, none served before all are there.

    Wants a link without a share for best effort: an endless latency copy holds them up.
    """
    gate = link.flow("gate", latency=True)
    held = endless(gate)
    copies = ask()
    assert held.cancel()
    gate.close()
    finish(*copies)


def threads() -> set[int]:
    """Of this process, by number."""
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def ranks(of: Iterable[int]) -> list[int]:
    """How much nicer these threads are than the one that asks, ascending."""
    own = os.getpriority(os.PRIO_PROCESS, 0)
    return sorted(os.getpriority(os.PRIO_PROCESS, thread) - own for thread in of)

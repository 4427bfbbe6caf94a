"""Time, handed in: the real one, and one that a simulation turns by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_ns(self) -> int: ...


class WallClock:
    """Monotonic time of this process."""

    # The function itself: it is called several times for each request.
    now_ns = staticmethod(time.perf_counter_ns)


class VirtualClock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self._now_ns = 0

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, when_ns: int) -> None:
        """Raises ValueError if `when_ns` lies in the past."""
        if when_ns < self._now_ns:
            raise ValueError(f"time can not go back from {self._now_ns} to {when_ns} ns")
        self._now_ns = when_ns

"""A device that takes time but does nothing, under a virtual clock. What it returns is made up."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from missile_jax.engine.clock import VirtualClock
from missile_jax.engine.device import Finished
from missile_jax.engine.job import Job, Piece
from missile_jax.engine.request import Request


class SimulatedDevice:
    """Pieces take their segment's `duration_ns`; those in flight together slow each other down.

    The engine launches whenever something arrives or ends, as on real threads; time passes in
    `advance_to` and `pump`.

    slowdown: how much longer a piece takes for each other piece in flight when it starts: 0.0 for
        a device with room for all, 1.0 for one that is always full.
    """

    simulated = True
    autonomous = True

    def __init__(self, clock: VirtualClock, slowdown: float = 1.0) -> None:
        self._clock = clock
        self._slowdown = slowdown
        self._running: list[tuple[int, int, Piece, Finished]] = []
        self._order = 0

    @property
    def next_ns(self) -> int | None:
        """When the next piece ends; None if nothing runs."""
        return self._running[0][0] if self._running else None

    def launch(self, piece: Piece, finished: Finished) -> None:
        self._order += 1
        heapq.heappush(self._running, (self.end_ns(piece), self._order, piece, finished))

    def end_ns(self, piece: Piece) -> int:
        """When `piece`, launched now, ends; a replay overrides it with what was recorded."""
        stretch = 1.0 + self._slowdown * len(self._running)
        return self._clock.now_ns() + round(piece.segment.duration_ns * stretch)

    def advance_to(self, when_ns: int) -> None:
        """Ends all pieces that end by `when_ns`, and turns the clock there."""
        while self._running and self._running[0][0] <= when_ns:
            self.pump()
        self._clock.advance_to(when_ns)

    def pump(self) -> bool:
        """Turns the clock to the end of the next piece. False if nothing runs."""
        if not self._running:
            return False
        end, _, piece, finished = heapq.heappop(self._running)
        self._clock.advance_to(max(end, self._clock.now_ns()))
        finished(piece, None)
        return True

    def attend(self, request: Request, submit: Callable[[Request], None]) -> None:
        submit(request)

    def answers(self, job: Job) -> list[Any]:
        return [None] * len(job.requests)

    def close(self) -> None:
        self._running.clear()

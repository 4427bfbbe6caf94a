"""A batch of requests on its way through a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from missile_jax.engine.request import Request
from missile_jax.engine.sharing import Sharing
from missile_jax.memory.parameters import Parameters
from missile_jax.program.plan import Plan, Segment
from missile_jax.program.program import Program


class Job:
    """Requests of one model that run together, piece by piece.

    Inputs are stacked when the first piece starts, on the thread that launches it.
    """

    __slots__ = (
        "_held",
        "_inputs",
        "_parameters",
        "_program",
        "_slots",
        "compute_ns",
        "ended_ns",
        "plan",
        "position",
        "requests",
        "rows",
    )

    def __init__(
        self, program: Program, parameters: Parameters, requests: Sequence[Request]
    ) -> None:
        self._program = program
        self._parameters = parameters
        self._slots: list[Any] | None = None
        self._held: dict[int, Any] = {}
        # Kept here, since a request that is given up while it waits for its launch drops its own.
        self._inputs = [r.inputs for r in requests]
        self.requests = list(requests)
        self.rows = sum([r.rows for r in requests])
        self.plan: Plan = program.plan_for(self.rows, requests[0].length)
        self.position = 0
        self.compute_ns = 0
        self.ended_ns = 0

    @property
    def latency(self) -> bool:
        return self._program.latency

    @property
    def done(self) -> bool:
        return self.position == len(self.plan.segments)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for a result."""
        return any(not r.settled for r in self.requests)

    @property
    def next_segment(self) -> Segment:
        """What it goes on with, unless it starts whole."""
        return self.plan.segments[self.position]

    def piece(self, whole: bool) -> Piece:
        """What to launch next; `whole` counts only before the first segment, and where it pays."""
        if whole and self.position == 0 and not self.plan.is_faster_cut:
            return Piece(self, self.plan.whole, -1)
        return Piece(self, self.next_segment, self.position)

    def run(self, segment: Segment) -> None:
        """Launches `segment` and returns when its results are there."""
        if self._slots is None:
            self._slots = self._start()
        with self._parameters.use(segment) as leaves:
            for result in segment.run(leaves, self._slots):
                result.block_until_ready()
        if self._held:
            slots = self._slots
            self._held = {k: kept for k, kept in self._held.items() if slots[k] is not None}

    def _start(self) -> list[Any]:
        """Slots with inputs that launches take."""
        stacked = self._program.stack(self._inputs, self.rows)
        inputs, self._held = self._program.transfers.to_device(stacked)
        self._inputs.clear()
        return self.plan.start(inputs)

    def advance(self, piece: Piece) -> None:
        """`piece` has run."""
        self.position = len(self.plan.segments) if piece.index < 0 else piece.index + 1

    def answers(self) -> list[Any]:
        """The result of each request."""
        assert self._slots is not None
        results = self.plan.results(self._slots)
        if self._parameters.moves:
            results = [self._parameters.detached(r) for r in results]
        leaves = self._program.unstack(
            results,
            [r.rows for r in self.requests],
            [r.fit.actual_length for r in self.requests],
        )
        return [r.finish(one) for r, one in zip(self.requests, leaves, strict=True)]


class Piece:
    """One launch: a segment of a job, or all of it.

    index: of the segment; -1 for the whole plan. sharing: asked before it starts; None if the
    device is this process's alone.
    """

    __slots__ = ("index", "job", "segment", "sharing", "started_ns")

    def __init__(self, job: Job, segment: Segment, index: int) -> None:
        self.job = job
        self.segment = segment
        self.index = index
        self.started_ns = 0
        self.sharing: Sharing | None = None

    def run(self) -> None:
        if self.sharing is None:
            self.job.run(self.segment)
            return
        # On the clock of the engine: what it waited is no device time.
        self.started_ns = self.sharing.enter(self.job.latency)
        try:
            self.job.run(self.segment)
        finally:
            self.sharing.leave(self.job.latency, self.started_ns)

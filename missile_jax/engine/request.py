"""One request: what was asked, when, and the future that answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from missile_jax.program.program import Fit, Program

# Later than any clock says: no deadline.
NEVER_NS = 2**62
_DONE = (FINISHED, CANCELLED, CANCELLED_AND_NOTIFIED)


class Phases(NamedTuple):
    """Where the time of a request that succeeded went, in ns by the engine's clock.

    queue_ns: from arrival to its first launch, less `swap_ns` until then.
    swap_ns: in which what was to run next lacked parameters on the device.
    compute_ns: of its batch, on the device.

    What is left to `ended_ns` passed between two segments of its batch.
    """

    arrival_ns: int
    queue_ns: int
    swap_ns: int
    compute_ns: int
    ended_ns: int


class RequestFuture(Future):
    """A future that can be cancelled until its result is there, also while its model runs.

    It stays pending all the while. `cancel` tells the engine, which drops the request from its
    queue, or its job at the next segment boundary if nobody else waits for it.

    phases: where the time went, once it has succeeded.
    """

    phases: Phases | None = None

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = [on_cancel]

    # A front end asks both of each request, most of which are done. An attribute is read whole, and
    # the result is set before the state: neither takes the lock.

    def done(self) -> bool:
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> Any:
        if self._state == FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def cancel(self) -> bool:
        if not super().cancel():
            return False
        try:
            # Threads may cancel at once: pop is atomic, so that one of them tells.
            on_cancel = self._on_cancel.pop()
        except IndexError:
            return True
        # Executors do this when they come to a cancelled future; `wait` and `as_completed` need it.
        self.set_running_or_notify_cancel()
        on_cancel()
        return True

    def resolve(self, result: Any = None, error: BaseException | None = None) -> bool:
        """Sets the result or error; False if the future was done or cancelled before."""
        try:
            if error is None:
                self.set_result(result)
            else:
                self.set_exception(error)
        except InvalidStateError:
            return False  # Whoever cancelled it takes its callback.
        # It knows the request, which knows this future: nothing is to be left to a collection.
        self._on_cancel.clear()
        return True


@dataclass(slots=True, eq=False, weakref_slot=True)
class Request:
    """A request in the engine.

    program: what accepted it. inputs: leaves [B, ...] padded to the length bucket.
    fit: what `program` knows of its shape; rows, length and work_ns are of it.
    deadline_ns: when its future fails with DeadlineExceededError, NEVER_NS for never.
    due_ns: when it should be done, for the order of latency-sensitive requests.
    level: in its model's queue those of a lower one go first.
    queue_ns, swap_ns: see `Phases`.
    announced: other processes have been told of it; see `Sharing`.
    settled: counted as answered, failed, cancelled or late, each request once; nobody waits for
        its result any more.
    finish: makes the future's result of the output leaves.
    """

    program: Program
    inputs: Sequence[np.ndarray]
    fit: Fit
    arrival_ns: int
    deadline_ns: int
    due_ns: int
    finish: Callable[[list[np.ndarray]], Any]
    future: RequestFuture
    level: int = 1
    started_ns: int = 0
    queue_ns: int = 0
    swap_ns: int = 0
    announced: bool = False
    settled: bool = False
    rows: int = field(init=False)
    length: int = field(init=False)
    work_ns: int = field(init=False)

    def __post_init__(self) -> None:
        fit = self.fit
        self.rows, self.length, self.work_ns = fit.rows, fit.length, fit.least_ns

    @property
    def model(self) -> str:
        return self.program.info.name

"""Deadlines of the requests that are under way, the next one first."""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Iterator

from missile_jax.engine.request import NEVER_NS, Request

# Deadlines kept before those of requests that are done are swept out.
_SWEEP_ABOVE = 4096


class Deadlines:
    """Of requests that have one. Not locked: the engine's lock is.

    It refers to requests weakly: what is done keeps neither its results nor its model until then.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, weakref.ref[Request]]] = []
        self._order = itertools.count()
        self._sweep_above = _SWEEP_ABOVE

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_ns(self) -> int:
        """When the next one passes, `NEVER_NS` if there is none."""
        return self._heap[0][0] if self._heap else NEVER_NS

    def add(self, request: Request) -> bool:
        """Whether it is the next one now."""
        if len(self._heap) > self._sweep_above:
            # Requests that are done leave the heap only when their time comes: help them out.
            self._heap = [entry for entry in self._heap if _is_open(entry[2]())]
            heapq.heapify(self._heap)
            self._sweep_above = max(_SWEEP_ABOVE, 2 * len(self._heap))
        entry = (request.deadline_ns, next(self._order), weakref.ref(request))
        heapq.heappush(self._heap, entry)
        return self._heap[0] is entry

    def late(self, now_ns: int) -> Iterator[Request]:
        """Takes out the requests whose deadline has passed, and gives those that are not done."""
        while self._heap and self._heap[0][0] <= now_ns:
            request = heapq.heappop(self._heap)[2]()
            if request is not None and _is_open(request):
                yield request


def _is_open(request: Request | None) -> bool:
    return request is not None and not (request.settled or request.future.done())

"""Requests of one model that wait, and how they are joined into batches."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a queue needs to know of a request.

    rows: B of its inputs.
    length: bucket of its sequences; requests of one batch have the same. 0 without sequences.
    level: those of a lower one go first.
    work_ns: what it adds to the wait of those behind it, at least.
    arrival_ns, due_ns: for the order among models.
    """

    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def level(self) -> int: ...
    @property
    def work_ns(self) -> int: ...
    @property
    def arrival_ns(self) -> int: ...
    @property
    def due_ns(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class _Level(Generic[R]):
    """Requests that are equally urgent, by identity."""

    __slots__ = ("requests", "work_ns")

    def __init__(self) -> None:
        self.requests: OrderedDict[int, R] = OrderedDict()
        self.work_ns = 0


class RequestQueue(Generic[R]):
    """First in, first out within a level, with a limit; any request can be taken out at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._size = 0
        self._levels: dict[int, _Level[R]] = {}
        # Ascending. None of them is empty, but for one that stays where nothing waits: the next
        # request is most often of the same level.
        self._order: list[int] = []

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[R]:
        """In the order in which they will be taken."""
        for number in self._order:
            yield from self._levels[number].requests.values()

    @property
    def full(self) -> bool:
        return self._size >= self.limit

    @property
    def work_ns(self) -> int:
        """Of all that wait."""
        return sum(level.work_ns for level in self._levels.values())

    def ahead_ns(self, level: int) -> int:
        """The work that a request of `level` finds before it."""
        return sum(self._levels[number].work_ns for number in self._order if number <= level)

    def push(self, request: R) -> None:
        level = self._levels.get(request.level)
        if level is None:
            if not self._size:
                self.clear()
            level = self._levels[request.level] = _Level()
            bisect.insort(self._order, request.level)
        level.requests[id(request)] = request
        level.work_ns += request.work_ns
        self._size += 1

    def head(self) -> R | None:
        """The request that is next, or None."""
        if not self._size:
            return None
        return next(iter(self._levels[self._order[0]].requests.values()))

    def remove(self, request: R) -> bool:
        """Takes `request` out wherever it stands. False if it is not in the queue."""
        level = self._levels.get(request.level)
        if level is None or level.requests.pop(id(request), None) is None:
            return False
        level.work_ns -= request.work_ns
        self._size -= 1
        if self._size and not level.requests:
            del self._levels[request.level]
            self._order.remove(request.level)
        return True

    def take_batch(self, max_rows: int) -> list[R]:
        """Takes the next request and those behind it that fit into the same batch.

        They have one `length`, and at most `max_rows` rows together. The first request that does
        not fit ends the batch, so nobody is overtaken.
        """
        batch: list[R] = []
        rows = 0
        while self._size:
            head = next(iter(self._levels[self._order[0]].requests.values()))
            if batch and (head.length != batch[0].length or rows + head.rows > max_rows):
                break
            self.remove(head)
            batch.append(head)
            rows += head.rows
        return batch

    def clear(self) -> list[R]:
        """Takes all requests."""
        requests = list(self)
        self._size = 0
        self._levels.clear()
        self._order.clear()
        return requests

"""Requests of one model that wait, and how they are joined into batches."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from missile_jax.schedule.slo import Due, Standing, standing

# More than there are levels.
_LEVELS = 2**32


class Waiting(Due, Protocol):
    """What a queue needs to know of a request.

    rows: B of its inputs.
    length: bucket of its sequences; requests of one batch have the same. 0 without sequences.
    level: those of a lower one go first; below 2**32.
    work_ns: what it adds to the wait of those behind it, at least.
    """

    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def level(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class _Group(Generic[R]):
    """Requests that are equally urgent, by identity."""

    __slots__ = ("requests", "work_ns")

    def __init__(self) -> None:
        self.requests: OrderedDict[int, R] = OrderedDict()
        self.work_ns = 0


class RequestQueue(Generic[R]):
    """First in, first out within a level, with a limit; any request can be taken out at once.

    A request is taken to be in time until `judge` finds that it can not be.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._size = 0
        # By standing, then level. None of them is empty, but for one that stays where nothing
        # waits: the next request is most often of the same level.
        self._groups: dict[int, _Group[R]] = {}
        # The numbers of the groups, ascending.
        self._order: list[int] = []
        # By identity, of those that are not in time.
        self._standings: dict[int, Standing] = {}

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[R]:
        """In the order in which they will be taken."""
        for number in self._order:
            yield from self._groups[number].requests.values()

    @property
    def full(self) -> bool:
        return self._size >= self.limit

    @property
    def work_ns(self) -> int:
        """Of all that wait."""
        return sum(group.work_ns for group in self._groups.values())

    def ahead_ns(self, level: int) -> int:
        """The work that a request of `level` finds before it."""
        own = _number(Standing.IN_TIME, level)
        return sum(self._groups[number].work_ns for number in self._order if number <= own)

    def push(self, request: R) -> None:
        self._put(request, Standing.IN_TIME)

    def head(self) -> R | None:
        """The request that is next, or None."""
        return self._first(0) if self._size else None

    @property
    def standing(self) -> Standing:
        """Of the request that is next."""
        if not self._standings:
            return Standing.IN_TIME
        return Standing(self._order[0] // _LEVELS)

    def judge(self, now_ns: int, usual_ns: int) -> bool:
        """Puts those in their place that can not be in time any more, or have waited very long.

        Looks at the first of all and the first that is late. Returns whether any has moved.
        usual_ns: what they usually take.
        """
        moved = self._judge_first(Standing.OVERDUE, now_ns, usual_ns)
        if self._standings:
            moved |= self._judge_first(Standing.LATE, now_ns, usual_ns)
        return moved

    def remove(self, request: R) -> bool:
        """Takes `request` out wherever it stands. False if it is not in the queue."""
        number = _number(self._standings.get(id(request), Standing.IN_TIME), request.level)
        group = self._groups.get(number)
        if group is None or group.requests.pop(id(request), None) is None:
            return False
        self._standings.pop(id(request), None)
        group.work_ns -= request.work_ns
        self._size -= 1
        if self._size and not group.requests:
            del self._groups[number]
            self._order.remove(number)
        return True

    def take_batch(self, max_rows: int) -> list[R]:
        """Takes the next request and those behind it that fit into the same batch.

        They have one `length`, and at most `max_rows` rows together. The first request that does
        not fit ends the batch, so nobody is overtaken.
        """
        batch: list[R] = []
        rows = 0
        while self._size:
            head = self._first(0)
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
        self._groups.clear()
        self._order.clear()
        self._standings.clear()
        return requests

    def _put(self, request: R, standing: Standing) -> None:
        number = _number(standing, request.level)
        group = self._groups.get(number)
        if group is None:
            if not self._size:
                self.clear()
            group = self._groups[number] = _Group()
            bisect.insort(self._order, number)
        if standing is not Standing.IN_TIME:
            self._standings[id(request)] = standing
        group.requests[id(request)] = request
        group.work_ns += request.work_ns
        self._size += 1

    def _first(self, at: int) -> R:
        return next(iter(self._groups[self._order[at]].requests.values()))

    def _judge_first(self, least: Standing, now_ns: int, usual_ns: int) -> bool:
        """Of those whose standing is `least` or above."""
        moved = False
        while self._size:
            at = bisect.bisect_left(self._order, _number(least, 0))
            if at == len(self._order):
                break
            request = self._first(at)
            found = standing(request, now_ns, usual_ns)
            if found is self._standings.get(id(request), Standing.IN_TIME):
                break
            self.remove(request)
            self._put(request, found)
            moved = True
        return moved


def _number(standing: Standing, level: int) -> int:
    return standing * _LEVELS + level

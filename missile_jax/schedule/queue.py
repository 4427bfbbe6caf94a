"""Requests of one model that wait, and how they are joined into batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """What a queue needs to know of a request.

    rows: B of its inputs.
    length: bucket of its sequences; requests of one batch have the same. 0 without sequences.
    arrival_ns, due_ns: for the order among models.
    """

    @property
    def rows(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def arrival_ns(self) -> int: ...
    @property
    def due_ns(self) -> int: ...


R = TypeVar("R", bound=Waiting)


class RequestQueue(Generic[R]):
    """First in, first out, with a limit; any request can be taken out at once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._requests: OrderedDict[int, R] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[R]:
        return iter(self._requests.values())

    @property
    def full(self) -> bool:
        return len(self._requests) >= self.limit

    def push(self, request: R) -> None:
        self._requests[id(request)] = request

    def head(self) -> R | None:
        """The oldest request, or None."""
        return next(iter(self._requests.values()), None)

    def remove(self, request: R) -> bool:
        """Takes `request` out wherever it stands. False if it is not in the queue."""
        return self._requests.pop(id(request), None) is not None

    def take_batch(self, max_rows: int) -> list[R]:
        """Takes the oldest request and those behind it that fit into the same batch.

        They have one `length`, and at most `max_rows` rows together. The first request that does
        not fit ends the batch, so nobody is overtaken.
        """
        batch: list[R] = []
        rows = 0
        while (head := self.head()) is not None:
            if batch and (head.length != batch[0].length or rows + head.rows > max_rows):
                break
            self._requests.popitem(last=False)
            batch.append(head)
            rows += head.rows
        return batch

    def clear(self) -> list[R]:
        """Takes all requests."""
        requests = list(self._requests.values())
        self._requests.clear()
        return requests

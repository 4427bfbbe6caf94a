"""A model's parameters as the engine sees them, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import jax

from missile_jax.program.plan import Segment

# A tuple, whose order is all that matters here: see `schedule.slo`.
Urgency = tuple[int, int]


class Parameters(Protocol):
    """All but `use` and `detached` are called under the engine's lock.

    nbytes: of all parameters.
    moves: whether they come and go; if not, `update` and `awaited_ns` need not be called.
    can_start: whether the first segment of any plan may run now.
    complete: whether all of them are on the device.
    """

    @property
    def nbytes(self) -> int: ...
    @property
    def moves(self) -> bool: ...
    @property
    def can_start(self) -> bool: ...
    @property
    def complete(self) -> bool: ...

    def ready(self, segment: Segment) -> bool:
        """Whether `segment` may run now."""
        ...

    def awaited_ns(self, segment: Segment, since_ns: int) -> int:
        """How long after `since_ns` what `segment` needs was there; 0 if it was before."""
        ...

    def update(self, waiting: bool, running: bool, urgency: Urgency) -> None:
        """The model has requests that wait, or a job under way, or neither.

        urgency: of the request that is next; the smaller goes first.
        """
        ...

    def use(self, segment: Segment) -> AbstractContextManager[Sequence[jax.Array | None]]:
        """A context for one launch of `segment`: gives the leaves, None where it needs none."""
        ...

    def detached(self, result: jax.Array) -> Any:
        """`result`, or a copy of it where it shows memory that parameters lie in."""
        ...

    def evict(self) -> int:
        """Takes them off the device, unless they are in use or fixed. Returns bytes given back."""
        ...

    def discard(self) -> None:
        """The model is gone."""
        ...

    def stats(self) -> dict[str, Any]: ...


class Fixed:
    """Parameters that stay on the device."""

    moves = False
    can_start = True
    complete = True

    def __init__(self, leaves: Sequence[jax.Array]) -> None:
        self.nbytes = sum(x.nbytes for x in leaves)
        self._using = nullcontext(tuple(leaves))

    def ready(self, segment: Segment) -> bool:
        return True

    def awaited_ns(self, segment: Segment, since_ns: int) -> int:
        return 0

    def update(self, waiting: bool, running: bool, urgency: Urgency) -> None:
        """Nothing ever moves."""

    def use(self, segment: Segment) -> AbstractContextManager[Sequence[jax.Array]]:
        return self._using

    def detached(self, result: jax.Array) -> Any:
        return result

    def evict(self) -> int:
        return 0

    def discard(self) -> None:
        """The arrays end with this object."""

    def stats(self) -> dict[str, Any]:
        return {"resident_bytes": self.nbytes, "host_bytes": 0}

"""One model's parameters on a device that many share: blocks, arrays, how far they have come."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from missile_jax._native import Block, Views
from missile_jax.errors import DeviceMemoryError, MissileError
from missile_jax.memory.eviction import Return
from missile_jax.memory.parameters import Urgency
from missile_jax.memory.parked import ParkedArrays
from missile_jax.memory.store import Group, HostModel
from missile_jax.program.plan import Segment

if TYPE_CHECKING:
    from missile_jax.memory.residency import Residency


@dataclass(slots=True)
class Counters:
    """hits: times it was let in with nothing to fetch. swap_ins: times there was something.

    evictions: times it ceased to be there in full.
    """

    hits: int = 0
    swap_ins: int = 0
    swap_in_bytes: int = 0
    evictions: int = 0
    evicted_bytes: int = 0
    array_creation_ns: int = 0
    arrays_created: int = 0
    arrays_reused: int = 0


@dataclass(slots=True, eq=False)
class Residence:
    """One model's parameters under a `Residency`.

    blocks: of its first groups; those behind are not on the device. held_bytes: what they take.
    here: groups whose bytes have arrived, counted from the first. early: those that have arrived
        before an earlier one, since a link with several threads may end copies out of order.
    first_needs: groups before any plan may begin. steps: counts of groups, ascending, with which
        one more segment of some plan can run, or all are there. One copy brings a step.
    admitted: let in, and not to be evicted until it has run.
    worth: kept for the order of eviction.
    parks: whether its arrays may show other bytes when it has left.
    """

    owner: Residency
    name: str
    host: HostModel
    latency: bool
    pinned: bool
    tenant: str
    cost: Return
    first_needs: int
    steps: Sequence[int]
    blocks: list[Block] = field(default_factory=list)
    held_bytes: int = 0
    here: int = 0
    early: set[int] = field(default_factory=set)
    admitted: bool = False
    ran: bool = False
    waiting: bool = False
    running: bool = False
    urgency: Urgency = (0, 0)
    since_ns: int = 0
    last_used_ns: int = 0
    worth: float = 0.0
    gone: bool = False
    error: MissileError | None = None
    counters: Counters = field(default_factory=Counters)
    arrays: list[jax.Array | None] = field(default_factory=list)
    moves: bool = True
    parks: bool = True
    _here_ns: list[int] = field(default_factory=list)
    _views: list[Views[jax.Array] | None] = field(default_factory=list)
    _making: threading.Lock = field(default_factory=threading.Lock)
    _needs: dict[Segment, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.arrays = [self.host.kept.get(i) for i in range(len(self.host.group_of))]
        self._views = [None] * len(self.host.groups)
        self._here_ns = [0] * len(self.host.groups)

    @property
    def _parked(self) -> ParkedArrays:
        return self.owner.parked[self.latency]

    @property
    def missing(self) -> Sequence[Group]:
        """The groups that have no place on the device."""
        return self.host.groups[len(self.blocks) :]

    @property
    def missing_of_step(self) -> Sequence[Group]:
        """The first of them, up to the end of their step."""
        placed = len(self.blocks)
        return self.host.groups[placed : self.steps[bisect_right(self.steps, placed)]]

    # What an order of eviction asks; see `Resident`.

    @property
    def uses(self) -> int:
        return self.counters.hits + self.counters.swap_ins

    @property
    def size_bytes(self) -> int:
        return self.host.size_bytes

    # What the engine asks; see `Parameters`.

    @property
    def nbytes(self) -> int:
        return self.host.size_bytes

    @property
    def complete(self) -> bool:
        return self.admitted and self.here == len(self.host.groups)

    # Parameters that failed to come let the launch go ahead, and fail with what happened.

    @property
    def can_start(self) -> bool:
        return self.admitted and (self.here >= self.first_needs or self.error is not None)

    def ready(self, segment: Segment) -> bool:
        needs = self.needs(segment)
        return self.admitted and (not needs or needs[-1] < self.here or self.error is not None)

    def awaited_ns(self, segment: Segment, since_ns: int) -> int:
        needs = self.needs(segment)
        return max(0, self._here_ns[needs[-1]] - since_ns) if needs else 0

    def update(self, waiting: bool, running: bool, urgency: Urgency) -> None:
        self.owner.update(self, waiting, running, urgency)

    def detached(self, result: jax.Array) -> Any:
        # A model may return a parameter as it is; the answer is to outlive the parameter's stay.
        if not self.owner.shows_arena(result):
            return result
        # JAX keeps what numpy has seen of an array: such a one must not show other bytes later.
        self.parks = False
        return np.array(result)

    def evict(self) -> int:
        return self.owner.evict(self)

    def discard(self) -> None:
        self.owner.remove(self)

    def stats(self) -> dict[str, Any]:
        counted = self.counters
        return {
            "resident_bytes": self.held_bytes,
            "host_bytes": self.host.size_bytes if self.host.here else 0,
            "heavy": self.cost.heavy,
            "hits": counted.hits,
            "swap_ins": counted.swap_ins,
            "swap_in_bytes": counted.swap_in_bytes,
            "evictions": counted.evictions,
            "evicted_bytes": counted.evicted_bytes,
            "arrays": sum(map(len, self.host.members)),
            "array_creation_us": counted.array_creation_ns / 1e3,
            "arrays_created": counted.arrays_created,
            "arrays_reused": counted.arrays_reused,
        }

    @property
    def at_hand(self) -> bool:
        """Whether nothing of it has to come from disk."""
        return self.host.here or len(self.blocks) == len(self.host.groups)

    # Arrays.

    def needs(self, segment: Segment) -> tuple[int, ...]:
        """The groups that `segment` reads, ascending."""
        found = self._needs.get(segment)
        if found is None:
            groups = {self.host.group_of[i] for i in segment.params} - {-1}
            found = self._needs[segment] = tuple(sorted(groups))
        return found

    @contextmanager
    def use(self, segment: Segment) -> Iterator[Sequence[jax.Array | None]]:
        # Pins outlast the launch: an array's end alone does not tell that a device is done with it.
        groups = self.needs(segment)
        if self.error is not None and groups and groups[-1] >= self.here:
            raise self.error
        with ExitStack() as pins:
            try:
                for k in groups:
                    self.blocks[k].pin()
                    pins.callback(self.blocks[k].unpin)
                if any(self._views[k] is None for k in groups):
                    self._make(groups)
            except RuntimeError as error:  # Its bytes are lost: the next request asks anew.
                self.error = DeviceMemoryError(f"model {self.name!r}: {error}")
                raise self.error from error
            yield self.arrays

    def places(self, group: Group) -> Sequence[int]:
        """Offsets, ascending, at which arrays wait that could show `group`."""
        return self._parked.places(group.layout)

    def show_parked(self, first: int) -> None:
        """Uses arrays again that show its blocks from the `first` on; bytes may be on their way."""
        start_ns = self.owner.now_ns()
        for k in range(first, len(self.blocks)):
            self._take(k)
        self.counters.array_creation_ns += self.owner.now_ns() - start_ns

    def _make(self, groups: Sequence[int]) -> None:
        with self._making:
            start_ns = self.owner.now_ns()
            for k in groups:
                if self._views[k] is None and not self._take(k):
                    views = self._parked.make(self.blocks[k], self.host.groups[k].layout)
                    self._show(k, views)
                    self.counters.arrays_created += len(views)
            self.counters.array_creation_ns += self.owner.now_ns() - start_ns

    def _take(self, group: int) -> bool:
        views = self._parked.take(self.blocks[group], self.host.groups[group].layout)
        if views is None:
            return False
        self._show(group, views)
        self.counters.arrays_reused += len(views)
        return True

    def _show(self, group: int, views: Views[jax.Array]) -> None:
        for i, array in zip(self.host.members[group], views, strict=True):
            self.arrays[i] = array
        self._views[group] = views

    def came(self, groups: Iterable[int]) -> bool:
        """The bytes of groups have arrived. Returns whether one more segment can run."""
        self.early.update(groups)
        before = self.here
        while self.here in self.early:
            self.early.remove(self.here)
            self._here_ns[self.here] = self.owner.now_ns()
            self.here += 1
        return bisect_right(self.steps, self.here) > bisect_right(self.steps, before)

    def drop_arrays(self, group: int) -> None:
        """Forgets the arrays of a group."""
        views, self._views[group] = self._views[group], None
        if views is None:
            return
        for i in self.host.members[group]:
            self.arrays[i] = None
        if self.parks:
            self._parked.park(self.host.groups[group].layout, views)

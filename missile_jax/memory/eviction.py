"""Who leaves the device first when room is wanted.

An order sees what a `Resident` tells, keeps one number of it, and touches nothing else. Whoever
waits to run is spared as long as anyone does not, in every order; that is not for it to decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Return:
    """What it would take to bring a model back.

    heavy: its copy takes longer than half of its compute. delay_ns: what its request would wait
    for parameters. overlaps: whether it is done sooner if segments run while later groups come than
    if it runs whole once all are there.
    """

    heavy: bool
    delay_ns: int
    overlaps: bool = True


def cost_of_return(
    group_ns: Sequence[int],
    last_groups: Sequence[int],
    compute_ns: Sequence[int],
    whole_ns: int,
    processor_share: float,
) -> Return:
    """The `Return` of a model that comes alone.

    group_ns: of the copy of each group, in order. last_groups, compute_ns: of each segment in
    order, the last group that it needs (-1 for none), and how long it runs. whole_ns: of the model
    in one piece. processor_share: what a copy takes of the processors that compute.
    """
    transfer_ns, cut_ns = sum(group_ns), sum(compute_ns)
    heavy = 2 * transfer_ns > whole_ns
    end_ns = 0
    for last, own_ns in zip(last_groups, compute_ns, strict=True):
        end_ns = max(end_ns, sum(group_ns[: last + 1])) + own_ns
    # What copies take of the processors, segments lack.
    first_ns = sum(group_ns[: last_groups[0] + 1])
    taken_ns = round(processor_share * (transfer_ns - first_ns))
    end_ns = max(end_ns, first_ns + cut_ns + taken_ns)
    if end_ns >= transfer_ns + whole_ns:
        return Return(heavy, transfer_ns, overlaps=False)
    return Return(heavy, end_ns - cut_ns)


class Resident(Protocol):
    """A model as an order sees it.

    uses: requests, or batches of them, that it was let in for. size_bytes: on the device, in full.
    worth: the order's own.
    """

    cost: Return
    last_used_ns: int
    worth: float

    @property
    def uses(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


class EvictionOrder(Protocol):
    """Tells who leaves: the least by `key`."""

    def used(self, model: Resident) -> None:
        """`model` was let in for a request."""

    def evicted(self, model: Resident) -> None:
        """`model` was chosen to leave."""

    def key(self, model: Resident) -> tuple[float, ...]: ...


class LeastRecent:
    """By least recent use, whatever it takes to bring a model back."""

    def used(self, model: Resident) -> None:
        return

    def evicted(self, model: Resident) -> None:
        return

    def key(self, model: Resident) -> tuple[float, ...]:
        return (model.last_used_ns,)


class LightFirst(LeastRecent):
    """Light models before heavy ones, each by least recent use: Torpor's rule (arXiv:2306.03622).

    A heavy model that is not called any more stays as long as a light one can leave.
    """

    def key(self, model: Resident) -> tuple[float, ...]:
        return (model.cost.heavy, model.last_used_ns)


class GreedyDual:
    """By the delay saved for each byte held, aged: GreedyDual-Size with frequency (Cao and Irani,
    USITS 1997; Cherkasova, HPL-98-69).

    A model is worth what its uses would have waited for a byte of it, plus what the last one that
    left was worth. So the worth of what stays without being used falls behind, by and by.
    """

    def __init__(self) -> None:
        self._age = 0.0

    def used(self, model: Resident) -> None:
        model.worth = self._age + model.uses * model.cost.delay_ns / max(model.size_bytes, 1)

    def evicted(self, model: Resident) -> None:
        self._age = max(self._age, model.worth)

    def key(self, model: Resident) -> tuple[float, ...]:
        return (model.worth, model.last_used_ns)


EVICTION_ORDERS: dict[str, Callable[[], EvictionOrder]] = {
    "greedy_dual": GreedyDual,
    "light_first": LightFirst,
    "lru": LeastRecent,
}

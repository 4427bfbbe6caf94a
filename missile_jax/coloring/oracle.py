"""What can be timed, and how much of it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from missile_jax.errors import RecoveryError

SET_LIMIT = 64


class TimingOracle(Protocol):
    """Two questions about virtual addresses 0 ... 2 MiB * pages, each answered by one timing.

    The pages are 2 MiB each, in no order of their physical addresses.
    """

    @property
    def pages(self) -> int: ...

    def pair_latency_ns(self, first: int, second: int, /) -> float:
        """Of going to and fro between two addresses in DRAM: slower in one bank, other rows."""
        ...

    def set_throughput(self, loaded: Sequence[int], measured: Sequence[int], /) -> float:
        """Accesses per us of one warp over `measured` while all else streams `loaded`.

        Each of at most 64 addresses. A warp waits for its slowest access, so this falls as soon as
        one of `measured` is in a channel of one of `loaded`. With nothing loaded: alone.
        """
        ...


class Probes:
    """An oracle that is asked a limited number of times. Every timing counts, repeats too."""

    def __init__(self, oracle: TimingOracle, budget: int) -> None:
        self._oracle = oracle
        self.budget = budget
        self.spent = 0
        self.doing = "calibrating"

    @property
    def pages(self) -> int:
        return self._oracle.pages

    def latency_ns(self, first: int, second: int) -> float:
        self._count()
        return self._oracle.pair_latency_ns(first, second)

    def round_us(self, loaded: Sequence[int], measured: Sequence[int]) -> float:
        """How long one access to each of `measured` takes beside `loaded`."""
        self._count()
        return len(measured) / self._oracle.set_throughput(loaded, measured)

    def _count(self) -> None:
        if self.spent >= self.budget:
            raise RecoveryError(
                f"the budget of {self.budget} probes was spent while {self.doing}: "
                "allow for more, or measure with less noise"
            )
        self.spent += 1

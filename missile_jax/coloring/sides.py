"""The two sides of an L2, as on an H100: one is near to a multiprocessor, the other far.

A side is told by one address's latency from one multiprocessor. What is found is locality: which
half of the L2 has an address. It isolates no bandwidth, for either side serves all multiprocessors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from missile_jax.coloring.maps import PAGE_BYTES
from missile_jax.errors import RecoveryError

_SAMPLES = 256
# Between the means of near and far, in standard deviations of each.
_APART = 4.0


class SideOracle:
    """Sides as channels, so that they are recovered as those are.

    A set shares a side with another as it would share a channel; each question takes a latency for
    each of its addresses. DRAM is not asked about. latencies: how many were measured.
    """

    def __init__(self, latency_ns: Callable[[int], float], pages: int, seed: int = 0) -> None:
        """Raises RecoveryError if the latencies of addresses do not fall into two groups."""
        self.pages = pages
        self.latencies = 0
        self._latency_ns = latency_ns
        places = np.random.default_rng(seed).integers(pages * PAGE_BYTES // 256, size=_SAMPLES)
        sample = np.array([self._measured(int(place) * 256) for place in places])
        # The cut between two neighbours in order that leaves least variance on either side.
        sample.sort()
        cut = min(range(1, _SAMPLES), key=lambda k: sample[:k].var() * k
                  + sample[k:].var() * (_SAMPLES - k))  # fmt: skip
        near, far = sample[:cut], sample[cut:]
        if far.mean() - near.mean() <= _APART * max(near.std(), far.std()):
            raise RecoveryError(
                f"latencies of {_SAMPLES} addresses, {sample[0]:.4g} to {sample[-1]:.4g} ns, do "
                "not fall into near and far: this L2 has one side, or the measurement is noisy"
            )
        self._middle_ns = float(near[-1] + far[0]) / 2

    def pair_latency_ns(self, first: int, second: int, /) -> float:
        return 1.0

    def set_throughput(self, loaded: Sequence[int], measured: Sequence[int], /) -> float:
        sides = {self._far(address) for address in loaded}
        shared = bool(sides) and any(self._far(address) in sides for address in measured)
        return len(measured) / (10.0 if shared else 1.0)

    def _far(self, address: int) -> bool:
        return self._measured(address) > self._middle_ns

    def _measured(self, address: int) -> float:
        self.latencies += 1
        return self._latency_ns(address)

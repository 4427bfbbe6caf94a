"""Who had how much of the device: weighted virtual runtime, and the recent share of each class."""

from __future__ import annotations

import math

# The share of a class is taken over about this much device time.
_RECENT_NS = 1_000_000_000.0


class FairShare:
    """Virtual runtime of the best-effort models: device time divided by weight.

    A model that comes back from a pause starts at the least virtual runtime of those that are
    running, so that it can not hoard a claim while it is away.
    """

    def __init__(self) -> None:
        self._vruntime_ns: dict[str, float] = {}
        self._active: set[str] = set()
        self._floor_ns = 0.0

    def vruntime_ns(self, name: str) -> float:
        return self._vruntime_ns.get(name, self._floor_ns)

    def wake(self, name: str) -> None:
        """`name` has work again."""
        if name in self._active:
            return
        self._raise_floor()
        self._vruntime_ns[name] = max(self._vruntime_ns.get(name, 0.0), self._floor_ns)
        self._active.add(name)

    def sleep(self, name: str) -> None:
        """`name` has no work left."""
        if name in self._active:
            self._raise_floor()
            self._active.discard(name)

    def charge(self, name: str, duration_ns: int, weight: float) -> None:
        """`name` had the device for `duration_ns`."""
        self._vruntime_ns[name] = self.vruntime_ns(name) + duration_ns / weight

    def rename(self, name: str, new: str) -> None:
        """`name` is called `new` from now on."""
        if name in self._vruntime_ns:
            self._vruntime_ns[new] = self._vruntime_ns.pop(name)
        if name in self._active:
            self._active.discard(name)
            self._active.add(new)

    def forget(self, name: str) -> None:
        """`name` is gone for good."""
        self.sleep(name)
        self._vruntime_ns.pop(name, None)

    def _raise_floor(self) -> None:
        if self._active:
            least = min(self._vruntime_ns[name] for name in self._active)
            self._floor_ns = max(self._floor_ns, least)


class ClassShare:
    """Device time of LS and BE, older use fading out."""

    def __init__(self) -> None:
        self._latency_ns = 0.0
        self._best_effort_ns = 0.0

    def charge(self, latency: bool, duration_ns: int) -> None:
        fade = math.exp(-duration_ns / _RECENT_NS)
        self._latency_ns *= fade
        self._best_effort_ns *= fade
        if latency:
            self._latency_ns += duration_ns
        else:
            self._best_effort_ns += duration_ns

    def best_effort(self) -> float:
        """Share of BE in the recent device time; 1.0 when there was none at all."""
        total = self._latency_ns + self._best_effort_ns
        return self._best_effort_ns / total if total else 1.0

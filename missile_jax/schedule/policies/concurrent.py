"""Everything at once: what threads that call jitted functions do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from missile_jax.schedule.view import Launch, View


@dataclass(frozen=True, slots=True)
class Concurrent:
    """Baseline: no control; each job is launched whole as soon as it is there.

    max_in_flight: launches on the device at once, the size of a thread pool.
    """

    max_in_flight: int = 32

    @property
    def name(self) -> str:
        return "concurrent"

    @property
    def overlaps(self) -> bool:
        return True

    @property
    def yields(self) -> bool:
        return False

    def abreast(self, latency: bool) -> int | None:
        return None

    def decide(self, view: View) -> Sequence[Launch]:
        room = self.max_in_flight - view.latency_in_flight - view.best_effort_in_flight
        waiting = sorted(
            (m for m in view.models if m.launchable), key=lambda m: (m.arrival_ns, m.name)
        )
        return [Launch(m.name, whole=True) for m in waiting[: max(0, room)]]

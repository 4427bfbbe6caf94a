"""One job at a time in order of arrival: what a plain serving loop does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from missile_jax.schedule.view import Launch, View


@dataclass(frozen=True, slots=True)
class Fifo:
    """Baseline: no classes, whole jobs, the oldest request first."""

    @property
    def name(self) -> str:
        return "fifo"

    @property
    def overlaps(self) -> bool:
        return False

    @property
    def yields(self) -> bool:
        return False

    def abreast(self, latency: bool) -> int | None:
        return 1

    def decide(self, view: View) -> Sequence[Launch]:
        waiting = [m for m in view.models if m.launchable]
        if not waiting or view.latency_in_flight or view.best_effort_in_flight:
            return []
        oldest = min(waiting, key=lambda m: (m.arrival_ns, m.name))
        return [Launch(oldest.name, whole=True)]

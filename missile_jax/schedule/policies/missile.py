"""Latency-sensitive first at every segment boundary; best-effort takes what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from missile_jax.errors import ConfigError
from missile_jax.schedule.slo import Urgency
from missile_jax.schedule.view import Launch, ModelView, View

# So many times as long as a short request the others have to be.
_SHORT = 2


@dataclass(frozen=True, slots=True)
class Missile:
    """The default policy.

    LS requests run first, two at a time, the most urgent before the others (see `slo.Standing`),
    and beside these one that takes at most half as long as either, which would wait for too long.
    From the arrival of an LS request on no further BE piece is launched until none is left. BE
    models share the rest by weight, one piece in flight; pieces are segments while LS traffic is
    around and whole jobs otherwise. Where BE pieces yield the processors that they run on, they are
    always whole.

    beside: launch an LS request at once beside the BE segment in flight; False waits for its end.
        Beside is better where segments are long against an LS request: see docs/scheduling.md.
    calm_ms: without LS traffic for this long, BE runs whole jobs (elastic quantum); inf: never.
    best_effort_floor: share of device time, 0 to 1, that BE gets even when LS asks for all of it.
    latency_launches: LS requests that may run at a time. One seldom fills a device: with two, the
        device does more of them a second, and a short queue is shorter. One where LS waits for BE.
    yielding: on a CPU, run BE on threads that leave their processors to LS at once: see
        docs/scheduling.md. Not so with a floor, which they could not keep, nor if LS waits for BE.
    """

    beside: bool = True
    calm_ms: float = 1000.0
    best_effort_floor: float = 0.0
    latency_launches: int = 2
    yielding: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.best_effort_floor < 1.0:
            raise ConfigError(
                f"best_effort_floor={self.best_effort_floor!r} must be at least 0 and below 1"
            )
        if self.latency_launches < 1:
            raise ConfigError(f"latency_launches={self.latency_launches!r} must be 1 or more")
        if not self.calm_ms >= 0.0:
            raise ConfigError(f"calm_ms={self.calm_ms!r} must be 0 or more")

    @property
    def name(self) -> str:
        return "missile"

    @property
    def overlaps(self) -> bool:
        return self.beside

    @property
    def yields(self) -> bool:
        return self.yielding and self.beside and self.best_effort_floor == 0.0

    def abreast(self, latency: bool) -> int:
        return self.latency_launches if latency and self.beside else 1

    def decide(self, view: View) -> Sequence[Launch]:
        latency = [m for m in view.models if m.latency and m.launchable]
        wanted = bool(latency) or view.latency_in_flight > 0
        owed = view.best_effort_share < self.best_effort_floor
        launches = []
        if view.best_effort_in_flight == 0 and (owed or not wanted):
            best_effort = [m for m in view.models if not m.latency and m.launchable]
            if best_effort:
                calm = not wanted and view.now_ns - view.last_latency_ns > self.calm_ms * 1e6
                whole = calm or (view.yields and self.calm_ms < math.inf)
                launches.append(Launch(min(best_effort, key=_behind).name, whole))
        if self.beside or not (launches or view.best_effort_in_flight):
            room = self.abreast(latency=True) - view.latency_in_flight
            waiting = sorted(latency, key=_urgent)
            chosen, left = waiting[: max(0, room)], waiting[max(0, room) :]
            if self.beside and room >= 0:
                running_ns = [*view.latency_pieces_ns, *(m.piece_ns for m in chosen)]
                chosen += [m for m in left if _is_short(m, running_ns)][:1]
            launches += [Launch(m.name, whole=True) for m in chosen]
        return launches


def _is_short(model: ModelView, running_ns: Sequence[int]) -> bool:
    return 0 < _SHORT * model.piece_ns <= min(running_ns, default=0)


def _urgent(model: ModelView) -> tuple[Urgency, int, str]:
    return (model.urgency, model.arrival_ns, model.name)


def _behind(model: ModelView) -> tuple[float, int, str]:
    return (model.vruntime_ns, model.arrival_ns, model.name)

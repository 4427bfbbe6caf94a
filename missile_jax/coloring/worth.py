"""What a channel plan is worth: LS requests beside a BE model that never rests, simulated. Pure.

Streams run phase by phase. A phase takes as long as its bytes need at the memory's rate, or its
operations at the cores', whichever is longer, and *presses* on the memory for that share of its
time. While LS and BE overlap, each goes slower by what `Interference` says of the two pressures and
of how much of either's bytes lies in its own channels. Nothing else is shared: no core, no L2, no
bus to the host.

Three ways to lay tensors out. *none*: everything on all channels. *static*: what can be coloured
lies in its class's channels, always. *bimodal*: BE has a second copy on all channels, and each of
its phases that begins while LS is idle reads that one (Missile, arXiv:2407.13996).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

LAYOUTS = ("none", "static", "bimodal")


@dataclass(frozen=True, slots=True)
class Phase:
    """A launch. alone_s: on all channels, with nobody beside it. pressure: the share of that time
    for which the memory is busy, 0 to 1. coloured: the share of its bytes in channels of its own.
    """

    alone_s: float
    pressure: float
    coloured: float


@dataclass(frozen=True, slots=True)
class Stream:
    """One inference of a model."""

    name: str
    phases: tuple[Phase, ...]

    @property
    def alone_s(self) -> float:
        return sum(phase.alone_s for phase in self.phases)


class Interference(Protocol):
    """How much longer two phases take: (LS, BE), each at least about 1.

    None is a class that has nothing to run; a phase may be slower even so, on channels of its own.
    """

    def slowdown(self, ls: Phase | None, be: Phase | None) -> tuple[float, float]: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """latencies_s: [n], of the LS requests in order.

    be_rate: inferences of BE a second, parts included.
    overlap: of LS's running time, the share in which both pressed on the memory by half or more.
    """

    latencies_s: tuple[float, ...]
    be_rate: float
    overlap: float


@dataclass(slots=True)
class _Runner:
    """A stream on its way. left_s: of the phase it is in, at the speed it has alone."""

    stream: Stream
    index: int = 0
    left_s: float = 0.0
    phase: Phase | None = None

    def begin(self, index: int, plain: bool) -> None:
        phase = self.stream.phases[index]
        self.index = index
        self.phase = Phase(phase.alone_s, phase.pressure, 0.0) if plain else phase
        self.left_s = phase.alone_s

    @property
    def last(self) -> bool:
        return self.index == len(self.stream.phases) - 1


def simulate(
    ls: Stream,
    be: Stream | None,
    interference: Interference,
    arrivals_s: Sequence[float],
    layout: str,
) -> Outcome:
    """Serves LS requests one after another beside BE without a pause.

    arrivals_s: [n], at least one, ascending.
    be: None for LS alone, in the channels that the layout gives it.
    layout: one of `LAYOUTS`.
    """
    ls_run, be_run = _Runner(ls), None if be is None else _Runner(be)
    now = pressed = busy = be_work_s = 0.0
    served = arrived = 0
    latencies: list[float] = []
    if be_run is not None:
        be_run.begin(0, layout != "static")
    while served < len(arrivals_s):
        while arrived < len(arrivals_s) and arrivals_s[arrived] <= now:
            arrived += 1
        if ls_run.phase is None and arrived > served:
            ls_run.begin(0, layout == "none")
        be_phase = None if be_run is None else be_run.phase
        slow_ls, slow_be = interference.slowdown(ls_run.phase, be_phase)
        next_arrival = arrivals_s[arrived] - now if arrived < len(arrivals_s) else math.inf
        until_ls = ls_run.left_s * slow_ls if ls_run.phase is not None else math.inf
        until_be = be_run.left_s * slow_be if be_run is not None else math.inf
        step = min(next_arrival, until_ls, until_be)
        now += step
        if ls_run.phase is not None:
            busy += step
            if be_phase is not None and min(ls_run.phase.pressure, be_phase.pressure) >= 0.5:
                pressed += step
            ls_run.left_s -= step / slow_ls
        if be_run is not None:
            be_run.left_s -= step / slow_be
            be_work_s += step / slow_be
        if step == next_arrival:
            # Rounding must not leave it a moment ahead, which would be waited for without end.
            now = arrivals_s[arrived]
        elif step == until_ls:
            if not ls_run.last:
                ls_run.begin(ls_run.index + 1, layout == "none")
            else:
                latencies.append(now - arrivals_s[served])
                served += 1
                ls_run.phase = None
        elif be_run is not None:
            following = 0 if be_run.last else be_run.index + 1
            idle = ls_run.phase is None and arrived == served
            be_run.begin(following, layout == "none" or (layout == "bimodal" and idle))
    be_rate = be_work_s / be.alone_s / now if be is not None else 0.0
    return Outcome(tuple(latencies), be_rate, pressed / busy)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed: the nearest rank."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]

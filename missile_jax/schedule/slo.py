"""Objectives: which requests can still meet theirs, and which models are short of theirs.

A request that can not be in time any more makes others late if it runs before them, and gains
nothing itself. So it goes behind those that can, but not for ever. Models that have been late more
often than they may go behind the others (Torpor, arXiv:2306.03622, section on queueing).
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

from missile_jax.spec import SLO

# A request that has waited this many times what it was allowed goes first, come what may.
_PATIENCE = 10
# Of the requests that an objective allows one late among, so many times are remembered.
_REMEMBERED = 20


class Standing(IntEnum):
    """Groups of requests; lower ones go first. SHORT is in time, of a model that is short."""

    OVERDUE = 0
    IN_TIME = 1
    SHORT = 2
    LATE = 3


class Urgency(NamedTuple):
    """Of what a latency-sensitive model would run next: the smaller goes first.

    due_ns: when the request should be done: its own deadline or the model's SLO.
    """

    standing: Standing
    due_ns: int


class Due(Protocol):
    """What is to be known of a request. work_ns: the least that it takes by itself."""

    @property
    def arrival_ns(self) -> int: ...
    @property
    def due_ns(self) -> int: ...
    @property
    def work_ns(self) -> int: ...


def standing(request: Due, now_ns: int, usual_ns: int) -> Standing:
    """OVERDUE, IN_TIME or LATE.

    usual_ns: what its model's requests took lately, beside whatever ran there.
    """
    allowed_ns = request.due_ns - request.arrival_ns
    # It may be quicker than others were: it is not given up while half of its time is left.
    if now_ns + min(max(request.work_ns, usual_ns), allowed_ns // 2) <= request.due_ns:
        return Standing.IN_TIME
    if now_ns - request.arrival_ns < _PATIENCE * allowed_ns:
        return Standing.LATE
    return Standing.OVERDUE


class Attainment:
    """How a model has kept to its objective lately. Older requests fade out."""

    def __init__(self, slo: SLO) -> None:
        self._percentile = slo.percentile
        self._deadline_ns = round(slo.deadline_ms * 1e6)
        self._most = _REMEMBERED / (1 - slo.percentile)
        self._count = 0.0
        self._late = 0.0

    def note(self, latency_ns: float) -> None:
        """A request was answered after `latency_ns`; inf for one that was given up."""
        if self._count >= self._most:
            self._count /= 2
            self._late /= 2
        self._count += 1
        self._late += latency_ns > self._deadline_ns

    @property
    def required(self) -> float:
        """Requests that have to be in time one after the other until the objective is met.

        Negative: so many are to spare. Torpor's required request count.
        """
        return self._late / (1 - self._percentile) - self._count

    @property
    def short(self) -> bool:
        """Whether it is missed. One late request is not enough to say so."""
        return self._late > 1 and self.required > 0

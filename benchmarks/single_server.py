"""One server that needs nothing but time: what any order of serving can be compared with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from missile_jax import SLO
from missile_jax.schedule.slo import Attainment, Standing, standing


def in_order(arrivals_s: np.ndarray, service_s: float | np.ndarray) -> np.ndarray:
    """Latencies [n] in seconds of arrivals that are served one after the other.

    service_s: of all, or of each [n].
    """
    done = 0.0
    latencies = np.empty(len(arrivals_s))
    services = np.broadcast_to(service_s, len(arrivals_s))
    for k, (arrival, service) in enumerate(zip(arrivals_s, services, strict=True)):
        done = max(done, arrival) + service
        latencies[k] = done - arrival
    return latencies


class _Call(NamedTuple):
    """Times in ns."""

    arrival_ns: int
    work_ns: int
    due_ns: int
    function: int


def by_urgency(
    arrivals_s: np.ndarray, service_s: np.ndarray, function: np.ndarray, slos: list[SLO]
) -> np.ndarray:
    """Latencies [n] in seconds of the same, but the most urgent of those that wait goes first.

    service_s: of each [n]. function: which one each is for [n]. slos: of each function.
    """
    calls = [
        _Call(
            round(at_s * 1e9), round(work_s * 1e9), round(at_s * 1e9 + slos[f].deadline_ms * 1e6), f
        )
        for at_s, work_s, f in zip(arrivals_s, service_s, function.tolist(), strict=True)
    ]
    kept = [Attainment(slo) for slo in slos]
    latencies = np.empty(len(calls))
    waiting: list[int] = []
    now_ns = coming = 0

    def urgency(k: int) -> tuple[Standing, int]:
        found = standing(calls[k], now_ns, calls[k].work_ns)
        if found is Standing.IN_TIME and kept[calls[k].function].short:
            found = Standing.SHORT
        return found, calls[k].due_ns

    while waiting or coming < len(calls):
        if not waiting:
            now_ns = max(now_ns, calls[coming].arrival_ns)
        while coming < len(calls) and calls[coming].arrival_ns <= now_ns:
            waiting.append(coming)
            coming += 1
        k = min(waiting, key=urgency)
        waiting.remove(k)
        now_ns += calls[k].work_ns
        latency_ns = now_ns - calls[k].arrival_ns
        kept[calls[k].function].note(latency_ns)
        latencies[k] = latency_ns / 1e9
    return latencies

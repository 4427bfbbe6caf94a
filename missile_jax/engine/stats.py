"""What is counted of a model: numbers that only grow, and its latest latencies."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from missile_jax.engine.request import Phases

_LATEST = 4096
# Upper edges of the buckets of `Histogram`: 0.1 ms to 10 s, three or four a decade.
BOUNDS_NS = tuple(
    round(ms * 1e6)
    for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
)


@dataclass(slots=True)
class Histogram:
    """How long things took.

    counts: [len(BOUNDS_NS) + 1]; the k-th is of those up to ``BOUNDS_NS[k]`` that are in none
        before, the last of all that took longer.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_NS) + 1))
    sum_ns: int = 0

    def add(self, duration_ns: int) -> None:
        self.counts[bisect_left(BOUNDS_NS, duration_ns)] += 1
        self.sum_ns += duration_ns

    def snapshot(self) -> dict[str, Any]:
        return {"counts": list(self.counts), "sum_ns": self.sum_ns}


@dataclass(slots=True)
class ModelStats:
    """Counters of one model. Times in ns.

    total, queue, swap, compute: of requests that succeeded; see `Phases`.
    reject_count: refused since a queue was full. overload_count: since its deadline was too near.
    compute_ns: of jobs that were done. device_ns: of all launches, whatever became of them.
    input_bytes, output_bytes: of requests that succeeded, without padding.
    """

    success_count: int = 0
    fail_count: int = 0
    fail_ns: int = 0
    cancel_count: int = 0
    expire_count: int = 0
    reject_count: int = 0
    overload_count: int = 0
    compute_ns: int = 0
    device_ns: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    execution_count: int = 0
    inference_count: int = 0
    launch_count: int = 0
    within_slo_count: int = 0
    last_inference_ms: int = 0
    total: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    swap: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    batch_rows: Counter[int] = field(default_factory=Counter)
    latest_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def succeeded(
        self, phases: Phases, slo_ns: int | None, input_bytes: int, output_bytes: int
    ) -> None:
        total_ns = phases.ended_ns - phases.arrival_ns
        self.success_count += 1
        self.total.add(total_ns)
        self.queue.add(phases.queue_ns)
        self.swap.add(phases.swap_ns)
        self.compute.add(phases.compute_ns)
        self.input_bytes += input_bytes
        self.output_bytes += output_bytes
        self.latest_ns.append(total_ns)
        self.within_slo_count += slo_ns is None or total_ns <= slo_ns

    def executed(self, rows: int, compute_ns: int) -> None:
        self.execution_count += 1
        self.inference_count += rows
        self.compute_ns += compute_ns
        self.batch_rows[rows] += 1
        self.last_inference_ms = time.time_ns() // 1_000_000

    def failed(self, latency_ns: int) -> None:
        self.fail_count += 1
        self.fail_ns += latency_ns

    def snapshot(self) -> dict[str, Any]:
        """Plain values. `success_ns` runs from arrival to result; `queue_ns` is all waiting."""
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, int):
                values[name] = value
        values["success_ns"] = self.total.sum_ns
        values["queue_ns"] = self.queue.sum_ns + self.swap.sum_ns
        values["batch_rows"] = dict(sorted(self.batch_rows.items()))
        values["phases"] = {
            "total": self.total.snapshot(),
            "queue": self.queue.snapshot(),
            "swap": self.swap.snapshot(),
            "compute": self.compute.snapshot(),
        }
        return values


def latency_percentiles(latest_ns: Sequence[int]) -> dict[str, float] | None:
    """In ms; None without any latency."""
    if not latest_ns:
        return None
    p50, p95, p99 = np.percentile(latest_ns, (50, 95, 99)) / 1e6
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}

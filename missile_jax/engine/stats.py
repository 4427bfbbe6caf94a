"""What is counted of a model: numbers that only grow, and its latest latencies."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_LATEST = 4096


@dataclass(slots=True)
class ModelStats:
    """Counters of one model. Times in ns; `success_ns` runs from arrival to result.

    reject_count: refused since a queue was full. overload_count: since its deadline was too near.
    """

    success_count: int = 0
    success_ns: int = 0
    fail_count: int = 0
    fail_ns: int = 0
    cancel_count: int = 0
    expire_count: int = 0
    reject_count: int = 0
    overload_count: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    execution_count: int = 0
    inference_count: int = 0
    launch_count: int = 0
    within_slo_count: int = 0
    last_inference_ms: int = 0
    batch_rows: Counter[int] = field(default_factory=Counter)
    latest_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def succeeded(self, latency_ns: int, queue_ns: int, slo_ns: int | None) -> None:
        self.success_count += 1
        self.success_ns += latency_ns
        self.queue_ns += queue_ns
        self.latest_ns.append(latency_ns)
        self.within_slo_count += slo_ns is None or latency_ns <= slo_ns

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
        """Plain values, with latency percentiles in ms over the latest 4,096 successes."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("batch_rows", "latest_ns")
        }
        values["batch_rows"] = dict(sorted(self.batch_rows.items()))
        if self.latest_ns:
            p50, p95, p99 = np.percentile(list(self.latest_ns), (50, 95, 99)) / 1e6
            values["latency_ms"] = {"p50": float(p50), "p95": float(p95), "p99": float(p99)}
        else:
            values["latency_ms"] = None
        return values

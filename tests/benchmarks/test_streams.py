"""benchmarks.load: what counts of a stream, and of best-effort work at the edges of its window."""

from __future__ import annotations

import time
from concurrent.futures import Future
from threading import Timer
from typing import Any

import numpy as np
import pytest

from benchmarks.load import BestEffort, jobs_inside, latency_stream


class Delayed:
    """Stands for a runtime: answers after a time that depends on the model."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self.sent: list[Any] = []

    def submit(self, name: str, item: Any) -> Future:
        future: Future = Future()
        self.sent.append(item)
        Timer(self.seconds[name], future.set_result, (None,)).start()
        return future


def test_jobs_count_by_the_part_inside_of_the_window() -> None:
    ran = [(0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 5.0)]
    assert jobs_inside(ran, 0.5, 3.0) == pytest.approx(0.5 + 1.0 + 0.5)
    assert jobs_inside(ran, 5.0, 6.0) == 0.0


def test_best_effort_keeps_one_request_of_each_model_going() -> None:
    runtime: Any = Delayed({"a": 0.02, "b": 0.05})
    with BestEffort(runtime, {"a": [1], "b": [2]}) as work:
        start = time.perf_counter()
        time.sleep(0.5)
        end = time.perf_counter()
    rates = work.rates({"a": 1, "b": 4}, start, end)
    assert 25 < rates["a"] <= 50
    assert 50 < rates["b"] <= 80
    assert runtime.sent.count(1) > runtime.sent.count(2)


def test_only_the_counted_requests_are_reported() -> None:
    runtime: Any = Delayed({"ls": 0.03})
    due = np.array([0.0, 0.05, 0.1, 0.15])
    before = time.perf_counter()
    seen, start, end = latency_stream(runtime, "ls", [0], due, slice(1, 3))
    assert len(runtime.sent) == 4
    assert len(seen.latencies_s) == len(seen.late_s) == 2
    assert (seen.latencies_s >= 0.03).all()
    assert before + 0.05 <= start < start + 0.08 <= end < before + 0.5

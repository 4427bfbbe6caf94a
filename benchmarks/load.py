"""Load on a runtime: open-loop latency-sensitive requests beside closed-loop best-effort work."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from missile_jax import Runtime


@dataclass(frozen=True, slots=True)
class Latency:
    """What one stream of latency-sensitive requests saw.

    arrivals_s: offsets [n] at which requests were due. latencies_s: [n] from then to the result,
    so that a late sender counts against the system. late_s: [n] how late they were sent.
    """

    arrivals_s: np.ndarray
    latencies_s: np.ndarray
    late_s: np.ndarray


class BestEffort:
    """Keeps `inflight` requests of each model going until stopped; counts what finishes."""

    def __init__(
        self, runtime: Runtime, inputs: Mapping[str, Sequence[Any]], inflight: int = 1
    ) -> None:
        self._runtime = runtime
        self._inputs = inputs
        self._inflight = inflight
        self._lock = threading.Lock()
        self._running = False
        self._sent = dict.fromkeys(inputs, 0)
        self._open = 0
        self._drained = threading.Condition(self._lock)
        self.done_s: dict[str, list[float]] = {name: [] for name in inputs}

    def __enter__(self) -> BestEffort:
        self._running = True
        for name in self._inputs:
            for _ in range(self._inflight):
                self._send(name)
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running = False
            self._drained.wait_for(lambda: self._open == 0)

    def _send(self, name: str) -> None:
        items = self._inputs[name]
        with self._lock:
            if not self._running:
                return
            self._open += 1
            item = items[self._sent[name] % len(items)]
            self._sent[name] += 1
        future = self._runtime.submit(name, item)
        future.add_done_callback(lambda f: self._received(name, f))

    def _received(self, name: str, future: Future) -> None:
        now_s = time.perf_counter()
        with self._lock:
            self._open -= 1
            if future.exception() is None:
                self.done_s[name].append(now_s)
            self._drained.notify_all()
        future.result()
        self._send(name)

    def rates(self, batch: Mapping[str, int], start_s: float, end_s: float) -> dict[str, float]:
        """Items a second of each model between two times.

        From the first to the last completion in between, so that a job cut by an edge of the
        window counts neither way; too few completions fall back to a plain count.
        """
        rates = {}
        for name, times in self.done_s.items():
            inside = [t for t in times if start_s <= t <= end_s]
            if len(inside) >= 3:
                rates[name] = batch[name] * (len(inside) - 1) / (inside[-1] - inside[0])
            else:
                rates[name] = batch[name] * len(inside) / (end_s - start_s)
        return rates


def latency_stream(
    runtime: Runtime, name: str, inputs: Sequence[Any], arrivals_s: np.ndarray
) -> tuple[Latency, float, float]:
    """Sends a request at each arrival, waits for all. Returns latencies, start and end time."""
    count = len(arrivals_s)
    ended = np.zeros(count)
    late = np.zeros(count)
    futures: list[Future] = []

    def note(k: int) -> Any:
        def done(_: Future) -> None:
            ended[k] = time.perf_counter()

        return done

    start_s = time.perf_counter()
    for k, arrival in enumerate(arrivals_s):
        while (wait := start_s + arrival - time.perf_counter()) > 0:
            time.sleep(wait)
        late[k] = time.perf_counter() - start_s - arrival
        future = runtime.submit(name, inputs[k % len(inputs)])
        future.add_done_callback(note(k))
        futures.append(future)
    for future in futures:
        future.result()
    end_s = time.perf_counter()
    return Latency(arrivals_s, ended - start_s - arrivals_s, late), start_s, end_s


def back_to_back_s(runtime: Runtime, name: str, inputs: Sequence[Any], count: int) -> float:
    """Median time in seconds of `count` requests sent one after the other."""
    times = []
    for k in range(count):
        start = time.perf_counter()
        runtime.infer(name, inputs[k % len(inputs)])
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def throughput(
    runtime: Runtime, inputs: Mapping[str, Sequence[Any]], batch: Mapping[str, int], seconds: float
) -> dict[str, float]:
    """Items a second of each model when only they run, for about `seconds`."""
    with BestEffort(runtime, inputs) as load:
        start_s = time.perf_counter()
        time.sleep(seconds)
        end_s = time.perf_counter()
    return load.rates(batch, start_s, end_s)

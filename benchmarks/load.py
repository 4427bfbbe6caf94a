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
    """Keeps one request of each model going until stopped; notes when each ran."""

    def __init__(self, runtime: Runtime, inputs: Mapping[str, Sequence[Any]]) -> None:
        self._runtime = runtime
        self._inputs = inputs
        self._lock = threading.Lock()
        self._running = False
        self._sent = dict.fromkeys(inputs, 0)
        self._open = 0
        self._drained = threading.Condition(self._lock)
        self._ran_s: dict[str, list[tuple[float, float]]] = {name: [] for name in inputs}

    def __enter__(self) -> BestEffort:
        self._running = True
        for name in self._inputs:
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
        sent_s = time.perf_counter()
        future = self._runtime.submit(name, item)
        future.add_done_callback(lambda f: self._received(name, sent_s, f))

    def _received(self, name: str, sent_s: float, future: Future) -> None:
        now_s = time.perf_counter()
        with self._lock:
            self._open -= 1
            if future.exception() is None:
                self._ran_s[name].append((sent_s, now_s))
            self._drained.notify_all()
        future.result()
        self._send(name)

    def rates(self, batch: Mapping[str, int], start_s: float, end_s: float) -> dict[str, float]:
        """Items a second of each model between two times, once stopped.

        A job that an edge of the window cuts counts by the part of its time that lies inside: there
        has to be load of the same kind on both sides of an edge.
        """
        return {
            name: batch[name] * jobs_inside(ran_s, start_s, end_s) / (end_s - start_s)
            for name, ran_s in self._ran_s.items()
        }


def jobs_inside(ran_s: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """How many jobs ran between two times, of which one that an edge cuts is a part."""
    return sum(
        max(0.0, min(done, end_s) - max(sent, start_s)) / (done - sent) for sent, done in ran_s
    )


def latency_stream(
    runtime: Runtime,
    name: str,
    inputs: Sequence[Any],
    arrivals_s: np.ndarray,
    counted: slice = slice(None),
) -> tuple[Latency, float, float]:
    """Sends a request at each arrival, waits for all.

    counted: the requests to report; those before warm up, those behind keep the load on until the
        last that counts is done.

    Returns their latencies, when the first was due and when the last was done.
    """
    ended = np.zeros(len(arrivals_s))
    late = np.zeros(len(arrivals_s))
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
    latencies = (ended - start_s - arrivals_s)[counted]
    seen = Latency(arrivals_s[counted], latencies, late[counted])
    return seen, start_s + seen.arrivals_s[0], float(ended[counted].max())


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
        time.sleep(seconds / 10)
        start_s = time.perf_counter()
        time.sleep(seconds)
        end_s = time.perf_counter()
    return load.rates(batch, start_s, end_s)

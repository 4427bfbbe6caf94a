"""Does a reload fail, lose or mix up a request?

Client threads send requests over HTTP at a steady rate to two models, which are loaded anew in
turns all the while. Each version puts its own number into its answers, so that they tell which one
they are of: at least the one whose load was done when the request was sent, at most the one whose
load had begun when the answer came. Every other version has more layers and other batch sizes.
"""

from __future__ import annotations

import gc
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from benchmarks.growth import watch
from benchmarks.report import Report, percentiles
from missile_jax import Model, ModelSource, serve

RATE_PER_S = 200.0
CLIENTS = 8
RELOAD_EVERY_S = 2.0
WIDTH = 256


@dataclass(slots=True)
class Versions:
    """One model: the latest version whose load was begun, and whose load was done."""

    name: str
    priority: str
    begun: int = 0
    done: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def build(self) -> Model:
        """The next version."""
        self.begun += 1
        version, layers = self.begun, 2 + self.begun % 2
        weights = np.eye(WIDTH, dtype=np.float32)

        def answer(params: Any, x: jax.Array) -> jax.Array:
            number, weights = params
            for _ in range(layers):
                x = jax.nn.tanh(x @ weights)
            return x.at[:, 0].set(number)

        return Model(
            self.name,
            answer,
            (np.float32(version), weights),
            example=np.zeros((1, WIDTH), np.float32),
            priority=self.priority,
            buckets=[1, 2 + 2 * (version % 2)],
        )


def run(seconds: float, seed: int) -> Report:
    report = Report("reload-soak", seed)
    models = [Versions("fast", "latency"), Versions("slow", "best_effort")]
    sources = [ModelSource(model.name, model.build) for model in models]
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    stop = threading.Event()

    def note(end: str) -> None:
        with lock:
            ends[end] += 1

    with serve(sources, http_port=0, block=False) as serving:
        address = serving.url.removeprefix("http://")
        for model in models:
            model.done = model.begun
        workers = [
            threading.Thread(target=_client, args=(address, models, k, stop, note))
            for k in range(CLIENTS)
        ]
        workers.append(threading.Thread(target=_reload, args=(address, models, stop, note)))
        for worker in workers:
            worker.start()
        growth = watch(seconds)
        stop.set()
        for worker in workers:
            worker.join()
    gc.collect()
    report.rows = [{"what": end, "n": n} for end, n in sorted(ends.items())]
    report.summary = {
        "seconds": seconds,
        "requests": ends["right"] + ends["wrong"] + ends["failed"],
        "failed": ends["failed"],
        "wrong": ends["wrong"],
        "reloads": ends["reloaded"],
        "failed_reloads": ends["reload failed"],
    } | growth
    for model in models:
        times = percentiles(np.array(model.latencies_s))
        report.summary |= {f"{model.name}_{key}": value for key, value in times.items()}
    return report


def _client(
    address: str,
    models: list[Versions],
    k: int,
    stop: threading.Event,
    note: Callable[[str], None],
) -> None:
    connection = http.client.HTTPConnection(address, timeout=60)
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.5] * WIDTH}
    body = json.dumps({"inputs": [tensor]})
    start = time.monotonic() + k / RATE_PER_S
    for n in itertools.count():
        if stop.wait(max(0.0, start + n * CLIENTS / RATE_PER_S - time.monotonic())):
            break
        model = models[n % len(models)]
        least, sent = model.done, time.perf_counter()
        status, document = _ask(connection, f"/v2/models/{model.name}/infer", body)
        latency_s, most = time.perf_counter() - sent, model.begun
        if status != 200:
            note("failed")
            continue
        model.latencies_s.append(latency_s)
        note("right" if least <= document["outputs"][0]["data"][0] <= most else "wrong")
    connection.close()


def _reload(
    address: str, models: list[Versions], stop: threading.Event, note: Callable[[str], None]
) -> None:
    connection = http.client.HTTPConnection(address, timeout=60)
    for model in itertools.cycle(models):
        if stop.wait(RELOAD_EVERY_S):
            break
        status, _ = _ask(connection, f"/v2/repository/models/{model.name}/load", None)
        if status == 200:
            model.done = model.begun
        note("reloaded" if status == 200 else "reload failed")
    connection.close()


def _ask(connection: http.client.HTTPConnection, path: str, body: str | None) -> tuple[int, Any]:
    connection.request("POST", path, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())

"""What does the runtime cost over calling the compiled function?

Four questions, each with both sides interleaved in one run: a request through `Runtime` against
the bare jitted call, one over HTTP against a bare starlette handler, a model in segments against
whole, a request after a pause against one that follows another. The first two on an MLP of about
0.08 ms.
"""

from __future__ import annotations

import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import orjson
from rich.console import Console

import missile_jax.models as zoo
from benchmarks.mlp import mlp, parameters
from benchmarks.report import Report
from benchmarks.servers import await_ready, free_port, running
from benchmarks.workloads import items
from missile_jax import Missile, Model, Runtime
from missile_jax.program.pinning import pin_threads, worker_threads

# Batches at which the zoo's models are compared in segments and whole.
SEGMENTED = {
    "squeezenet": 8,
    "mobilenet": 8,
    "efficientnet": 8,
    "resnet50": 1,
    "resnet50-b4": 4,
    "minilm": 8,
}
SEGMENTED_QUICK = ("squeezenet", "minilm")


def run(quick: bool, seed: int, console: Console) -> Report:
    report = Report("overhead", seed)
    calls = 1000 if quick else 4000
    console.print("[dim]runtime against bare call[/]")
    _runtime(report, calls)
    console.print("[dim]HTTP against a bare handler[/]")
    _http(report, calls)
    for name in SEGMENTED_QUICK if quick else SEGMENTED:
        console.print(f"[dim]segments against whole: {name}[/]")
        _segments(report, name, SEGMENTED[name], 10 if quick else 40)
    console.print("[dim]after a pause[/]")
    _pauses(report, 60 if quick else 600)
    return report


def interleaved(sides: dict[str, Callable[[], Any]], calls: int, block: int) -> dict[str, Any]:
    """Times in us of `calls` calls of each side, in alternating blocks."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for call in sides.values():
        for _ in range(min(50, block)):
            call()
    for _ in range(calls // block):
        for name, call in sides.items():
            for _ in range(block):
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e3)
    return {name: np.array(values) for name, values in times.items()}


def _runtime(report: Report, calls: int) -> None:
    with Runtime() as runtime:
        params, x = parameters(), np.random.default_rng(report.seed).normal(size=(1, 784))
        x = x.astype(np.float32)
        device_params, bare = jax.device_put(params), jax.jit(mlp)
        runtime.load("mlp", model=mlp, params=params, example=x, priority="latency")
        times = interleaved(
            {
                "bare": lambda: np.asarray(bare(device_params, x)),
                "infer": lambda: runtime.infer("mlp", x),
                "submit": lambda: runtime.submit("mlp", x).result(),
            },
            calls,
            50,
        )
    for name, values in times.items():
        _row(report, f"mlp {name}", values)
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    report.summary |= {
        "bare_p50_us": p50["bare"],
        "runtime_p50_us": p50["infer"] - p50["bare"],
        "runtime_submit_p50_us": p50["submit"] - p50["bare"],
    }


def _http(report: Report, calls: int) -> None:
    x = np.random.default_rng(report.seed).normal(size=(1, 784)).astype(np.float32)
    with _server("plain_server") as plain, _server("door_server") as ours:
        request = _binary_request("mlp", x)
        times = interleaved(
            {"plain": lambda: plain.send(request), "ours": lambda: ours.send(request)}, calls, 50
        )
    for name, values in times.items():
        _row(report, f"http {name}", values)
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    report.summary |= {
        "http_plain_p50_us": p50["plain"],
        "http_p50_us": p50["ours"],
        "http_vs_plain_p50": p50["ours"] / p50["plain"],
    }


def _segments(report: Report, name: str, batch: int, calls: int) -> None:
    # Calm never comes, so that best-effort jobs always run in segments; latency models are not cut.
    # Both run on the same threads, which do not yield.
    policy = Missile(calm_ms=math.inf, yielding=False)
    with Runtime(policy=policy) as cut, Runtime(policy=policy) as whole:
        net = zoo.load(name.split("-")[0], random_weights=True)
        inputs = items(net, batch)[0] if net.name != "minilm" else _tokens(net, batch)
        for runtime, priority in ((cut, "best_effort"), (whole, "latency")):
            model = Model(
                "m",
                net.module,
                net.variables,
                example=net.example,
                buckets=[batch],
                priority=priority,
            )
            runtime.load(model)
        times = interleaved(
            {"whole": lambda: whole.infer("m", inputs), "cut": lambda: cut.infer("m", inputs)},
            calls,
            1,
        )
        plan = cut.stats()["models"]["m"]["plans"][0]
        launched = {
            side: runtime.stats()["models"]["m"]["launch_count"]
            / runtime.stats()["models"]["m"]["execution_count"]
            for side, runtime in (("whole", whole), ("cut", cut))
        }
    if launched != {"whole": 1.0, "cut": float(plan["segments"])}:
        raise RuntimeError(f"{name}: pieces launched a run {launched}, the plan is {plan}")
    ratio = float(np.median(times["cut"]) / np.median(times["whole"]))
    for side, values in times.items():
        _row(report, f"{name} b{batch} {side}", values)
    report.rows[-1] |= {"segments": plan["segments"], "bit_identical": plan["bit_identical"]}
    report.summary[f"segmented_ratio.{name}"] = ratio
    report.summary[f"whole_ms.{name}"] = float(np.median(times["whole"])) / 1e3


def _pauses(report: Report, calls: int) -> None:
    """SqueezeNet back to back and each time after a pause, threads pinned and free in turns."""
    net = zoo.load("squeezenet", random_weights=True)
    x = items(net, 1)[0]
    times: dict[str, list[float]] = {}
    with Runtime(pin=False) as runtime:
        runtime.load(Model("m", net.module, net.variables, example=net.example, priority="latency"))
        for _ in range(calls // 30):
            for side in ("free", "pinned"):
                _place_threads(side)
                for pause_s in (0.0, 0.03):
                    what = f"{side}, after {pause_s * 1e3:.0f} ms"
                    times.setdefault(what, []).extend(_paused(runtime, x, pause_s))
    for what, values in times.items():
        _row(report, f"squeezenet {what}", np.array(values))
    p50 = {what: float(np.median(values)) for what, values in times.items()}
    for side in ("free", "pinned"):
        ratio = p50[f"{side}, after 30 ms"] / p50[f"{side}, after 0 ms"]
        report.summary[f"after_pause_ratio.{side}"] = ratio
    ratio = p50["pinned, after 30 ms"] / p50["free, after 30 ms"]
    report.summary["pinned_vs_free_after_pause"] = ratio


def _place_threads(side: str) -> None:
    if side == "pinned":
        if not pin_threads(jax.devices()[0]):
            raise RuntimeError("the threads cannot be pinned here")
    else:
        for tid in worker_threads():
            os.sched_setaffinity(tid, os.sched_getaffinity(0))


def _paused(runtime: Runtime, x: Any, pause_s: float, calls: int = 30) -> list[float]:
    """Times in us."""
    times = []
    for _ in range(calls):
        time.sleep(pause_s)
        start = time.perf_counter_ns()
        runtime.infer("m", x)
        times.append((time.perf_counter_ns() - start) / 1e3)
    return times


def _tokens(net: Any, batch: int) -> Any:
    rng = np.random.default_rng(0)
    shape = (batch, net.example["input_ids"].shape[1])
    return {
        "input_ids": rng.integers(1000, 20000, shape).astype(np.int32),
        "attention_mask": np.ones(shape, np.int32),
    }


def _row(report: Report, what: str, us: np.ndarray) -> None:
    p50, p99 = np.percentile(us, (50, 99))
    report.rows.append({"what": what, "p50_us": float(p50), "p99_us": float(p99), "n": len(us)})


class _Client:
    """One kept-alive connection that sends ready-made requests and reads whole answers."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> bytes:
        """The body. Raises RuntimeError for any status but 200."""
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {head[:200]!r}")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        while len(body) < length:
            body += self._socket.recv(65536)
        return body

    def close(self) -> None:
        self._socket.close()


def _binary_request(model: str, x: np.ndarray) -> bytes:
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": list(x.shape),
        "parameters": {"binary_data_size": x.nbytes},
    }
    head = orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    body = head + x.tobytes()
    return (
        f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


@contextmanager
def _server(module: str) -> Iterator[_Client]:
    """A server of benchmarks/`module` in a process of its own, and a client connected to it."""
    port = free_port()
    with running([sys.executable, "-m", f"benchmarks.{module}", str(port)], port):
        await_ready(port)
        client = _Client(port)
        yield client
        client.close()

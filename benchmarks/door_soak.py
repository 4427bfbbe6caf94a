"""Does the door hold?

Clients in processes of their own are killed in the middle of what they do, by HTTP and gRPC, while
another client checks each answer that it gets. Afterwards nothing of them may be left. Then LS
requests go through the door beside clients that behave badly, and beside nobody.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from benchmarks.contenders import infer_request
from benchmarks.generator import Generator, Job
from benchmarks.report import Report
from benchmarks.served import served
from benchmarks.serving import LS_RATE_PER_S, beside
from benchmarks.victims import Plan
from missile_jax import Model, Serving, _native, serve
from missile_jax.client import Client
from missile_jax.errors import ServerError
from missile_jax.server.codec import InferRequest
from missile_jax.server.grpc.messages import encode_request

LARGE_FLOATS = 2**21
# What is still there so long after the last client was killed is left for good.
PATIENCE_S = 30.0
# Share of the clients that are killed before the server is first looked at.
WARM_UP = 0.2
# Lanes and pools start a thread when it is first needed, and keep it: no client leaves one behind.
_POOLED_THREADS = 8
# Eight large tensors: so much of what was freed may be kept for later, however many were killed.
GROWTH_MB = 64
LEFT = ("requests_left", "staging_blocks_left", "descriptors_left", "threads_left")


def run(kills: int, ls_seconds: float, seed: int) -> Report:
    report = Report("door-soak", seed)
    with serve(_models(), http_port=0, grpc_port=0, block=False) as serving:
        _killed(report, serving, kills, seed)
        _beside(report, serving, ls_seconds, seed)
    return report


def failed(report: Report) -> bool:
    """Whether something was left, memory grew, or an answer was wrong or missing."""
    grew = report.summary["rss_growth_mb"] > GROWTH_MB
    return grew or any(report.summary[key] for key in (*LEFT, "wrong", "failed"))


def _models() -> list[Model]:
    net, x = served("mlp"), np.zeros((1, 1), np.float32)
    large = np.zeros((1, LARGE_FLOATS), np.float32)
    return [
        Model("mlp", net.function, net.parameters, example=net.example(), priority="latency"),
        Model("slow", _slow, {}, example=x),
        Model("sum", lambda _, x: x.sum(1, keepdims=True), {}, example=large),
        Model("wide", lambda _, x: x + jnp.zeros((1, LARGE_FLOATS)), {}, example=x),
    ]


def _slow(_: Any, x: jax.Array) -> jax.Array:
    """Some ms: a client is killed before the answer is there."""
    y = jnp.ones((256, 256)) * x
    for _ in range(20):
        y = jnp.tanh(y @ y)
    return y.sum(keepdims=True)


def _killed(report: Report, serving: Serving, kills: int, seed: int) -> None:
    """What is left of clients that were killed, and what another client heard meanwhile."""
    _ask_all(serving)
    _kill(serving, max(8, round(WARM_UP * kills)), seed)
    before = _settled(serving, {})
    heard, stop = Counter[str](), threading.Event()
    asking = threading.Thread(target=_ask, args=(serving.url, stop, heard))
    asking.start()
    done = _kill(serving, kills, seed + 1)
    stop.set()
    asking.join()
    after = _settled(serving, before)
    _ask_all(serving)
    report.rows += [{"what": f"killed: {kind}", "n": n} for kind, n in done.items()]
    report.summary = {
        "killed": sum(done.values()),
        "answers": heard["right"],
        "wrong": heard["wrong"],
        "failed": heard["failed"],
        "requests_left": after["requests"],
        "staging_blocks_left": after["staging_blocks"],
        "descriptors_left": max(0, after["descriptors"] - before["descriptors"]),
        "threads_left": max(0, after["threads"] - before["threads"] - _POOLED_THREADS),
        "rss_growth_mb": (after["rss"] - before["rss"]) / 2**20,
    }


def _kill(serving: Serving, kills: int, seed: int) -> dict[str, int]:
    assert serving.grpc_url is not None
    x = np.ones((1, 1), np.float32)
    plan = Plan(
        int(serving.url.rpartition(":")[2]),
        int(serving.grpc_url.rpartition(":")[2]),
        kills,
        seed,
        infer_request("slow", x),
        infer_request("sum", np.ones((1, LARGE_FLOATS), np.float32)),
        infer_request("wide", x),
        encode_request(InferRequest({"input": x}), "slow").SerializeToString(),
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.victims"],
        input=plan.to_json() + "\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"clients could not be killed:\n{done.stderr[-1500:]}")
    return json.loads(done.stdout)


def _ask(url: str, stop: threading.Event, heard: Counter[str]) -> None:
    """Asks the model "mlp", again and again, and compares."""
    net = served("mlp")
    x = net.example(1)
    expected = net.compiled()(x)
    with Client(url) as client:
        while not stop.is_set():
            try:
                (answer,) = client.infer("mlp", {"input": x}).values()
            except ServerError:
                heard["failed"] += 1
                continue
            right = np.allclose(answer, expected, rtol=1e-4, atol=1e-4)
            heard["right" if right else "wrong"] += 1


def _ask_all(serving: Serving) -> None:
    """Each model over HTTP, on one connection. Raises RuntimeError for a wrong answer."""
    with Client(serving.url) as client:
        ones = np.ones((1, LARGE_FLOATS), np.float32)
        (total,) = client.infer("sum", {"input": ones}).values()
        (wide,) = client.infer("wide", {"input": np.ones((1, 1), np.float32)}).values()
    if total[0, 0] != LARGE_FLOATS or not np.array_equal(wide, ones):
        raise RuntimeError(f"a wrong answer: {total}, {wide}")


def _settled(serving: Serving, before: dict[str, int]) -> dict[str, int]:
    """What the server holds, once it holds no more than `before`, or does not get there."""
    until = time.monotonic() + PATIENCE_S
    while True:
        serving.runtime.run_until_idle(PATIENCE_S)
        gc.collect()
        held = _held(serving)
        idle = not held["requests"] and not held["staging_blocks"]
        kept = held["descriptors"] > before.get("descriptors", held["descriptors"])
        if (idle and not kept) or time.monotonic() > until:
            return held
        time.sleep(0.1)


def _held(serving: Serving) -> dict[str, int]:
    process = psutil.Process()
    models = serving.runtime.stats()["models"].values()
    return {
        "requests": sum(model["queue_depth"] for model in models),
        "staging_blocks": _native.staging_blocks(),
        "descriptors": process.num_fds(),
        "threads": process.num_threads(),
        "rss": process.memory_info().rss,
    }


def _beside(report: Report, serving: Serving, seconds: float, seed: int) -> None:
    """A row for the LS latencies beside nobody and each kind of abuser."""
    port = int(serving.url.rpartition(":")[2])
    request = infer_request("mlp", served("mlp").example(seed))
    job = Job(port, request, seconds, 16, rate=LS_RATE_PER_S, seed=seed)
    p99_ms = {}
    with Generator() as generator:
        for kind in ("nobody", "loris", "storm", "bulk"):
            with beside(kind, port):
                answer = generator.run(job)
            p99_ms[kind] = answer["p99_ms"]
            errors = sum(answer["errors"].values())
            report.rows.append(
                {"what": f"LS beside {kind}", "n": answer["n"], "p50_ms": answer["p50_ms"],
                 "p99_ms": answer["p99_ms"], "errors": errors}
            )  # fmt: skip
            report.summary["failed"] += errors
    for kind in ("loris", "storm", "bulk"):
        report.summary[f"ls_p99_vs_alone.{kind}"] = p99_ms[kind] / p99_ms["nobody"]

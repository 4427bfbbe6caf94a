"""Is anything lost, hung or leaked under cancels, deadlines and models that come and go?

Client threads submit to two steady models and to whichever model is loaded just then; a third of
the requests are cancelled after a random time or carry a short deadline. Every future must end, in
the way it may end. Memory may not grow in the second half, beyond what JAX's own caches take.
"""

from __future__ import annotations

import gc
import random
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import jax
import numpy as np

from benchmarks.growth import watch
from benchmarks.mlp import mlp, parameters
from benchmarks.report import Report
from missile_jax import (
    DeadlineExceededError,
    ModelNotFoundError,
    QueueFullError,
    Runtime,
    RuntimeClosedError,
    _native,
)

CLIENTS = 6
# A future that is not done this long after the load ended hangs.
PATIENCE_S = 60.0
# Of what is allocated: a leak of some 17 bytes a request, or a hundredth of a model's parameters a
# load, is more. JAX remembers the last 2,048 functions that it traced, which takes 1 or 2 of these
# for the first minutes.
ALLOCATED_MB_PER_MINUTE = 4.0
# Of the resident set, which also has what was freed and lies in pieces between what is remembered.
RSS_MB_PER_MINUTE = 20.0
# A shorter run is still filling buffers in its second half.
JUDGED_FROM_S = 60.0


def run(seconds: float, seed: int) -> Report:
    report = Report("soak", seed)
    with Runtime() as runtime:
        example = np.zeros((1, 784), np.float32)
        runtime.load("fast", model=mlp, params=parameters(), example=example,
                     priority="latency", buckets=[1, 8])  # fmt: skip
        runtime.load("slow", model=_slow, params=parameters(), example=example, buckets=[4])
        burst = _burst(runtime, example)
        ends, growth = _soak(runtime, example, seconds, seed)
        stats = runtime.stats()["models"]
    gc.collect()
    allowed = {"done", "cancelled", "deadline", "unloaded", "not loaded", "queue full"}
    wrong = {end: n for end, n in ends.items() if end not in allowed | {"hung"}}
    report.rows = [{"what": end, "n": n} for end, n in sorted(ends.items())]
    report.summary = {
        "seconds": seconds,
        "requests": sum(ends.values()),
        "burst_requests": sum(burst.values()),
        "lost": sum(burst.values()) - burst["right"] + sum(wrong.values()),
        "hung": ends["hung"],
        "executions": sum(m["execution_count"] for m in stats.values()),
        "staging_blocks_left": _native.staging_blocks(),
        "allocated_growth_limit_mb_per_minute": ALLOCATED_MB_PER_MINUTE,
        "rss_growth_limit_mb_per_minute": RSS_MB_PER_MINUTE,
        "growth_judged": seconds >= JUDGED_FROM_S,
    } | growth
    return report


def faults(summary: Mapping[str, Any]) -> list[str]:
    """What a run failed by, in words; empty if it did not."""
    found = [
        f"{what}: {summary[what]}"
        for what in ("lost", "hung", "staging_blocks_left")
        if summary[what]
    ]
    for what in ("allocated", "rss") if summary["growth_judged"] else ():
        grown = summary[f"{what}_growth_mb_per_minute"]
        limit = summary[f"{what}_growth_limit_mb_per_minute"]
        if grown > limit:
            found.append(f"{what} grew by {grown:.1f} MB a minute, allowed are {limit:g}")
    return found


def _slow(params: Any, x: jax.Array) -> jax.Array:
    """About 20 ms: long enough for several segments."""
    y = jax.nn.relu(x @ params[0][0])
    for _ in range(60):
        y = jax.nn.tanh(y @ params[1][0])
    return y


def _burst(runtime: Runtime, example: np.ndarray) -> Counter[str]:
    """1,000 requests at once, each of which must get its own answer."""
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=example.shape).astype(np.float32) for _ in range(1000)]
    expected = np.asarray(jax.jit(mlp)(parameters(), np.concatenate(inputs)))
    futures = [runtime.submit("fast", x) for x in inputs]
    ends: Counter[str] = Counter()
    for future, want in zip(futures, expected, strict=True):
        got = future.result(timeout=PATIENCE_S)
        ends["right" if np.allclose(got[0], want, rtol=1e-4, atol=1e-4) else "wrong"] += 1
    return ends


def _soak(
    runtime: Runtime, example: np.ndarray, seconds: float, seed: int
) -> tuple[Counter[str], dict[str, float]]:
    ends: Counter[str] = Counter()
    lock = threading.Lock()
    stop = threading.Event()
    workers = [
        threading.Thread(target=_client, args=(runtime, example, seed + k, stop, ends, lock))
        for k in range(CLIENTS)
    ]
    workers.append(threading.Thread(target=_come_and_go, args=(runtime, example, stop)))
    for worker in workers:
        worker.start()
    growth = watch(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return ends, growth


def _client(
    runtime: Runtime,
    example: np.ndarray,
    seed: int,
    stop: threading.Event,
    ends: Counter[str],
    lock: threading.Lock,
) -> None:
    rng = random.Random(seed)
    open_futures: list[Any] = []
    while not stop.is_set():
        name = rng.choice(("fast", "fast", "slow", "guest"))
        deadline_ms = rng.choice((None, None, rng.uniform(0.5, 30.0)))
        try:
            future = runtime.submit(name, example, deadline_ms=deadline_ms)
        except (ModelNotFoundError, QueueFullError) as error:
            missing = isinstance(error, ModelNotFoundError)
            _note(ends, lock, "not loaded" if missing else "queue full")
            stop.wait(0.001)
            continue
        open_futures.append(future)
        if rng.random() < 0.15:
            stop.wait(rng.uniform(0, 0.01))
            future.cancel()
        if len(open_futures) >= 16:
            _note(ends, lock, _end(open_futures.pop(0)))
    for future in open_futures:
        _note(ends, lock, _end(future))


def _come_and_go(runtime: Runtime, example: np.ndarray, stop: threading.Event) -> None:
    while not stop.is_set():
        runtime.load("guest", model=_slow, params=parameters(), example=example, buckets=[4])
        stop.wait(0.3)
        runtime.unload("guest")
        stop.wait(0.05)


def _end(future: Any) -> str:
    try:
        future.result(timeout=PATIENCE_S)
    except CancelledError:
        return "cancelled"
    except DeadlineExceededError:
        return "deadline"
    except RuntimeClosedError:
        return "unloaded"
    except FutureTimeoutError:
        return "hung"
    except Exception as error:  # noqa: BLE001 - any other end is what this looks for
        return f"{type(error).__name__}: {error}"
    return "done"


def _note(ends: Counter[str], lock: threading.Lock, end: str) -> None:
    with lock:
        ends[end] += 1

"""Is every answer right while models are swapped, evicted and unloaded under the requests?

A device with room for three models serves twelve, and a guest that comes and goes. Client threads
ask any model, and every tenth time evict one, whatever runs. Each answer is compared with what the
model computes by itself, at once and again when forty later ones have come: an array that still
showed the arena would have changed by then.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import Report
from missile_jax import Missile, ModelNotFoundError, Runtime, RuntimeClosedError

MODELS, ROOM, CLIENTS = 12, 3, 6
WIDTH, LAYERS = 256, 6
MODEL_BYTES = LAYERS * WIDTH * WIDTH * 4
KEPT = 40
INPUTS = np.random.default_rng(0).normal(size=(8, 1, WIDTH)).astype(np.float32)


def run(operations: int, seed: int) -> Report:
    """operations: at least so many, as many for each client."""
    report = Report("swap-soak", seed)
    # The arena is three quarters of it. Best-effort jobs always run in segments.
    with Runtime(
        device_memory=ROOM * MODEL_BYTES * 4 // 3 + (1 << 16),
        policy=Missile(calm_ms=float("inf")),
        quantum_ms=0.05,
    ) as runtime:
        for k in range(MODELS):
            _load(runtime, f"m{k}", k, "latency" if k == 0 else "best_effort")
        wanted = {f"m{k}": _alone(k) for k in range(MODELS)} | {"guest": _alone(MODELS)}
        start = time.perf_counter()
        ends = _race(runtime, wanted, operations, seed)
        seconds = time.perf_counter() - start
        stats = runtime.stats()
    models = [m["residency"] for m in stats["models"].values()]
    report.rows = [{"what": end, "n": n} for end, n in sorted(ends.items())]
    report.summary = {
        "operations": sum(ends.values()),
        "seconds": seconds,
        "wrong": ends["wrong"] + ends["changed later"],
        "failed": sum(n for end, n in ends.items() if end not in _ALLOWED),
        "swap_ins": sum(m["swap_ins"] for m in models),
        "evicted_mb": sum(m["evicted_bytes"] for m in models) / 1e6,
        "launches": sum(m["launch_count"] for m in stats["models"].values()),
    }
    return report


_ALLOWED = {
    "right",
    "evicted",
    "in use or not there",
    "not loaded",
    "unloaded",
    "wrong",
    "changed later",
}


def _tower(params: Sequence[Any], x: jax.Array) -> jax.Array:
    for weight in params:
        x = jnp.tanh(x @ weight) + x
    return x


def _weights(k: int) -> list[np.ndarray]:
    rng = np.random.default_rng(k)
    shape = (LAYERS, WIDTH, WIDTH)
    return list(rng.normal(0, 0.03, shape).astype(np.float32))


def _load(runtime: Runtime, name: str, k: int, priority: str) -> None:
    runtime.load(name, model=_tower, params=_weights(k), example=INPUTS[0], priority=priority)


def _alone(k: int) -> np.ndarray:
    return np.asarray(jax.vmap(lambda x: _tower(_weights(k), x))(INPUTS))


def _race(
    runtime: Runtime, wanted: dict[str, np.ndarray], operations: int, seed: int
) -> Counter[str]:
    counts = [Counter[str]() for _ in range(CLIENTS)]
    done = threading.Event()

    def client(k: int) -> None:
        rng = np.random.default_rng([seed, k])
        for _ in range(math.ceil(operations / CLIENTS)):
            name = str(rng.choice(list(wanted)))
            try:
                if rng.random() < 0.1:
                    counts[k]["evicted" if runtime.evict(name) else "in use or not there"] += 1
                else:
                    _ask(runtime, name, int(rng.integers(len(INPUTS))), wanted, kept[k], counts[k])
            except ModelNotFoundError:
                counts[k]["not loaded"] += 1
            except RuntimeClosedError:
                counts[k]["unloaded"] += 1
            except Exception as error:  # noqa: BLE001 - any other end is what this looks for
                counts[k][f"{type(error).__name__}: {error}"] += 1

    def guest() -> None:
        while not done.is_set():
            _load(runtime, "guest", MODELS, "best_effort")
            done.wait(0.05)
            runtime.unload("guest")

    kept: list[deque[Any]] = [deque() for _ in range(CLIENTS)]
    clients = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    visitor = threading.Thread(target=guest)
    for thread in (*clients, visitor):
        thread.start()
    for thread in clients:
        thread.join()
    done.set()
    visitor.join()
    return sum(counts, Counter[str]())


def _ask(
    runtime: Runtime,
    name: str,
    which: int,
    wanted: dict[str, np.ndarray],
    kept: deque[Any],
    count: Counter[str],
) -> None:
    got, want = runtime.infer(name, INPUTS[which]), wanted[name][which]
    count["right" if _close(got, want) else "wrong"] += 1
    kept.append((got, want))
    if len(kept) > KEPT and not _close(*kept.popleft()):
        count["changed later"] += 1


def _close(got: np.ndarray, want: np.ndarray) -> bool:
    return np.allclose(got, want, rtol=1e-4, atol=1e-4)

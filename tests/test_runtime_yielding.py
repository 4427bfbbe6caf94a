"""On a CPU, best-effort work runs on threads that leave their processors to others at once."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import Missile, Runtime
from missile_jax.program.yielding import yielding

X = np.linspace(-1, 1, 256, dtype=np.float32)[None]
LAYERS = 6
LONG_S = 60.0


def tower(params, x):
    for w in params:
        x = jnp.tanh(x @ w) + x
    return x


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((256, 256)).astype(np.float32) / 16 for _ in range(LAYERS)]


def load(runtime, name="be", **fields):
    fields = {"params": weights(), "priority": "best_effort"} | fields
    return runtime.load(name, model=tower, example=X, **fields)


class Launches:
    """Which pieces of models ran, as an observer of a runtime."""

    def __init__(self):
        self.of = {}

    def __call__(self, record):
        self.of.setdefault(record.model, []).append(record.index)


def under_latency_traffic(runtime):
    """Answers of a best-effort model while a latency-sensitive one is called again and again."""
    ends = threading.Event()

    def ask():
        while not ends.is_set():
            runtime.infer("ls", X)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        return [runtime.infer("be", X) for _ in range(5)]
    finally:
        ends.set()
        thread.join()


@pytest.mark.smoke
@pytest.mark.parametrize("yields", [True, False])
def test_best_effort_runs_whole_beside_latency_where_it_yields(yields, monkeypatch):
    # On a busy machine a profile may find segments faster than the whole; such models stay cut.
    monkeypatch.setattr("missile_jax.program.plan._CLEARLY_LESS", 0.0)
    seen = Launches()
    policy = Missile(yielding=yields)
    with Runtime(policy=policy, quantum_ms=0.02, observer=seen) as runtime:
        load(runtime, "ls", priority="latency")
        load(runtime)
        assert runtime.stats()["yields"] is yields
        assert runtime.stats()["models"]["be"]["plans"][0]["segments"] > 1
        runtime.infer("ls", X)
        want = np.asarray(jax.jit(tower)(weights(), X))
        for answer in under_latency_traffic(runtime):
            np.testing.assert_allclose(answer, want, atol=1e-5)
    assert (set(seen.of["be"]) == {-1}) == yields


def test_parameters_lie_on_the_device_of_their_class():
    with Runtime() as runtime:
        load(runtime, "ls", priority="latency")
        load(runtime)
        here = jax.devices("cpu")[0]
        for name, device in (("ls", here), ("be", yielding(here))):
            served = runtime._mux.table[name]
            whole = served.program.plans[1, 0].whole
            with served.parameters.use(whole) as arrays:
                assert {array.device for array in arrays} == {device}


@pytest.mark.parametrize(
    "fields", [{"best_effort_floor": 0.1}, {"beside": False}, {"yielding": False}]
)
def test_it_does_not_where_it_must_not(fields):
    with Runtime(policy=Missile(**fields)) as runtime:
        assert runtime.stats()["yields"] is False


@pytest.mark.parametrize("policy", ["fifo", "concurrent"])
def test_baselines_do_not(policy):
    with Runtime(policy=policy) as runtime:
        assert runtime.stats()["yields"] is False


def test_a_loop_of_one_s_own_runs_segments():
    """It runs one piece at a time, so that a latency-sensitive request waits for what runs."""
    seen = Launches()
    with_own = Runtime(quantum_ms=0.02, observer=seen)
    try:
        load(with_own, "ls", priority="latency")
        load(with_own)
        with_own.submit("ls", X)
        future = with_own.submit("be", X)
        with_own.run_until_idle()
        assert future.done()
        assert len(seen.of["be"]) > 1
    finally:
        with_own.close()


def test_models_of_both_classes_come_and_go():
    size = LAYERS * 256 * 256 * 4
    # Room for two of four, and for what XLA allocates.
    with Runtime(device_memory=2 * size * 4 // 3) as runtime:
        for k in range(4):
            params, priority = weights(k // 2), ("latency", "best_effort")[k % 2]
            load(runtime, f"m{k}", params=params, priority=priority)
        want = [np.asarray(jax.jit(tower)(weights(k), X)) for k in range(2)]
        for _ in range(5):
            futures = [runtime.submit(f"m{k}", X) for k in range(4)]
            for k, future in enumerate(futures):
                np.testing.assert_allclose(future.result(LONG_S), want[k // 2], atol=1e-5)
        swapped = [m["residency"]["swap_ins"] for m in runtime.stats()["models"].values()]
        assert sum(swapped) > 4

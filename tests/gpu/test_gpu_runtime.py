"""A Runtime on a GPU."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from missile_jax import Model, Runtime, models

pytestmark = pytest.mark.gpu

SIDES = {"squeezenet": 227, "resnet50": 224}


@pytest.fixture(scope="module", autouse=True)
def full_precision():
    """Full float32, so that a GPU's answers can be held against a CPU's."""
    with jax.default_matmul_precision("float32"):
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-cache")


def model(name: str, priority: str) -> Model:
    net = models.load(name, random_weights=True)
    return Model(name, net.module, net.variables, example=net.example, priority=priority)


def images(name: str, count: int) -> list[np.ndarray]:
    rng, side = np.random.default_rng(0), SIDES[name]
    return [rng.standard_normal((1, side, side, 3), np.float32) for _ in range(count)]


@functools.cache
def on_cpu(name: str) -> Callable[[np.ndarray], np.ndarray]:
    net, cpu = models.load(name, random_weights=True), jax.devices("cpu")[0]
    variables, apply = jax.device_put(net.variables, cpu), jax.jit(net.module.apply)
    return lambda x: np.asarray(apply(variables, jax.device_put(x, cpu)))


def close(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-3 * np.max(np.abs(want)))


def test_infer_answers_as_a_cpu_does(gpu, cache):
    (x,) = images("squeezenet", 1)
    with Runtime(device=gpu, cache_dir=cache) as runtime:
        runtime.load(model("squeezenet", "latency"))
        y = runtime.infer("squeezenet", x)
        assert runtime.stats()["device"] == f"gpu:{gpu.id}"
    close(y, on_cpu("squeezenet")(x))


def test_stepped_by_hand(gpu, cache):
    (x,) = images("resnet50", 1)
    runtime = Runtime(device=gpu, cache_dir=cache, quantum_ms=0.5)
    runtime.load(model("resnet50", "best_effort"))
    future = runtime.submit("resnet50", x)
    assert runtime.run_until_idle()
    close(future.result(timeout=0), on_cpu("resnet50")(x))
    runtime.close()


@pytest.mark.parametrize("policy", ["missile", "concurrent", "fifo"])
def test_latency_beside_best_effort(gpu, policy, cache):
    xs = {name: images(name, 4) for name in SIDES}
    with Runtime(device=gpu, cache_dir=cache, quantum_ms=0.5, policy=policy) as runtime:
        runtime.load(model("squeezenet", "latency"))
        runtime.load(model("resnet50", "best_effort"))
        futures = [runtime.submit("resnet50", xs["resnet50"][k % 4]) for k in range(24)]
        front = [runtime.infer("squeezenet", xs["squeezenet"][k % 4]) for k in range(24)]
        behind = [future.result(timeout=120) for future in futures]
        counts = {n: m["success_count"] for n, m in runtime.stats()["models"].items()}
    assert counts == {"squeezenet": 24, "resnet50": 24}
    for name, answers in (("squeezenet", front), ("resnet50", behind)):
        for k, answer in enumerate(answers):
            close(answer, on_cpu(name)(xs[name][k % 4]))


def test_more_models_than_fit_answer_right(gpu, cache):
    """Three models of 16 MiB with room for two, in an arena of the driver's memory."""
    side, rng = 2048, np.random.default_rng(0)
    weights = [rng.standard_normal((side, side), np.float32) / side for _ in range(3)]
    x = rng.standard_normal((1, side), np.float32)
    room = 2 * weights[0].nbytes * 4 // 3
    with Runtime(device=gpu, cache_dir=cache, device_memory=room) as runtime:
        for k, weight in enumerate(weights):
            runtime.load(f"m{k}", model=lambda w, x: x @ w, params=weight, example=x)
        for k in (0, 1, 2, 1, 0, 2):
            close(runtime.infer(f"m{k}", x), x @ weights[k])
        loaded = runtime.stats()["models"].values()
        assert sum(m["residency"]["swap_ins"] for m in loaded) >= 4

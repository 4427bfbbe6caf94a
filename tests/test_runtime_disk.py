"""A runtime that serves more models than fit into host memory: real disk, real Orbax."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import (
    CheckpointError,
    ConfigError,
    HostMemoryError,
    Missile,
    Model,
    Runtime,
)
from missile_jax.program import entry

WIDTH = 256
X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
MODEL_BYTES = 2 * WIDTH * WIDTH * 4
MEMORY = {"device_memory": 2 * MODEL_BYTES * 4 // 3, "host_memory": 3 * MODEL_BYTES}


def tower(params, x):
    for w in params:
        x = jnp.tanh(x @ w) + x
    return x


def weights(k):
    rng = np.random.default_rng(k)
    return [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 20 for _ in range(2)]


def model(k, **fields):
    return Model(f"m{k}", tower, weights(k), example=X, **fields)


def check(k, got):
    x = X.astype(np.float64)
    for w in weights(k):
        x = np.tanh(x @ w) + x
    np.testing.assert_allclose(got, x, atol=1e-3)


@pytest.fixture(params=["threads", "loop"])
def runtime(request, tmp_path):
    runtime = Runtime(**MEMORY, disk=tmp_path / "disk", policy=Missile(calm_ms=float("inf")))
    if request.param == "threads":
        runtime.start()
    yield runtime
    runtime.close()
    assert [p.name for p in (tmp_path / "disk" / ".missile-spill").iterdir()] == [".lock"]


def test_more_models_than_host_memory_holds_all_answer_right(runtime):
    for k in range(8):
        runtime.load(model(k, priority="latency" if k % 2 else "best_effort"))
    for k in [*range(8), *range(8), 0, 7, 0]:
        check(k, runtime.infer(f"m{k}", X))
    memory = runtime.stats()["memory"]
    assert memory["host_bytes"] <= 3 * MODEL_BYTES
    assert memory["disk"]["reads"] >= 8
    # Once each: what has not changed is not written again.
    assert memory["disk"]["writes"] <= 8


def test_the_least_recently_used_go_first(runtime):
    for k in range(3):
        runtime.load(model(k))
    check(0, runtime.infer("m0", X))
    runtime.load(model(3))
    held = {name: m["residency"]["host_bytes"] for name, m in runtime.stats()["models"].items()}
    assert held == {"m0": MODEL_BYTES, "m1": 0, "m2": MODEL_BYTES, "m3": MODEL_BYTES}


def test_requests_for_all_at_once_all_end(runtime):
    for k in range(8):
        runtime.load(model(k))
    futures = [(k, runtime.submit(f"m{k}", X)) for k in [*range(8)] * 3]
    assert runtime.run_until_idle(120)
    for k, future in futures:
        check(k, future.result(60))


def test_a_model_that_waits_for_the_disk_holds_up_nobody(tmp_path):
    with Runtime(**MEMORY, disk=tmp_path) as runtime:
        for k in range(4):
            runtime.load(model(k))
        check(1, runtime.infer("m1", X))  # m2 is the one that makes room.
        disk = runtime._memory.host._disk
        free = threading.Event()
        held = disk.run(free.wait, 60)
        away = runtime.submit("m0", X)
        for k in (1, 3, 1, 3):
            check(k, runtime.infer(f"m{k}", X))
        assert not away.done()
        free.set()
        assert held.result(60)
        check(0, away.result(60))


def test_many_threads_ask_while_models_come_and_go(tmp_path):
    with Runtime(**MEMORY, disk=tmp_path) as runtime:
        for k in range(6):
            runtime.load(model(k, priority="latency" if k == 0 else "best_effort"))
        asked = [int(k) for k in np.random.default_rng(0).integers(0, 6, 60)]
        with ThreadPoolExecutor(4) as pool:
            answers = [(k, pool.submit(runtime.infer, f"m{k}", X)) for k in asked]
            for k in range(10, 14):
                runtime.load(model(k))
                check(k, runtime.infer(f"m{k}", X))
                runtime.unload(f"m{k}")
            for k, answer in answers:
                check(k, answer.result(60))


def test_a_cancelled_request_leaves_the_model_servable(runtime):
    for k in range(5):
        runtime.load(model(k))
    assert runtime.submit("m0", X).cancel()
    check(1, runtime.infer("m1", X))
    check(0, runtime.infer("m0", X))


def test_damage_on_disk_fails_that_model_and_no_other(runtime):
    for k in range(5):
        runtime.load(model(k))
    (folder,) = runtime._memory.host._disk.folder.glob("m0.*")
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"model 'm0': the checkpoint at .* is damaged"):
            runtime.infer("m0", X)
    for k in (1, 2, 3, 4):
        check(k, runtime.infer(f"m{k}", X))
    runtime.unload("m0")
    runtime.load(model(0))
    check(0, runtime.infer("m0", X))


def test_a_disk_that_is_full_refuses_that_model_and_no_other(runtime, monkeypatch):
    for k in range(3):
        runtime.load(model(k))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(entry, "write", full)
        message = "model 'm0' cannot be written to .*No space left on device"
        with pytest.raises(HostMemoryError, match=message):
            runtime.load(model(3))
        for k in range(3):
            check(k, runtime.infer(f"m{k}", X))
    assert runtime.models() == ["m0", "m1", "m2"]
    runtime.load(model(3))
    check(3, runtime.infer("m3", X))


def test_a_model_above_host_memory_is_refused(tmp_path):
    small = {"device_memory": 4 * MODEL_BYTES, "host_memory": MODEL_BYTES, "disk": tmp_path}
    with Runtime(**small) as runtime:
        runtime.load(model(0))
        with pytest.raises(HostMemoryError, match=r"model 'big': .* host_memory allows 524288"):
            runtime.load("big", model=tower, params=[*weights(1), *weights(2)], example=X)
        check(0, runtime.infer("m0", X))


def test_a_disk_needs_a_limit(tmp_path):
    with pytest.raises(ConfigError, match="disk= needs host_memory="):
        Runtime(device_memory="8MiB", disk=tmp_path)

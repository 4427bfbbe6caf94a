"""A runtime that serves more models than fit on its device: real arena, real link, real XLA."""

import contextlib
import gc
import math
import platform
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import (
    ConfigError,
    DeviceMemoryError,
    HostMemoryError,
    Missile,
    Model,
    ModelLoadError,
    Priority,
    Runtime,
    RuntimeClosedError,
    Tenant,
)
from missile_jax.engine.device import InlineDevice
from missile_jax.memory import backing
from missile_jax.memory.link import BestCopy, _cores
from missile_jax.program.compile import compilations

WIDTH, LAYERS = 512, 4
X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
MODEL_BYTES = LAYERS * WIDTH * WIDTH * 4  # 4 MiB
# Of this, three quarters are the arena's: room for three models.
THREE_MODELS = 3 * MODEL_BYTES * 4 // 3
# Best-effort jobs always run in segments, of a layer or less.
CUT = {"policy": Missile(calm_ms=float("inf")), "quantum_ms": 0.005}


def tower(params, x):
    for w in params:
        x = jnp.tanh(x @ w) + x
    return x


def weights(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) / 30 for _ in range(LAYERS)]


def model(k, **fields):
    return Model(f"m{k}", tower, weights(k), example=X, **fields)


def busy(params, x):
    return jax.lax.fori_loop(0, 4_000, lambda _, y: jnp.tanh(y @ params[0]), x)


def expected(k):
    x = X.astype(np.float64)
    for w in weights(k):
        x = np.tanh(x @ w) + x
    return x


def check(k, got):
    np.testing.assert_allclose(got, expected(k), atol=1e-3)


@pytest.fixture(params=["threads", "loop"])
def runtime(request):
    runtime = Runtime(device_memory=THREE_MODELS, **CUT)
    if request.param == "threads":
        runtime.start()
    yield runtime
    runtime.close()


def test_more_models_than_fit_all_answer_right(runtime):
    for k in range(8):
        runtime.load(model(k, priority="latency" if k % 2 else "best_effort"))
    for k in [*range(8), *range(8), 3, 3]:
        check(k, runtime.infer(f"m{k}", X))
    stats = runtime.stats()
    assert stats["memory"]["models"] == 8
    assert stats["memory"]["resident_models"] <= 3
    assert stats["memory"]["arena"]["used_bytes"] <= 3 * MODEL_BYTES
    last = stats["models"]["m3"]["residency"]
    assert last["hits"] >= 1
    assert last["swap_ins"] >= 2
    assert last["swap_in_bytes"] >= 2 * MODEL_BYTES


def test_requests_for_more_models_than_fit_at_once_all_end(runtime):
    for k in range(8):
        runtime.load(model(k))
    futures = [(k, runtime.submit(f"m{k}", X)) for k in list(range(8)) * 3]
    assert runtime.run_until_idle(120)
    for k, future in futures:
        check(k, future.result(60))


def test_many_threads_ask_for_many_models():
    with Runtime(device_memory=THREE_MODELS, **CUT) as runtime:
        for k in range(6):
            runtime.load(model(k, priority="latency" if k == 0 else "best_effort"))
        rng = np.random.default_rng(0)
        asked = [int(k) for k in rng.integers(0, 6, 120)]
        with ThreadPoolExecutor(6) as pool:
            answers = pool.map(lambda k: (k, runtime.infer(f"m{k}", X)), asked)
            for k, got in answers:
                check(k, got)


@pytest.mark.parametrize("policy", ["missile", "fifo", "concurrent"])
def test_every_policy_waits_for_parameters(policy):
    with Runtime(device_memory=THREE_MODELS, policy=policy) as runtime:
        for k in range(5):
            runtime.load(model(k))
        for k in [0, 1, 2, 3, 4, 0, 2]:
            check(k, runtime.infer(f"m{k}", X))


def test_parameters_that_arrive_between_two_looks_of_a_loop(monkeypatch):
    pump = InlineDevice.pump

    def late(device):
        time.sleep(0.2)  # All copies end meanwhile.
        return pump(device)

    with contextlib.closing(Runtime(device_memory=THREE_MODELS)) as runtime:
        runtime.load(model(0))
        monkeypatch.setattr(InlineDevice, "pump", late)
        future = runtime.submit("m0", X)
        runtime.run_until_idle()
        assert future.done()
        check(0, future.result())


def test_parameters_come_while_their_request_waits_in_the_queue():
    go, running = threading.Event(), threading.Event()
    go.set()

    def hold(x):
        running.set()
        assert go.wait(60)
        return x

    def held(params, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return tower(params, jax.pure_callback(hold, shape, x))

    with Runtime(device_memory=THREE_MODELS, policy="fifo") as runtime:
        runtime.load("busy", model=held, params=weights(0), example=X)
        runtime.load(model(1))
        check(0, runtime.infer("busy", X))
        go.clear()
        running.clear()
        try:
            first = runtime.submit("busy", X)
            assert running.wait(60)
            waits = runtime.submit("m1", X)
            memory = runtime._memory
            assert memory is not None
            with runtime._mux.lock:
                while memory.residency.wait(60):
                    pass
            m1 = runtime.stats()["models"]["m1"]
            assert m1["residency"]["resident_bytes"] == MODEL_BYTES
            assert memory.residency.stats()["resident_models"] == 2
            assert (m1["launch_count"], waits.done(), first.done()) == (0, False, False)
        finally:
            go.set()
        check(0, first.result(60))
        check(1, waits.result(60))
        assert runtime.stats()["models"]["m1"]["residency"]["swap_ins"] == 1


def test_two_hundred_models_of_one_architecture_compile_once():
    small = [np.zeros((16, 16), np.float32)] * 2
    x = X[:, :16]
    with Runtime(device_memory="1MiB") as runtime:
        runtime.load("m0", model=tower, params=small, example=x)
        before = compilations()
        for k in range(1, 200):
            eye = [np.eye(16, dtype=np.float32) * k, small[1]]
            runtime.load(f"m{k}", model=tower, params=eye, example=x)
        assert compilations() == before
        assert len(runtime.models()) == 200
        for k in (1, 99, 199):
            np.testing.assert_allclose(runtime.infer(f"m{k}", x), np.tanh(k * x) + x, atol=1e-5)


_HOST_MEMORY = """
import ctypes, gc, os, time
import jax.numpy as jnp
import numpy as np
from missile_jax import Runtime

WIDTH, LAYERS, WARM, COUNTED = 512, 4, 4, 32
MODEL_BYTES = LAYERS * WIDTH * WIDTH * 4
X = np.ones((1, WIDTH), np.float32)

def tower(params, x):
    for w in params:
        x = jnp.tanh(x @ w) + x
    return x

def resident_bytes():
    # What has been freed and kept for the next launch is nobody's, and there once. A thread
    # may hold what was loaded last for a moment.
    time.sleep(0.5)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

with Runtime(device_memory=4 * MODEL_BYTES) as runtime:
    def load(k):
        weights = [np.full((WIDTH, WIDTH), k + i / 8, np.float32) for i in range(LAYERS)]
        runtime.load(f"m{k}", model=tower, params=weights, example=X)
        runtime.infer(f"m{k}", X)

    for k in range(WARM):
        load(k)
    before = resident_bytes()
    for k in range(WARM, WARM + COUNTED):
        load(k)
    print((resident_bytes() - before) / (COUNTED * MODEL_BYTES))
"""


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or platform.libc_ver()[0] != "glibc",
    reason="resident memory is read from /proc, and glibc gives free memory back first",
)
def test_a_model_takes_hardly_more_host_memory_than_its_parameters():
    # In a process of its own: what other tests have left, or free meanwhile, would count.
    child = subprocess.run(
        [sys.executable, "-c", _HOST_MEMORY], capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr
    assert 0.99 <= float(child.stdout) <= 1.02


def test_equal_parameters_lie_on_the_host_once():
    with Runtime(device_memory=THREE_MODELS) as runtime:
        for name in ("a", "b"):
            runtime.load(name, model=tower, params=weights(0), example=X)
        assert runtime.stats()["memory"]["host_bytes"] <= 1.02 * MODEL_BYTES
        check(0, runtime.infer("a", X))
        check(0, runtime.infer("b", X))
        runtime.unload("a")
        check(0, runtime.infer("b", X))


def test_a_backbone_of_two_fine_tunes_lies_on_the_host_once():
    def tuned(params, x):
        return tower(params["backbone"], x) @ params["head"]

    heads = [np.random.default_rng(k).standard_normal((WIDTH, 20)) for k in range(3)]
    heads = [head.astype(np.float32) for head in heads]
    with Runtime(device_memory=THREE_MODELS) as runtime:
        for k, head in enumerate(heads):
            params = {"backbone": weights(0), "head": head}
            runtime.load(f"m{k}", model=tuned, params=params, example=X)
        held = runtime.stats()["memory"]["host_bytes"]
        assert held <= 1.02 * (MODEL_BYTES + 3 * heads[0].nbytes)
        runtime.unload("m0")
        for k in (1, 2, 1):
            np.testing.assert_allclose(runtime.infer(f"m{k}", X), expected(0) @ heads[k], atol=1e-2)


def test_answers_outlive_the_memory_they_were_made_from():
    def passed_through(params, x):
        return {"weights": params[0][:1] * 1.0, "first": params[0], "sum": x + params[0][:1]}

    # The bucket is the parameter's own first axis, so that nothing is cut or copied on the way.
    x = np.zeros((WIDTH, WIDTH), np.float32)
    with Runtime(device_memory=THREE_MODELS) as runtime:
        for k in range(4):
            runtime.load(f"p{k}", model=passed_through, params=weights(k), example=x,
                         buckets=[WIDTH])  # fmt: skip
        kept = [runtime.infer(f"p{k}", x) for k in range(4)]
        for k in range(4):
            runtime.infer(f"p{k}", x)
        for k in range(4):
            np.testing.assert_array_equal(kept[k]["first"], weights(k)[0])
            np.testing.assert_array_equal(kept[k]["weights"], weights(k)[0][:1])


def test_a_pinned_model_is_fetched_once():
    with Runtime(device_memory=THREE_MODELS) as runtime:
        runtime.load(model(0, pinned=True))
        for k in range(1, 6):
            runtime.load(model(k))
        for k in [0, 1, 2, 3, 4, 5, 0]:
            check(k, runtime.infer(f"m{k}", X))
        assert runtime.stats()["models"]["m0"]["residency"]["swap_ins"] == 1


def test_unloading_makes_room(runtime):
    for k in range(3):
        runtime.load(model(k))
        runtime.infer(f"m{k}", X)
    for k in range(3):
        runtime.unload(f"m{k}")
    gc.collect()
    arena = runtime.stats()["memory"]["arena"]
    assert (arena["used_bytes"], arena["live_blocks"]) == (0, 0)
    runtime.load(model(9))
    check(9, runtime.infer("m9", X))


def test_unloading_gives_up_copies_that_wait_for_the_bus():
    seen = []
    # To bring a model takes two seconds.
    slow = {"link_bytes_per_s": MODEL_BYTES / 2, "copy_observer": seen.append}
    with contextlib.closing(Runtime(device_memory=THREE_MODELS, **slow)) as runtime:
        runtime.load(model(0))
        future = runtime.submit("m0", X)
        runtime.step()
        assert runtime.stats()["memory"]["arena"]["used_bytes"] == MODEL_BYTES
        runtime.unload("m0")
        with pytest.raises(RuntimeClosedError):
            future.result(0)
        memory = runtime._memory
        assert memory is not None
        with runtime._mux.lock:
            while memory.residency.wait(60):
                pass
        stats = runtime.stats()["memory"]
        (flow,) = stats["link"].values()
        assert flow["cancelled"] > 0
        assert flow["bytes"] < MODEL_BYTES
        assert len(seen) == flow["copies"]
        assert (stats["arena"]["used_bytes"], stats["arena"]["live_blocks"]) == (0, 0)


def test_models_come_and_go_while_others_answer():
    stop = threading.Event()
    with Runtime(device_memory=THREE_MODELS, **CUT) as runtime:
        for k in range(4):
            runtime.load(model(k))

        def ask(k):
            while not stop.is_set():
                check(k, runtime.infer(f"m{k}", X))

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, k) for k in range(4)]
            try:
                for k in range(10, 18):
                    runtime.load(model(k))
                    future = runtime.submit(f"m{k}", X)
                    if k % 2:
                        check(k, future.result(60))
                    runtime.unload(f"m{k}")
                    assert future.done()
                    if k % 2 == 0:
                        assert future.exception() is None or isinstance(
                            future.exception(), RuntimeClosedError
                        )
            finally:
                stop.set()
            for one in asking:
                one.result(60)


def test_a_model_that_never_fits_is_refused_and_others_go_on():
    with Runtime(device_memory=MODEL_BYTES) as runtime:
        small = {"model": lambda w, x: x @ w, "params": weights(0)[0], "example": X}
        runtime.load("small", **small)
        with pytest.raises(DeviceMemoryError, match=r"model 'm0': its parameters take 4194304"):
            runtime.load(model(0))
        assert runtime.models() == ["small"]
        np.testing.assert_allclose(runtime.infer("small", X), X @ weights(0)[0], atol=1e-3)


def test_tenants_have_their_weight_on_the_link_and_their_quota():
    tenants = {"search": Tenant(link_weight=3, memory_quota=MODEL_BYTES)}
    with Runtime(device_memory=THREE_MODELS, tenants=tenants) as runtime:
        for k in range(2):
            runtime.load(model(k, tenant="search"))
            runtime.load(model(k + 2))
        for k in range(4):
            check(k, runtime.infer(f"m{k}", X))
        stats = runtime.stats()
        link = stats["memory"]["link"]
        assert link["search/best_effort"]["weight"] == 3
        assert link["default/best_effort"]["weight"] == 1
        there = [stats["models"][f"m{k}"]["residency"]["resident_bytes"] for k in range(4)]
        # There was room for three.
        assert there == [0, MODEL_BYTES, MODEL_BYTES, MODEL_BYTES]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_inputs_take_their_tenants_turn_on_the_link(dtype):
    large = np.arange(1 << 19).reshape(8, -1).astype(dtype)
    with Runtime(device_memory="8MiB") as runtime:
        runtime.load(
            "ends",
            model=lambda w, x: x[:, -1] * w,
            params=np.array(2, dtype),
            example=large,
            buckets=[8],
            tenant="search",
            priority="latency",
        )
        given = large.copy()
        future = runtime.submit("ends", given)
        given[:] = 0  # The caller's own again, once it is submitted.
        np.testing.assert_array_equal(future.result(60), 2 * large[:, -1])
        before = runtime.stats()["memory"]["link"]["search/latency"]["bytes"]
        runtime.infer("ends", large)
        after = runtime.stats()["memory"]["link"]["search/latency"]["bytes"]
    assert after - before == large.nbytes


def test_a_large_input_after_the_end_is_refused_as_any_other():
    large = np.zeros((1, 1 << 19), np.float32)
    with Runtime(device_memory="8MiB") as runtime:
        runtime.load("sum", model=lambda w, x: x.sum(1) * w, params=np.float32(1), example=large)
    with pytest.raises(RuntimeClosedError):
        runtime.submit("sum", large)
    with pytest.raises(RuntimeClosedError, match="model 'sum': the link is closed"):
        runtime._mux.table["sum"].program.transfers.stage(large)


@pytest.mark.parametrize(("eviction", "light_leaves"), [("light_first", True), ("lru", False)])
def test_the_order_of_eviction_is_the_one_asked_for(eviction, light_leaves):
    memory = {"device_memory": THREE_MODELS, "link_bytes_per_s": 1e9}
    with Runtime(**memory, eviction=eviction) as runtime:
        # To copy the others takes 4 ms, longer than they compute; the light one computes for long.
        for k in (0, 2, 3):
            runtime.load(model(k))
        runtime.load("light", model=busy, params=weights(1)[:1], example=X)
        for name in ("m0", "light", "m2", "m3"):
            runtime.infer(name, X)
        models = runtime.stats()["models"]
        first, light = (models[name]["residency"] for name in ("m0", "light"))
        assert (first["heavy"], light["heavy"]) == (True, False)
        assert (light["evicted_bytes"] > 0) == light_leaves
        assert light_leaves or first["evicted_bytes"] > 0


@pytest.mark.parametrize(("link_bytes_per_s", "hidden"), [(None, math.inf), (1e9, 1.25e9)])
def test_no_cut_hides_what_a_copy_takes_of_the_processors(monkeypatch, link_bytes_per_s, hidden):
    best = BestCopy(_cores(), False, 5e9, 1 << 20)
    monkeypatch.setattr(backing, "best_copy", lambda _: best)
    with Runtime(device_memory="4MiB", link_bytes_per_s=link_bytes_per_s) as runtime:
        builder = runtime._builders[Priority.LATENCY]
        assert builder.copy_bytes_per_s == pytest.approx(hidden)


def test_host_memory_is_a_limit():
    with Runtime(device_memory=THREE_MODELS, host_memory=2 * MODEL_BYTES) as runtime:
        runtime.load(model(0))
        runtime.load(model(1))
        with pytest.raises(HostMemoryError, match=r"model 'm2'.*host_memory allows 8388608"):
            runtime.load(model(2))
        check(1, runtime.infer("m1", X))


def test_a_launch_that_needs_too_much_temporary_memory_is_refused():
    def sorts(w, x):  # Twice, with an array as large as w between them.
        return x @ jnp.sort(jnp.sort(w, 0) @ w, 0)

    with (
        Runtime(device_memory="3MiB") as runtime,
        pytest.raises(
            ModelLoadError,
            match="bytes of memory for temporaries and results, device_memory leaves",
        ),
    ):
        runtime.load("sorts", model=sorts, params=weights(0)[0], example=X)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"device_memory": "much"}, "device_memory='much' must be a positive number of bytes"),
        ({"device_memory": 0}, "device_memory=0 must be"),
        ({"device_memory": "1GiB", "host_memory": "-1"}, "host_memory='-1' must be"),
        ({"host_memory": "1GiB"}, "host_memory=.* need device_memory="),
        ({"eviction": "lru"}, "eviction= .* need device_memory="),
        ({"device_memory": 2**60}, "device_memory= is too much: arena"),
        ({"device_memory": "1MiB", "eviction": "mru"}, "eviction='mru' is unknown; allowed: 'gr"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        Runtime(**fields)

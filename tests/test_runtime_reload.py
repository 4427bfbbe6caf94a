"""Models that are replaced, drained and limited in a runtime on real XLA."""

import gc
import threading
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import (
    ConfigError,
    DeadlineExceededError,
    HostMemoryError,
    InvalidInputError,
    Missile,
    Model,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    Runtime,
    RuntimeClosedError,
    Tenant,
)

WIDTH = 64
X = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
MODEL_BYTES = WIDTH * WIDTH * 4


def scale(w, x):
    return x @ w


def scaled(factor, name="m", **fields):
    """Multiplies by `factor`, with MODEL_BYTES of parameters."""
    return Model(name, scale, factor * np.eye(WIDTH, dtype=np.float32), example=X, **fields)


def held(barrier, factor, **fields):
    """`scaled`, held up at `barrier` when it runs."""
    w = factor * np.eye(WIDTH, dtype=np.float32)
    return Model("m", lambda w, x: barrier.point(x) @ w, w, example=X, **fields)


@pytest.fixture
def runtime():
    with Runtime() as runtime:
        yield runtime


def test_a_model_is_replaced_and_one_that_is_not_there_is_loaded(runtime):
    runtime.load(scaled(2), replace=True)
    np.testing.assert_allclose(runtime.infer("m", X), 2 * X)
    runtime.load(scaled(3), replace=True)
    np.testing.assert_allclose(runtime.infer("m", X), 3 * X)
    assert runtime.stats()["models"]["m"]["success_count"] == 2
    assert runtime.models() == ["m"]


def test_what_runs_ends_on_the_old_version_and_what_waits_on_the_new_one(runtime, barrier):
    gate = barrier()
    runtime.load(held(gate, 2))
    gate.shut()
    running = runtime.submit("m", X)
    gate.wait_entered()
    waiting = runtime.submit("m", X)
    runtime.load(scaled(3), replace=True)
    gate.open()
    np.testing.assert_allclose(running.result(60), 2 * X)
    np.testing.assert_allclose(waiting.result(60), 3 * X)


def test_what_waits_ends_on_the_old_version_where_the_new_one_takes_other_inputs(runtime, barrier):
    gate = barrier()
    runtime.load(held(gate, 2))
    gate.shut()
    running = runtime.submit("m", X)
    gate.wait_entered()
    waiting = runtime.submit("m", X)
    runtime.load(Model("m", lambda _, x: x + 1, {}, example=X[:, :3]), replace=True)
    later = runtime.submit("m", X[:, :3])
    with pytest.raises(InvalidInputError):
        runtime.submit("m", X)
    gate.open()
    np.testing.assert_allclose(later.result(60), X[:, :3] + 1)
    for future in (running, waiting):
        np.testing.assert_allclose(future.result(60), 2 * X)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(runtime):
    def bad(w, x):
        raise ValueError("no")

    runtime.load(scaled(2))
    with pytest.raises(ModelLoadError, match="no"):
        runtime.load(Model("m", bad, {}, example=X), replace=True)
    np.testing.assert_allclose(runtime.infer("m", X), 2 * X)


def test_the_old_version_gives_its_parameters_back(runtime, barrier):
    gate = barrier()
    runtime.load(held(gate, 2))
    old = weakref.ref(runtime._mux.table["m"].program.leaves[0])
    gate.shut()
    # A deadline that is far away keeps nothing.
    running = runtime.submit("m", X, deadline_ms=1e9)
    gate.wait_entered()
    runtime.load(scaled(3), replace=True)
    gate.open()
    running.result(60)
    assert runtime.run_until_idle(60)
    runtime.infer("m", X)
    gc.collect()
    assert old() is None


def test_models_that_swap_are_replaced_too():
    memory = {"device_memory": 4 * MODEL_BYTES, "host_memory": 3 * MODEL_BYTES}
    with Runtime(**memory) as runtime:
        runtime.load(scaled(2))
        runtime.load(scaled(5, "other"))
        for factor in (3, 4, 5):
            runtime.load(scaled(factor), replace=True)
            np.testing.assert_allclose(runtime.infer("m", X), factor * X)
            np.testing.assert_allclose(runtime.infer("other", X), 5 * X)
        assert runtime.stats()["memory"]["models"] == 2
        assert runtime.stats()["memory"]["host_bytes"] <= 2 * MODEL_BYTES


def test_a_version_that_does_not_fit_beside_the_old_one_is_refused():
    with Runtime(device_memory=8 * MODEL_BYTES, host_memory=MODEL_BYTES) as runtime:
        runtime.load(scaled(2))
        with pytest.raises(HostMemoryError):
            runtime.load(scaled(3), replace=True)
        np.testing.assert_allclose(runtime.infer("m", X), 2 * X)


def test_a_drained_model_answers_what_it_has(runtime, barrier):
    gate = barrier()
    runtime.load(held(gate, 2))
    gate.shut()
    running = runtime.submit("m", X)
    gate.wait_entered()
    waiting = runtime.submit("m", X)
    runtime.unload("m", drain=True)
    with pytest.raises(ModelNotFoundError):
        runtime.submit("m", X)
    gate.open()
    for future in (running, waiting):
        np.testing.assert_allclose(future.result(60), 2 * X)
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        runtime.load(scaled(2), replace=True)


def test_submitters_never_notice_a_replacement(runtime):
    """Versions differ in their buckets, so that requests may be accepted by one that is gone."""
    runtime.load(scaled(1, priority="latency"))
    stop, errors, seen = threading.Event(), [], set()

    def submit():
        while not stop.is_set():
            try:
                seen.add(round(float(runtime.submit("m", X).result(60)[0, -1])))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is too much
                errors.append(error)

    threads = [threading.Thread(target=submit) for _ in range(3)]
    for thread in threads:
        thread.start()
    for factor in range(2, 12):
        buckets = (1, 2 + factor % 2)
        runtime.load(scaled(factor, priority="latency", buckets=buckets), replace=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert seen <= set(range(1, 12))


def test_the_timeout_of_a_model_holds_where_it_is_shorter(runtime, barrier):
    gate = barrier()
    runtime.load(held(gate, 2, timeout_ms=20))
    gate.shut()
    futures = [runtime.submit("m", X, deadline_ms=ms) for ms in (None, 1e6)]
    gate.wait_entered()
    for future in futures:
        with pytest.raises(DeadlineExceededError, match=r"of 20\.0 ms"):
            future.result(60)


def test_urgent_requests_overtake_others_of_their_model(barrier):
    gate = barrier()
    with Runtime(policy=Missile(latency_launches=1)) as runtime:
        runtime.load(held(gate, 2, priority="latency"))
        gate.shut()
        first, order = runtime.submit("m", X), []
        gate.wait_entered()
        made = {}
        for name, priority in (("last", "best_effort"), ("7", 7), ("2", 2), ("0", 0), ("1", 1)):
            made[name] = runtime.submit("m", X, priority=priority)
            made[name].add_done_callback(lambda _, name=name: order.append(name))
        gate.open()
        for future in (first, *made.values()):
            future.result(60)
        assert runtime.run_until_idle(60)
        assert order == ["0", "1", "2", "7", "last"]
        runtime.load(scaled(2, "be"))
        with pytest.raises(InvalidInputError, match="priority 'latency' is not allowed"):
            runtime.submit("be", X, priority="latency")


def test_a_tenants_queues_have_a_limit_together(barrier):
    gate = barrier()
    with Runtime(tenants={"t": Tenant(queue_limit=2)}) as runtime:
        runtime.load(held(gate, 2, tenant="t"))
        gate.shut()
        futures = [runtime.submit("m", X)]
        gate.wait_entered()
        futures += [runtime.submit("m", X) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 requests of tenant 't' wait already"):
            runtime.submit("m", X)
        assert runtime.stats()["models"]["m"]["reject_count"] == 1
        gate.open()
        for future in futures:
            future.result(60)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tenant(queue_limit=0), "queue_limit=0 must be 1 or more"),
        (lambda: scaled(1, timeout_ms=0), "model 'm': timeout_ms=0 must be a positive number"),
        (lambda: Runtime(tenants={"t": Tenant(link_weight=2)}), "need device_memory="),
    ],
)
def test_impossible_values(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_parameters_that_fail_at_run_time_fail_the_load(runtime, barrier):
    gate = barrier()

    def checked(w, x):
        return gate.point(x) @ jnp.asarray(w)

    runtime.load(Model("m", checked, np.eye(WIDTH, dtype=np.float32), example=X))
    gate.raises = ValueError("bad values")
    with pytest.raises(ModelLoadError):
        runtime.load(
            Model("m", checked, np.ones((WIDTH, WIDTH), np.float32), example=X), replace=True
        )
    gate.raises = None
    np.testing.assert_allclose(runtime.infer("m", X), X)

"""The runtime as its users meet it: ways in, ways out, threads or none, on real XLA."""

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax import (
    SLO,
    ConfigError,
    DeadlineExceededError,
    InvalidInputError,
    Missile,
    Model,
    ModelExistsError,
    ModelLoadError,
    ModelNotFoundError,
    ModelRaisedError,
    QueueFullError,
    Runtime,
    RuntimeClosedError,
    UnsupportedShapeError,
    _native,
)
from missile_jax.engine.request import NEVER_NS, Request
from missile_jax.program.compile import compilations
from missile_jax.runtime import cache_directory

X = np.linspace(-1, 1, 8, dtype=np.float32)[None]
W = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32) / 3
# Best-effort jobs always run in segments, of about one equation each.
CUT = {"policy": Missile(calm_ms=float("inf")), "quantum_ms": 0.005}


def tower(w, x):
    for _ in range(6):
        x = jnp.tanh(x @ w) + x
    return x


def doubled(name, **fields):
    return Model(name, lambda _, x: x * 2, {}, example=X[:, :1], **fields)


def held(name, barrier, stages=2, **fields):
    """A model that comes by `barrier` at each stage, and doubles its input in the end."""

    def fn(w, x):
        for _ in range(stages):
            x = barrier.point(x)
            x = (x @ w) @ w
        return x * 2

    fields = {"example": X, "priority": "best_effort", **fields}
    return Model(name, fn, np.eye(8, dtype=np.float32), **fields)


@pytest.fixture
def loop():
    """A runtime without threads."""
    with_own = Runtime(**CUT)
    yield with_own
    with_own.close()


@pytest.fixture
def runtime():
    """A runtime with threads."""
    with Runtime(**CUT) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def shared():
    """A runtime with threads and some models, for tests that leave it as it was."""
    # With a floor, so that a test that keeps the latency model busy comes to its end.
    policy = Missile(calm_ms=float("inf"), best_effort_floor=0.2)
    with Runtime(policy=policy, quantum_ms=CUT["quantum_ms"]) as runtime:
        runtime.load("be", model=tower, params=W, example=X, buckets=[1, 4])
        runtime.load("ls", model=tower, params=W, example=X, priority="latency", slo=SLO(1e6))
        yield runtime


def plan(runtime, name):
    return runtime.stats()["models"][name]["plans"][0]


# Ways in.


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["be", "ls"])
def test_every_way_in_gives_the_same_answer(shared, name):
    want = np.asarray(jax.jit(tower)(W, X))
    answers = [
        shared.infer(name, X),
        shared.submit(name, X).result(60),
        shared.submit_tensors(name, {"input": X}).result(60)["output"],
        asyncio.run(shared.ainfer(name, X)),
    ]
    for answer in answers:
        assert isinstance(answer, np.ndarray)
        assert not answer.flags.writeable
        np.testing.assert_allclose(answer, want, atol=1e-5)
        np.testing.assert_array_equal(answer, answers[0])


def test_the_same_answers_without_threads(loop, shared):
    loop.load("be", model=tower, params=W, example=X, buckets=[1, 4])
    future = loop.submit("be", X)
    assert not future.done()
    assert loop.run_until_idle()
    np.testing.assert_array_equal(future.result(0), shared.infer("be", X))
    np.testing.assert_array_equal(loop.infer("be", X), future.result(0))


def test_a_runtime_without_threads_starts_none():
    before = threading.enumerate()
    runtime = Runtime(**CUT)
    runtime.load("be", model=tower, params=W, example=X)
    future = runtime.submit("be", X)
    steps = 0
    while runtime.step():
        steps += 1
    assert future.done()
    assert steps >= plan(runtime, "be")["segments"] > 1
    assert not runtime.step()
    runtime.infer("be", X)
    assert threading.enumerate() == before
    runtime.close()


def test_a_step_is_one_piece_and_latency_goes_in_between(loop):
    loop.load("be", model=tower, params=W, example=X)
    loop.load("ls", model=tower, params=W, example=X, priority="latency")
    slow = loop.submit("be", X)
    loop.step()
    fast = loop.submit("ls", X)
    loop.step()
    assert fast.done()
    assert not slow.done()
    assert loop.stats()["models"]["be"]["in_flight"] == 0


def test_starting_midway_takes_over_what_is_there():
    runtime = Runtime(policy="concurrent")
    for name in "abc":
        runtime.load(name, model=tower, params=W, example=X)
    futures = [runtime.submit(name, X) for name in "abc" for _ in range(2)]
    runtime.step()
    with runtime.start() as started:
        assert started is runtime
        assert not wait(futures, timeout=60).not_done
        assert runtime.infer("a", X).shape == (1, 8)


def test_infer_without_threads_from_many_threads(loop):
    loop.load("be", model=tower, params=W, example=X)
    want = loop.infer("be", X)
    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(lambda _: loop.infer("be", X), range(64)):
            np.testing.assert_array_equal(answer, want)


def test_infer_beside_a_thread_that_steps_once(loop, barrier):
    """The thread in `step` runs one piece and leaves; the other one has to go on."""
    gate = barrier()
    loop.load(held("be", gate))
    gate.shut()
    first = loop.submit("be", X)
    with ThreadPoolExecutor(2) as pool:
        step = pool.submit(loop.step)
        gate.wait_entered()
        second = pool.submit(loop.infer, "be", X)
        gate.open()
        assert step.result(60)
        np.testing.assert_allclose(second.result(60), 2 * X)
    assert first.done()


def test_a_short_latency_request_runs_on_its_submitter(shared):
    assert shared.run_until_idle(60)
    assert shared.submit("ls", X).done()


def test_a_latency_model_of_unknown_duration_does_not_hold_its_submitter_up(runtime, barrier):
    gate = barrier()
    runtime.load(held("ls", gate, priority="latency"))
    gate.shut()
    future = runtime.submit("ls", X)
    gate.wait_entered()
    gate.open()
    np.testing.assert_allclose(future.result(60), 2 * X)


def test_what_needs_threads_or_none_says_so(loop, shared):
    with pytest.raises(RuntimeClosedError, match="step\\(\\) is for a runtime without threads"):
        shared.step()
    with pytest.raises(RuntimeClosedError, match="call start\\(\\)"):
        asyncio.run(loop.ainfer("any", X))


def test_callers_may_write_their_inputs_after_submitting(shared):
    x = X.copy()
    want = shared.infer("be", x)
    futures = []
    for _ in range(20):
        futures.append(shared.submit("be", x))
        x[:] = 1e9
        x[:] = X
    x[:] = 1e9
    for future in futures:
        np.testing.assert_allclose(future.result(60), want, atol=1e-5)


def test_callers_may_write_their_inputs_while_the_request_waits(loop):
    loop.load("be", model=tower, params=W, example=X)
    want, x = loop.infer("be", X), X.copy()
    future = loop.submit("be", x)
    x[:] = 1e9
    loop.run_until_idle()
    np.testing.assert_array_equal(future.result(0), want)


def test_wrong_requests_are_refused_at_once(shared):
    with pytest.raises(ModelNotFoundError, match="no model named 'x'"):
        shared.infer("x", X)
    with pytest.raises(InvalidInputError, match="tree"):
        shared.submit("be", {"x": X})
    with pytest.raises(UnsupportedShapeError, match=r"5 rows .* \[1, 4\]"):
        shared.submit("be", np.repeat(X, 5, 0))
    with pytest.raises(InvalidInputError, match=r"got the inputs \['x'\], allowed are \['input'\]"):
        shared.submit_tensors("be", {"x": X})
    for deadline_ms in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="deadline_ms"):
            shared.submit("be", X, deadline_ms=deadline_ms)


# Models.


def test_loading_by_name_or_by_model(loop):
    info = loop.load(doubled("a", tenant="search", weight=2.0))
    assert loop.load("b", model=tower, params=W, example=X).parameter_bytes == W.nbytes
    assert loop.models() == ["a", "b"]
    assert loop.describe("a") == info
    assert (info.tenant, loop.stats()["models"]["a"]["weight"]) == ("search", 2.0)
    loop.unload("a")
    assert loop.models() == ["b"]
    with pytest.raises(ModelNotFoundError, match="loaded: b"):
        loop.describe("a")


def test_nothing_of_a_request_is_left_to_garbage_collection(runtime):
    runtime.load(doubled("a", priority="latency"))
    runtime.load("b", model=tower, params=W, example=X)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            runtime.infer("a", X[:, :1])
            runtime.submit("b", X, deadline_ms=60_000).result(60)
            runtime.submit("b", X).cancel()
        assert runtime.run_until_idle(60)
        left = [x for x in gc.get_objects() if isinstance(x, Request)]
        # Those with a deadline wait in the heap until it passes.
        assert sum(request.deadline_ns == NEVER_NS for request in left) <= 1
    finally:
        gc.enable()


def test_a_closed_runtime_ends_with_its_last_reference():
    runtime = Runtime(device_memory="8MiB").start()
    runtime.load("a", model=tower, params=W, example=X)
    runtime.infer("a", X)
    runtime.close()
    ref = weakref.ref(runtime)
    gc.disable()
    try:
        del runtime
        assert ref() is None
    finally:
        gc.enable()


def test_what_lives_after_a_load_is_left_out_of_garbage_collection(loop):
    gc.unfreeze()
    loop.load(doubled("a"))
    # A full collection stops all threads for as long as it takes to look at what is left to it.
    assert len(gc.get_objects()) < gc.get_freeze_count() / 20


def test_an_unloaded_model_gives_its_parameters_back_without_a_collection(loop):
    loop.load("a", model=tower, params=W, example=X)
    leaf = weakref.ref(loop._mux.table["a"].program.leaves[0])
    loop.infer("a", X)
    gc.disable()
    try:
        loop.unload("a")
        assert leaf() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda rt: rt.load(doubled("a"), weight=2), ConfigError, "no further fields"),
        (lambda rt: rt.load("b", modle=1), ConfigError, "modle"),
        (lambda rt: rt.load("b", model=1, example=X), ModelLoadError, "got int"),
        (lambda rt: rt.load(doubled("a")), ModelExistsError, "'a' is loaded"),
        (lambda rt: rt.unload("b"), ModelNotFoundError, "loaded: a"),
    ],
)
def test_loading_says_what_is_wrong_and_changes_nothing(loop, call, error, message):
    loop.load(doubled("a"))
    with pytest.raises(error, match=message):
        call(loop)
    assert loop.models() == ["a"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": "lifo"}, "allowed: missile"),
        ({"quantum_ms": 0}, "quantum_ms=0"),
        ({"quantum_ms": float("inf")}, "quantum_ms=inf"),
    ],
)
def test_impossible_runtimes(fields, message):
    with pytest.raises(ConfigError, match=message):
        Runtime(**fields)


def test_where_caches_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("MISSILE_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    assert cache_directory(tmp_path / "other") == tmp_path / "other"
    monkeypatch.delenv("MISSILE_CACHE")
    assert cache_directory().parts[-2:] == (".cache", "missile_jax")


# Compilation.


def test_nothing_compiles_on_the_request_path(runtime):
    events = []

    def listen(event, duration, **_):
        if "compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        runtime.load("be", model=tower, params=W, example=X, buckets=[1, 2, 4])
        runtime.load("ls", model=tower, params=W, example=X, priority="latency", buckets=[1, 4])
        assert events
        batches = [jnp.asarray(np.repeat(X, rows, 0)) for rows in (1, 2, 3, 4)]
        events.clear()
        before = compilations()
        for x in batches:
            futures = [runtime.submit(name, x) for name in ("be", "ls") for _ in range(5)]
            assert not wait(futures, timeout=60).not_done
            runtime.infer("be", np.asarray(x))
        assert compilations() == before
        assert events == []
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_two_models_of_one_architecture_share_executables(runtime):
    runtime.load("a", model=tower, params=W, example=X)
    before = compilations()
    runtime.load("b", model=tower, params=2 * W, example=X)
    assert compilations() == before
    assert not np.allclose(runtime.infer("a", X), runtime.infer("b", X))


# Segments under load.


def test_segmented_answers_have_the_same_bits_idle_or_loaded(shared):
    assert plan(shared, "be")["segments"] > 1
    want = shared.infer("be", X)
    np.testing.assert_allclose(want, jax.jit(tower)(W, X), atol=1e-5)
    stop = threading.Event()

    def hammer():
        while not stop.is_set():
            shared.infer("ls", X)

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            np.testing.assert_array_equal(shared.infer("be", X), want)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_batches_join_requests_and_each_gets_its_own_rows(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate, buckets=[1, 4, 8]))
    gate.shut()
    first = runtime.submit("be", X)
    gate.wait_entered()
    asked = [np.full((rows, 8), k, np.float32) for k, rows in enumerate([1, 2, 3, 4, 1, 1])]
    futures = [runtime.submit("be", x) for x in asked]
    gate.open()
    for future, x in zip(futures, asked, strict=True):
        np.testing.assert_allclose(future.result(60), 2 * x)
    assert first.result(60).shape == (1, 8)
    assert runtime.run_until_idle(60)
    assert runtime.stats()["models"]["be"]["batch_rows"] == {1: 1, 6: 2}


def test_a_thousand_requests_from_sixteen_threads(shared):
    names = ["be", "ls"]
    rng = np.random.default_rng(0)
    asked = [rng.standard_normal((1, 8)).astype(np.float32) for _ in range(1000)]
    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(lambda k: shared.submit(names[k % 2], asked[k]), range(1000)))
    assert not wait(futures, timeout=120).not_done
    want = np.asarray(jax.jit(tower)(W, np.concatenate(asked)))
    for future, expected in zip(futures, want, strict=True):
        np.testing.assert_allclose(future.result(0)[0], expected, atol=1e-5)


def test_staging_blocks_are_all_given_back(runtime):
    runtime.load("be", model=tower, params=W, example=X, buckets=[4])
    gc.collect()
    before = _native.staging_blocks()
    futures = [runtime.submit("be", X) for _ in range(50)]
    futures[30].cancel()
    wait(futures)
    assert runtime.run_until_idle(60)
    del futures
    gc.collect()
    assert _native.staging_blocks() == before


# Ways out.


def test_a_model_that_raises_fails_its_request_alone(runtime, barrier):
    gate = barrier()
    runtime.load(held("bad", gate))
    runtime.load("good", model=tower, params=W, example=X)
    gate.raises = ValueError("layer 7 is broken")
    failing = runtime.submit("bad", X)
    runtime.infer("good", X)
    with pytest.raises(ModelRaisedError, match="model 'bad' failed while it ran") as raised:
        failing.result(60)
    assert "layer 7 is broken" in str(raised.value.__cause__)
    gate.raises = None
    np.testing.assert_allclose(runtime.infer("bad", X), 2 * X)
    stats = runtime.stats()["models"]
    assert (stats["bad"]["fail_count"], stats["good"]["fail_count"]) == (1, 0)


def test_a_queued_request_is_cancelled(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate))
    gate.shut()
    running = runtime.submit("be", X)
    gate.wait_entered()
    queued = runtime.submit("be", X)
    assert queued.cancel()
    gate.open()
    running.result(60)
    with pytest.raises(CancelledError):
        queued.result(0)
    assert runtime.stats()["models"]["be"]["cancel_count"] == 1


def test_a_cancelled_request_keeps_no_input_until_its_deadline():
    with contextlib.closing(Runtime()) as runtime:
        runtime.load("be", model=tower, params=W, example=X)
        gc.collect()
        before = _native.staging_blocks()
        future = runtime.submit("be", X, deadline_ms=3_600_000)
        assert _native.staging_blocks() == before + 1
        assert future.cancel()
        assert _native.staging_blocks() == before


def test_a_running_job_is_cancelled_at_the_next_boundary(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate, stages=4))
    assert plan(runtime, "be")["segments"] > 2
    gate.shut()
    gate.seen = 0
    future = runtime.submit("be", X)
    gate.wait_entered()
    assert future.cancel()
    gate.open()
    assert runtime.run_until_idle(60)
    assert gate.seen < 4
    np.testing.assert_allclose(runtime.infer("be", X), 2 * X)


def test_cancelling_a_task_cancels_its_request(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate, stages=4))
    gate.shut()

    async def main():
        task = asyncio.ensure_future(runtime.ainfer("be", X))
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gate.open()
    assert runtime.run_until_idle(60)
    assert runtime.stats()["models"]["be"]["cancel_count"] == 1


def test_many_tasks_at_once(shared):
    async def main():
        return await asyncio.gather(*(shared.ainfer("be", X) for _ in range(50)))

    answers = asyncio.run(main())
    assert len(answers) == 50
    for answer in answers:
        np.testing.assert_array_equal(answer.shape, (1, 8))


def test_deadlines_pass_in_the_queue_and_on_the_device(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate))
    gate.shut()
    running = runtime.submit("be", X, deadline_ms=500)
    gate.wait_entered()
    queued = runtime.submit("be", X, deadline_ms=1)
    # Both fail while the device is held up: nobody waits for it.
    with pytest.raises(DeadlineExceededError, match="while it waited"):
        queued.result(60)
    with pytest.raises(DeadlineExceededError, match="while it ran"):
        running.result(60)
    gate.open()
    assert runtime.run_until_idle(60)
    assert runtime.stats()["models"]["be"]["expire_count"] == 2


def test_a_deadline_without_threads_passes_at_the_next_step(loop):
    loop.load("be", model=tower, params=W, example=X)
    future = loop.submit("be", X, deadline_ms=1e-6)
    loop.step()
    assert isinstance(future.exception(0), DeadlineExceededError)
    with pytest.raises(DeadlineExceededError):
        loop.infer("be", X, deadline_ms=1e-6)


def test_a_full_queue_refuses(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate, queue_limit=2))
    gate.shut()
    futures = [runtime.submit("be", X)]
    gate.wait_entered()
    futures += [runtime.submit("be", X) for _ in range(2)]
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        runtime.submit("be", X)
    gate.open()
    assert not wait(futures, timeout=60).not_done
    assert runtime.stats()["models"]["be"]["reject_count"] == 1


def test_closing_fails_what_waits_and_lets_the_device_end(barrier):
    gate = barrier()
    runtime = Runtime(**CUT).start()
    runtime.load(held("be", gate))
    gate.shut()
    running = runtime.submit("be", X)
    gate.wait_entered()
    queued = runtime.submit("be", X)
    closer = threading.Thread(target=runtime.close)
    closer.start()
    assert isinstance(queued.exception(60), RuntimeClosedError)
    gate.open()
    closer.join()
    assert isinstance(running.exception(60), RuntimeClosedError)
    runtime.close()
    for call in (
        lambda: runtime.infer("be", X),
        lambda: runtime.load(doubled("x")),
        runtime.start,
    ):
        with pytest.raises(RuntimeClosedError, match="closed"):
            call()


def test_closing_with_drain_answers_everybody():
    before = threading.enumerate()
    runtime = Runtime(**CUT).start()
    runtime.load("be", model=tower, params=W, example=X)
    futures = [runtime.submit("be", X) for _ in range(20)]
    runtime.close(drain=True, timeout_s=60)
    assert all(f.exception(0) is None for f in futures)
    assert threading.enumerate() == before


def test_closing_without_threads(loop):
    loop.load("be", model=tower, params=W, example=X)
    futures = [loop.submit("be", X) for _ in range(3)]
    loop.step()
    loop.close(drain=True)
    assert all(f.exception(0) is None for f in futures)
    other = Runtime(**CUT)
    other.load("be", model=tower, params=W, example=X)
    future = other.submit("be", X)
    other.close()
    assert isinstance(future.exception(0), RuntimeClosedError)


def test_a_drain_that_takes_too_long_gives_up(barrier):
    gate = barrier()
    runtime = Runtime(**CUT).start()
    runtime.load(held("be", gate))
    gate.shut()
    future = runtime.submit("be", X)
    gate.wait_entered()
    assert not runtime.run_until_idle(0.01)
    closer = threading.Thread(target=lambda: runtime.close(drain=True, timeout_s=0.01))
    closer.start()
    gate.open()
    closer.join()
    assert future.done()


def test_unloading_fails_what_waits_and_spares_others(runtime, barrier):
    gate = barrier()
    runtime.load(held("be", gate))
    runtime.load("other", model=tower, params=W, example=X, priority="latency")
    gate.shut()
    running = runtime.submit("be", X)
    gate.wait_entered()
    queued = runtime.submit("be", X)
    runtime.unload("be")
    assert isinstance(queued.exception(60), RuntimeClosedError)
    runtime.infer("other", X)
    # The name is free at once, though the old job is still on the device.
    runtime.load(doubled("be"))
    new = runtime.submit("be", X[:, :1])
    gate.open()
    assert isinstance(running.exception(60), RuntimeClosedError)
    np.testing.assert_array_equal(new.result(60), 2 * X[:, :1])


class Failing:
    """The default policy, until it fails."""

    name = "failing"
    overlaps = True
    yields = False

    def __init__(self):
        self.fail = False

    def abreast(self, latency):
        return 1

    def decide(self, view):
        if self.fail:
            raise ZeroDivisionError("mine")
        return CUT["policy"].decide(view)


def test_a_policy_that_fails_fails_every_request_and_nothing_hangs(barrier):
    gate, policy = barrier(), Failing()
    with Runtime(policy=policy, quantum_ms=0.005) as runtime:
        runtime.load(held("be", gate))
        gate.shut()
        futures = [runtime.submit("be", X)]
        gate.wait_entered()
        futures.append(runtime.submit("be", X))
        policy.fail = True
        gate.open()
        for future in futures:
            error = future.exception(60)
            assert isinstance(error, RuntimeClosedError)
            assert "policy 'failing' failed" in str(error)
            assert isinstance(error.__cause__, ZeroDivisionError)
        with pytest.raises(RuntimeClosedError, match="policy 'failing' failed"):
            runtime.infer("be", X)


_EXHAUST = """
import resource, sys
import numpy as np, jax.numpy as jnp
import missile_jax as mj

def fn(_, x):
    return {"big": jnp.broadcast_to(x[:, :, None], (1, 1, 1 << 25)) * 2}

with mj.Runtime() as rt:
    rt.load("big", model=fn, params={}, example=np.ones((1, 1), np.float32))
    rt.load("small", model=lambda _, x: x * 2, params={}, example=np.ones((1, 1), np.float32))
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
    hog = []  # takes what the load left in the heap too, but for 48 MB
    try:
        while True:
            hog.append(np.ones(1 << 24, np.uint8))
    except MemoryError:
        del hog[-3:]
    try:
        rt.infer("big", np.ones((1, 1), np.float32))
    except mj.DeviceMemoryError as error:
        print("refused:", error)
    print(rt.infer("small", np.ones((1, 1), np.float32)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by /proc")
def test_a_device_without_memory_refuses_one_request():
    done = subprocess.run(
        [sys.executable, "-c", _EXHAUST], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("refused: model 'big' failed while it ran"), done.stderr
    assert done.stdout.endswith("[[2.]]\n")


# Callbacks run on the engine's threads.


@pytest.mark.parametrize("threads", [True, False])
def test_a_callback_may_ask_for_more_and_wait_for_it(threads):
    runtime = Runtime(**CUT)
    if threads:
        runtime.start()
    runtime.load("be", model=tower, params=W, example=X)
    runtime.load("ls", model=tower, params=W, example=X, priority="latency")
    chained: Future = Future()

    def again(future):
        runtime.submit("ls", X)
        chained.set_result(runtime.infer("be", X))

    futures = [runtime.submit("be", X) for _ in range(3)]
    futures[0].add_done_callback(again)
    runtime.run_until_idle(60)
    np.testing.assert_array_equal(chained.result(60), futures[0].result(0))
    runtime.close(drain=True)


def test_a_callback_that_fails_hurts_nobody(runtime, caplog):
    runtime.load("be", model=tower, params=W, example=X)
    futures = [runtime.submit("be", X) for _ in range(3)]
    futures[0].add_done_callback(lambda f: 1 / 0)
    assert not wait(futures, timeout=60).not_done
    assert runtime.run_until_idle(60)
    assert runtime.infer("be", X).shape == (1, 8)


def test_a_callback_may_close_the_runtime():
    runtime = Runtime(**CUT).start()
    runtime.load("be", model=tower, params=W, example=X)
    closed = threading.Event()

    def close(future):
        runtime.close(drain=True)
        closed.set()

    runtime.submit("be", X).add_done_callback(close)
    assert closed.wait(60)


def test_idle_means_that_every_future_is_done(shared):
    for _ in range(50):
        future = shared.submit("be", X)
        assert shared.run_until_idle(60)
        assert future.done()


# Figures.


def test_stats_are_plain_values(shared):
    shared.infer("be", X)
    shared.infer("ls", X)
    stats = json.loads(json.dumps(shared.stats()))
    assert stats["policy"] == "missile"
    assert stats["mode"] == "spatial"
    assert stats["simulated"] is False
    be, ls = stats["models"]["be"], stats["models"]["ls"]
    assert ls["slo_attainment"] == 1.0
    assert -ls["success_count"] <= ls["slo_required"] < 0
    assert "slo_attainment" not in be
    for model in (be, ls):
        assert model["success_count"] <= model["launch_count"]
        assert 0 < model["latency_ms"]["p50"] <= model["latency_ms"]["p99"]
        assert model["queue_depth"] == model["in_flight"] == 0
    one = be["plans"][0]
    assert one["max_relative_error"] <= 1e-5
    assert one["bit_identical"] == (one["max_relative_error"] == 0.0)
    assert one["longest_segment_ms"] <= one["whole_ms"] * one["segments"] + 1
    assert (one["rows"], one["length"], one["not_cut"]) == (1, None, None)


@pytest.mark.parametrize(
    ("policy", "threads", "mode"),
    [
        (Missile(), True, "spatial"),
        (Missile(), False, "temporal"),
        (Missile(beside=False), True, "temporal"),
        ("fifo", True, "temporal"),
        ("concurrent", True, "spatial"),
    ],
)
def test_the_mode_says_whether_launches_may_overlap(policy, threads, mode):
    runtime = Runtime(policy=policy)
    if threads:
        runtime.start()
    assert runtime.stats()["mode"] == mode
    runtime.close()


def test_an_observer_sees_every_launch():
    records = []
    with Runtime(**CUT, observer=records.append) as runtime:
        runtime.load("be", model=tower, params=W, example=X)
        runtime.infer("be", X)
        assert runtime.run_until_idle(60)
        segments = plan(runtime, "be")["segments"]
    assert [(r.model, r.index) for r in records] == [("be", k) for k in range(segments)]
    assert all(r.started_ns < r.ended_ns and not r.latency for r in records)

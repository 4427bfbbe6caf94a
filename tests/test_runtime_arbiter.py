"""Runtime(arbiter=): it shares its device with tenants that are not its own."""

import os
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from missile_jax import Fifo, Missile, Runtime
from missile_jax._native import Tenant
from missile_jax.arbiter import tenants
from missile_jax.errors import ArbiterError, ConfigError, RuntimeClosedError

X = np.ones((1, 4), np.float32)
LONG_S = 30.0
TURNS = Missile(yielding=False)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    watcher = Tenant(device="d", name="other", latency=True)
    yield
    with suppress(ProcessLookupError):
        os.kill(watcher.arbiter_pid, signal.SIGKILL)


def load(runtime, barrier, **fields):
    point = barrier()
    runtime.load("m", model=lambda _, x: point.point(x) + 1.0, params={}, example=X, **fields)
    return point


def mine():
    return {one.name.partition(" ")[0]: one for one in tenants("d") if one.name != "other"}


def await_(holds):
    end = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_best_effort_waits_for_latency_of_another_process(barrier):
    other = Tenant(device="d", name="other", latency=True)
    with Runtime(arbiter="d", policy=TURNS) as runtime:
        point = load(runtime, barrier)
        seen = point.seen
        announced = other.enter()
        future = runtime.submit("m", X)
        await_(lambda: mine()["runtime"].wanting == 1)
        assert not future.done()
        assert point.seen == seen
        other.leave(announced)
        np.testing.assert_array_equal(future.result(LONG_S), X + 1)
        (row,) = mine().values()
        assert (row.latency, row.launches > 0, row.waits > 0) == (False, True, True)
        # What it waited is no device time.
        phases = future.phases
        assert phases.compute_ns + row.waited_ns <= phases.ended_ns - phases.arrival_ns


def test_best_effort_that_yields_waits_for_nobody(barrier):
    other = Tenant(device="d", name="other", latency=True)
    with Runtime(arbiter="d") as runtime:
        load(runtime, barrier)
        announced = other.enter()
        np.testing.assert_array_equal(runtime.submit("m", X).result(LONG_S), X + 1)
        assert other.stats()["in_flight"] == 1
        other.leave(announced)


def test_latency_holds_best_effort_of_another_process_back_until_it_is_answered(barrier):
    other = Tenant(device="d", name="effort")
    with Runtime(arbiter="d", policy=TURNS) as runtime:
        point = load(runtime, barrier, priority="latency")
        other.leave(other.enter())
        point.shut()
        future = runtime.submit("m", X)
        point.wait_entered()
        await_(lambda: not any(row.holds for row in tenants("d")))
        assert other.enter(timeout_s=0.05) is None
        point.open()
        future.result(LONG_S)
        entered = other.enter(timeout_s=LONG_S)
        assert entered is not None
        # Nor does what is cancelled hold anybody back.
        other.leave(entered)
        point.shut()
        future = runtime.submit("m", X)
        point.wait_entered()
        assert future.cancel()
        assert other.enter(timeout_s=LONG_S) is not None
        point.open()


@pytest.mark.parametrize("policy", [Fifo(), Missile(beside=False)])
@pytest.mark.parametrize("threads", [True, False])
def test_its_own_latency_does_not_hold_back_what_it_waits_for(policy, threads, barrier):
    """Each would wait for the other: the best-effort job for its turn, the LS request for it."""
    other = Tenant(device="d", name="effort")
    holds = other.enter()
    runtime = Runtime(arbiter="d", policy=policy)
    point = load(runtime, barrier)
    runtime.load("ls", model=lambda _, x: x * 2.0, params={}, example=X, priority="latency")
    if threads:
        runtime.start()
    try:
        first = runtime.submit("m", X)
        driver = threading.Thread(target=runtime.run_until_idle)
        driver.start()
        await_(lambda: any(r.wanting and not r.latency for r in tenants("d")))
        second = runtime.submit("ls", X)
        # Not announced: it is not launched before the best-effort job has ended.
        assert [r.in_flight for r in tenants("d") if r.name.startswith("runtime")] == [0, 0]
        other.leave(holds)
        np.testing.assert_array_equal(first.result(LONG_S), X + 1)
        np.testing.assert_array_equal(second.result(LONG_S), X * 2)
        driver.join()
        assert point.seen > 0
    finally:
        runtime.close()


def test_latency_that_waits_for_room_holds_nobody_back_who_has_it(barrier):
    other = Tenant(device="d", name="effort")
    holds = other.enter()
    weights = np.ones((1024, 1024), np.float32)  # 4 MiB; there is room for one of them.
    with Runtime(arbiter="d", policy=TURNS, device_memory=6 * 2**20) as runtime:
        point = barrier()
        runtime.load("m", model=lambda w, x: point.point(x) + w[:1, :4], params=weights, example=X)
        runtime.load(
            "ls", model=lambda w, x: x * w[:1, :4] * 2.0, params=2.0 * weights, example=X,
            priority="latency",
        )  # fmt: skip
        first = runtime.submit("m", X)
        await_(lambda: any(r.wanting and not r.latency for r in tenants("d")))
        second = runtime.submit("ls", X)
        assert [r.in_flight for r in tenants("d") if r.name.startswith("runtime")] == [0, 0]
        other.leave(holds)
        np.testing.assert_array_equal(first.result(LONG_S), X + 1)
        np.testing.assert_array_equal(second.result(LONG_S), X * 4)


def test_a_runtime_that_waits_for_its_turn_can_be_closed(barrier):
    other = Tenant(device="d", name="other", latency=True)
    announced = other.enter()
    runtime = Runtime(arbiter="d", policy=TURNS).start()
    other.leave(announced)
    load(runtime, barrier)
    announced = other.enter()
    future = runtime.submit("m", X)
    await_(lambda: mine()["runtime"].wanting == 1)
    runtime.close()
    with pytest.raises(RuntimeClosedError):
        future.result(LONG_S)
    other.leave(announced)


def test_the_environment_names_the_device(barrier, monkeypatch):
    monkeypatch.setenv("MISSILE_ARBITER", "d")
    with Runtime() as runtime:
        load(runtime, barrier)
        assert set(mine()) == {"runtime"}
    monkeypatch.setenv("MISSILE_ARBITER", "")
    with Runtime() as alone:
        load(alone, barrier)
        alone.infer("m", X)
        assert alone._mux.sharing is None


def test_a_device_that_cannot_be_shared_is_said_at_load(barrier, monkeypatch, tmp_path):
    with Runtime(arbiter="../d") as runtime, pytest.raises(ConfigError, match="a device is named"):
        load(runtime, barrier)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "missile").mkdir(mode=0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "there"))
    with Runtime(arbiter="d") as runtime, pytest.raises(ArbiterError, match="mode 0700"):
        load(runtime, barrier)

"""A second client of XLA whose threads leave their processors to all others."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from missile_jax.program.yielding import yielding


def seconds_by_class():
    """Processor time of this process's threads by scheduling class."""
    seconds = {os.SCHED_OTHER: 0.0, os.SCHED_IDLE: 0.0}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds[int(fields[38])] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds


@pytest.fixture
def device():
    return jax.devices("cpu")[0]


@pytest.fixture
def aside(device):
    found = yielding(device)
    assert found is not None
    return found


def test_it_is_another_client_of_the_same_processors(device, aside):
    assert aside.client is not device.client
    assert (aside.platform, aside.device_kind) == ("cpu", device.device_kind)
    assert yielding(device) is aside


def test_results_are_the_same_to_the_bit(device, aside):
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((2, 300, 300), np.float32)

    def call(w, x):
        return jnp.tanh(x @ w).sum(0)

    here, there = (jax.jit(call)(*jax.device_put((w, x), d)) for d in (device, aside))
    assert there.devices() == {aside}
    np.testing.assert_array_equal(np.asarray(here), np.asarray(there))


def test_arrays_of_the_one_come_to_the_other(device, aside):
    x = jax.device_put(np.arange(5), device)
    there = jax.device_put(x, aside, may_alias=False)
    assert there.devices() == {aside}
    np.testing.assert_array_equal(np.asarray(jax.device_put(there, device)), np.arange(5))


def test_its_work_is_done_by_threads_that_yield(device, aside):
    w = jax.device_put(np.full((800, 800), 1e-3, np.float32), aside)
    power = jax.jit(lambda w: jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ w), w))
    jax.block_until_ready(power(w))
    before = seconds_by_class()
    jax.block_until_ready([power(w) for _ in range(5)])
    after = seconds_by_class()
    idle, other = (after[k] - before[k] for k in (os.SCHED_IDLE, os.SCHED_OTHER))
    assert idle > 0.1
    assert other < 0.2 * idle


def test_other_platforms_and_several_devices_have_none(caplog):
    assert yielding.__wrapped__(SimpleNamespace(platform="gpu")) is None
    with caplog.at_level(logging.INFO):
        several = SimpleNamespace(local_devices=lambda: [1, 2])
        client = SimpleNamespace(platform="cpu", client=several)
        assert yielding.__wrapped__(client) is None
    assert "several CPU devices" in caplog.text


def test_a_system_that_refuses_has_none(device, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with caplog.at_level(logging.INFO):
        assert yielding.__wrapped__(device) is None
    assert "do not yield: PermissionError('not here')" in caplog.text

"""Each thread that computes has a processor of its own."""

import logging
import os
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from missile_jax import Runtime
from missile_jax.program import pinning
from missile_jax.program.pinning import pin_threads
from missile_jax.program.yielding import yielding


def computing(idle):
    """Threads of XLA that compute, of the class that yields or of the others."""
    named = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            if (task / "comm").read_text() == "tf_XLAEigen\n":
                named.append(int(task.name))
    return [t for t in named if (os.sched_getscheduler(t) == os.SCHED_IDLE) == idle]


@pytest.fixture
def device():
    """A CPU whose threads may run anywhere when the test begins, and when it ends."""
    found = jax.devices("cpu")[0]
    release()
    yield found
    release()


def release():
    for tid in computing(idle=False):
        os.sched_setaffinity(tid, os.sched_getaffinity(0))


def affinities(idle=False):
    return sorted(sorted(os.sched_getaffinity(tid)) for tid in computing(idle))


@pytest.mark.smoke
def test_threads_have_a_processor_each_and_those_that_yield_do_not(device):
    assert yielding(device) is not None
    allowed = sorted(os.sched_getaffinity(0))
    assert pin_threads(device)
    assert affinities() == [[processor] for processor in allowed]
    assert affinities(idle=True) == [allowed] * len(allowed)
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_a_runtime_does_it_unless_told_not_to(device):
    allowed = sorted(os.sched_getaffinity(0))
    with Runtime(pin=False) as runtime:
        assert runtime.stats()["pinned"] is False
        assert affinities() == [allowed] * len(allowed)
    for _ in range(2):
        with Runtime() as runtime:
            assert runtime.stats()["pinned"] is True
            assert affinities() == [[processor] for processor in allowed]


def test_other_platforms_are_left_alone(device):
    before = affinities()
    assert not pin_threads(SimpleNamespace(platform="gpu"))
    assert affinities() == before


def test_threads_that_are_not_one_to_a_processor_are_left_alone(device, caplog, monkeypatch):
    before, all_threads = affinities(), pinning.worker_threads()
    monkeypatch.setattr(pinning, "worker_threads", lambda: [*all_threads, 1])
    with caplog.at_level(logging.INFO):
        assert not pin_threads(device)
    assert f"{len(before) + 1} threads of XLA for {len(before)} processors" in caplog.text
    assert affinities() == before


def test_a_system_that_refuses_is_no_failure(device, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError("not here")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with caplog.at_level(logging.INFO):
        assert not pin_threads(device)
    assert "not here" in caplog.text
    monkeypatch.undo()

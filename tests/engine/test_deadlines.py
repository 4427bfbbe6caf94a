"""Which deadlines have passed, and what is kept until they do."""

import gc
import weakref

import pytest
from simulation import Simulation

from missile_jax.engine.deadlines import Deadlines
from missile_jax.engine.request import NEVER_NS

MS = 1_000_000


@pytest.fixture
def sim() -> Simulation:
    sim = Simulation()
    sim.serve("ls", [1.0], latency=True)
    return sim


def test_the_next_one_is_known_and_late_ones_come_in_order(sim):
    deadlines = Deadlines()
    assert deadlines.next_ns == NEVER_NS
    requests = [sim.submit("ls", deadline_ms=ms) for ms in (30, 10, 20)]
    assert [deadlines.add(request) for request in requests] == [True, True, False]
    assert deadlines.next_ns == 10 * MS
    assert list(deadlines.late(10 * MS - 1)) == []
    assert list(deadlines.late(20 * MS)) == [requests[1], requests[2]]
    assert (deadlines.next_ns, len(deadlines)) == (30 * MS, 1)


def test_one_that_is_done_is_not_late(sim):
    deadlines = Deadlines()
    deadlines.add(sim.submit("ls", deadline_ms=10))
    sim.finish()
    assert list(deadlines.late(10 * MS)) == []
    assert not deadlines


def test_what_is_done_is_swept_out_before_its_time(sim, monkeypatch):
    monkeypatch.setattr("missile_jax.engine.deadlines._SWEEP_ABOVE", 8)
    sim.mux._deadlines = Deadlines()
    for _ in range(100):
        sim.submit("ls", deadline_ms=1e9)
        sim.finish()
    assert len(sim.mux._deadlines) <= 10


def test_a_deadline_keeps_no_request(sim):
    deadlines = Deadlines()
    request = sim.submit("ls", deadline_ms=10)
    deadlines.add(request)
    sim.finish()
    gone = weakref.ref(request)
    del request
    sim.records.clear()
    gc.collect()
    assert gone() is None
    assert list(deadlines.late(10 * MS)) == []

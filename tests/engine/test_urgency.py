"""Which latency-sensitive request goes first: who can be in time, and who is short of his SLO."""

import numpy as np
import pytest
from simulation import MS, Simulation

from benchmarks.calls import production
from benchmarks.density import SLO_FACTOR, compliant
from missile_jax import SLO
from missile_jax.engine.table import Served
from missile_jax.memory.parameters import Fixed
from missile_jax.schedule.policies import Fifo, Missile
from missile_jax.schedule.queue import RequestQueue
from missile_jax.schedule.slo import Standing

ONE_AT_A_TIME = Missile(latency_launches=1)


@pytest.fixture
def sim():
    return Simulation(ONE_AT_A_TIME)


def within(request, allowed_ms):
    phases = request.future.phases
    return phases.ended_ns - phases.arrival_ns <= allowed_ms * MS


def test_who_can_not_be_in_time_lets_those_go_first_who_can(sim):
    for name in ("busy", "quiet"):
        sim.serve(name, [10], latency=True, slo=SLO(30.0))
    burst = [sim.submit("busy", due_ms=30) for _ in range(6)]
    sim.device.advance_to(25 * MS)
    alone = sim.submit("quiet", due_ms=30)
    sim.finish()
    # Two of the burst have ended and one runs; three are late anyway.
    assert within(alone, 30)
    assert [within(request, 30) for request in burst] == [True] * 3 + [False] * 3


def test_within_a_model_the_late_wait_for_those_in_time(sim):
    sim.serve("busy", [10], latency=True, slo=SLO(30.0))
    burst = [sim.submit("busy", due_ms=30) for _ in range(5)]
    sim.device.advance_to(29 * MS)
    fresh = sim.submit("busy", due_ms=30)
    sim.finish()
    assert within(fresh, 30)
    assert burst[3].future.phases.ended_ns > fresh.future.phases.ended_ns


def test_what_jobs_took_lately_follows_what_runs_beside_them():
    sim = Simulation(Missile())
    served = sim.serve("a", [10], latency=True)
    sim.serve("b", [10], latency=True)
    sim.submit("a")
    sim.finish()
    assert served.usual_ns == 10 * MS
    for _ in range(60):
        sim.submit("b")
        sim.submit("a")
        sim.finish()
    assert served.usual_ns == pytest.approx(20 * MS, rel=0.01)


def test_who_is_slower_than_was_measured_is_late_sooner():
    sim = Simulation(ONE_AT_A_TIME)
    slow = sim.serve("slow", [10], latency=True, slo=SLO(50.0))
    sim.serve("quiet", [15], latency=True, slo=SLO(50.0))
    slow.usual_ns = 20 * MS
    sim.submit("quiet", due_ms=50)
    given_up = sim.submit("slow", due_ms=28)
    sim.device.advance_to(5 * MS)
    fresh = sim.submit("quiet", due_ms=50)
    sim.finish()
    assert given_up.future.phases.ended_ns > fresh.future.phases.ended_ns


def test_nobody_is_late_for_ever(sim):
    for name in ("busy", "unlucky"):
        sim.serve(name, [10], latency=True, slo=SLO(30.0))
    # More than the device can do, so that there is always one that can be in time.
    for at_ms in range(0, 1000, 5):
        sim.device.advance_to(at_ms * MS)
        sim.submit("busy", due_ms=30)
        if at_ms == 20:
            unlucky = sim.submit("unlucky", due_ms=15)
    sim.finish()
    assert not within(unlucky, 15)
    assert within(unlucky, 10 * 15 + 20)


def test_a_model_short_of_its_objective_goes_behind_one_that_keeps_it(sim):
    short = sim.serve("short", [10], latency=True, slo=SLO(25.0, 0.9))
    sim.serve("keeps", [10], latency=True, slo=SLO(25.0, 0.9))
    for _ in range(4):
        sim.submit("short", due_ms=25)
    sim.finish()
    assert short.attainment.short
    running = sim.submit("keeps", due_ms=25)
    first = sim.submit("short", due_ms=25)
    second = sim.submit("keeps", due_ms=25)
    sim.finish()
    assert within(running, 10)
    assert within(second, 20)
    assert not within(first, 29)


def test_a_short_request_runs_beside_long_ones_and_a_second_one_waits(sim):
    sim.serve("long", [20], latency=True)
    sim.serve("short", [4], latency=True)
    sim.submit("long")
    sim.device.advance_to(1 * MS)
    first, second = sim.submit("short"), sim.submit("short")
    sim.finish()
    # Each has half of the device.
    assert within(first, 8)
    assert within(second, 16)
    assert not within(second, 15)
    same = [sim.submit("long"), sim.submit("long")]
    sim.finish()
    assert within(same[0], 20)
    assert not within(same[1], 39)


def test_who_expires_counts_as_late(sim):
    served = sim.serve("a", [10], latency=True, slo=SLO(15.0, 0.5))
    sim.submit("a")
    sim.submit("a", deadline_ms=15)
    sim.finish()
    assert (served.stats.success_count, served.stats.expire_count) == (1, 1)
    assert served.attainment.required == pytest.approx(1 / 0.5 - 2)


def test_the_memory_hears_when_a_request_has_become_late(sim):
    told = []

    class Watched(Fixed):
        moves = True

        def update(self, waiting, running, urgency):
            told.append(urgency)

    served = sim.serve("a", [10], latency=True, slo=SLO(30.0))
    watched = Served(served.program, Watched(()), 1.0, RequestQueue(10))
    sim.mux.replace(watched)
    sim.serve("b", [15], latency=True)
    sim.submit("b")
    sim.submit("a", due_ms=12)
    assert told[-1].standing is Standing.IN_TIME
    told.clear()
    sim.device.advance_to(7 * MS)
    sim.submit("b")
    assert told[-1].standing is Standing.LATE


@pytest.mark.parametrize("seed", [0, 1])
def test_bursts_of_many_functions_meet_more_objectives_than_in_order_of_arrival(seed):
    """A hundred functions of one architecture, called as in production, half of the time busy."""
    calls = production(100, 1000, seed).at_load(0.5, np.full(100, 2e-3))
    shares = {}
    for policy in (ONE_AT_A_TIME, Fifo()):
        sim = Simulation(policy)
        for k in range(100):
            sim.serve(f"f{k}", [2], latency=True, slo=SLO(2 * SLO_FACTOR, 0.98))
        made = []
        for at_s, k in zip(calls.at_s, calls.function, strict=True):
            sim.device.advance_to(round(at_s * 1e9))
            made.append(sim.submit(f"f{k}", due_ms=2 * SLO_FACTOR))
        sim.finish()
        phases = [request.future.phases for request in made]
        latencies_ns = np.array([p.ended_ns - p.arrival_ns for p in phases])
        shares[policy.name] = compliant(calls.function, latencies_ns / (2 * MS))
    assert shares["missile"] > shares["fifo"] + 0.08

"""Limits, early refusals and levels on a simulated device: exact times, no noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulation import MS, Simulation

from missile_jax import (
    Concurrent,
    DeadlineExceededError,
    Fifo,
    Missile,
    OverloadedError,
    QueueFullError,
)

# One at a time, so that work ahead is time ahead.
ONE = Missile(latency_launches=1)


@pytest.fixture
def sim():
    """A latency-sensitive model of 10 ms."""
    sim = Simulation(ONE)
    sim.serve("ls", [10.0], latency=True)
    return sim


def test_a_deadline_that_cannot_be_met_is_refused_at_once(sim):
    for _ in range(4):  # one runs, three wait
        sim.submit("ls")
    with pytest.raises(OverloadedError, match=r"30\.0 ms of work .* of 25\.0 ms") as refused:
        sim.submit("ls", deadline_ms=25)
    assert refused.value.retry_after_s == pytest.approx(0.015)
    stats = sim.mux.table["ls"].stats
    assert (stats.overload_count, stats.reject_count, stats.expire_count) == (1, 0, 0)


def test_one_who_comes_back_when_told_is_let_in(sim):
    for _ in range(4):
        sim.submit("ls")
    with pytest.raises(OverloadedError) as refused:
        sim.submit("ls", deadline_ms=25)
    # What runs is not counted, since it may be about to end, so the first 10 ms count for nothing.
    sim.device.advance_to(10 * MS + round(refused.value.retry_after_s * 1e9))
    sim.submit("ls", deadline_ms=25)


def test_an_idle_model_takes_any_deadline(sim):
    late = sim.submit("ls", deadline_ms=1)
    sim.finish()
    assert isinstance(late.future.exception(timeout=0), DeadlineExceededError)


def test_a_batch_is_one_wait(sim):
    sim.serve("wide", [8.0], latency=True, buckets=(8,))
    for _ in range(16):
        sim.submit("wide")
    # One batch of the first alone runs; fifteen rows wait, that is at least 15 ms.
    assert sim.mux.table["wide"].queue.work_ns == 15 * MS
    with pytest.raises(OverloadedError):
        sim.submit("wide", deadline_ms=15)
    sim.submit("wide", deadline_ms=100)


def test_only_work_that_goes_first_counts(sim):
    for _ in range(6):
        sim.submit("ls", level=2)
    urgent = sim.submit("ls", level=1, deadline_ms=25)
    with pytest.raises(OverloadedError):
        sim.submit("ls", level=2, deadline_ms=25)
    sim.finish()
    assert urgent.future.exception(timeout=0) is None


def test_where_jobs_overlap_nobody_is_refused_early():
    sim = Simulation(Concurrent(max_in_flight=1))
    sim.serve("ls", [10.0], latency=True)
    for _ in range(4):
        sim.submit("ls")
    sim.submit("ls", deadline_ms=1)
    assert sim.mux.table["ls"].stats.overload_count == 0


def test_levels_are_the_order_of_a_queue_and_of_no_other():
    sim = Simulation(Fifo())
    sim.serve("a", [1.0])
    sim.serve("b", [1.0])
    sim.submit("a")
    made = {}
    for name, model, level in (("a2", "a", 2), ("b9", "b", 9), ("a1", "a", 1)):
        sim.device.advance_to(sim.clock.now_ns() + MS // 10)
        made[name] = sim.submit(model, level=level)
    sim.finish()
    order = sorted(made, key=lambda name: made[name].started_ns)
    assert order.index("a1") < order.index("a2")


def test_the_queues_of_a_tenant_have_a_limit_together():
    sim = Simulation()
    sim.mux.table.tenant_limits = {"t": 3}
    for name in ("a", "b"):
        sim.serve(name, [5.0], tenant="t")
    sim.serve("other", [5.0])
    for name in ("a", "a", "b", "a"):  # the first one runs
        sim.submit(name)
    with pytest.raises(QueueFullError, match="3 requests of tenant 't' wait already"):
        sim.submit("b")
    assert sim.mux.table["b"].stats.reject_count == 1
    sim.submit("other")
    sim.finish()
    sim.submit("b")


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 2)), max_size=20),
    st.integers(1, 2),
    st.integers(1, 60),
    st.sampled_from([(1,), (1, 4)]),
    st.integers(1, 3),
)
def test_who_is_refused_would_have_been_late(others, level, deadline_ms, buckets, abreast):
    """The same arrivals twice: once with early refusals, once without."""

    def last(policy) -> BaseException | None:
        sim = Simulation(policy, slowdown=0.0)
        sim.serve("ls", [4.0], latency=True, buckets=buckets)
        for pause_ms, other in others:
            sim.device.advance_to(sim.clock.now_ns() + pause_ms * MS)
            sim.submit("ls", level=other)
        try:
            asked = sim.submit("ls", level=level, deadline_ms=deadline_ms)
        except OverloadedError as refused:
            return refused
        sim.finish()
        return asked.future.exception(timeout=0)

    # As Missile runs them where there is one model, with all let in.
    end = last(Concurrent(max_in_flight=abreast))
    if isinstance(last(Missile(latency_launches=abreast)), OverloadedError):
        assert isinstance(end, DeadlineExceededError)


def test_those_that_run_abreast_share_the_wait():
    sim = Simulation(slowdown=0.0)
    sim.serve("ls", [10.0], latency=True)
    for _ in range(4):  # two run, two wait
        sim.submit("ls")
    with pytest.raises(OverloadedError):
        sim.submit("ls", deadline_ms=19)
    in_time = sim.submit("ls", deadline_ms=31)
    sim.finish()
    assert in_time.future.exception(timeout=0) is None

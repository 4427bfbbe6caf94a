"""A model that is replaced or drained while it has work, under a virtual clock."""

import pytest
from simulation import MS, Simulation

from missile_jax import Missile, ModelNotFoundError, RuntimeClosedError
from missile_jax.engine.multiplexer import ReplacedError

CUT = Missile(calm_ms=float("inf"))


@pytest.fixture
def sim():
    """A best-effort model of two segments, one of its jobs under way and two requests behind it."""
    sim = Simulation(CUT)
    sim.old = sim.serve("m", [5.0, 5.0])
    sim.first, *sim.waiting = [sim.submit("m") for _ in range(3)]
    return sim


def ran(request):
    """When it started, in ms, for one that is answered."""
    assert request.future.exception(timeout=0) is None
    return request.started_ns / MS


def test_what_waits_goes_over_and_what_runs_is_finished(sim):
    new = sim.serve("m", [1.0], replace=True)
    assert len(sim.old.queue) == 0
    assert [r in list(new.queue) for r in sim.waiting] == [True, True]
    later = sim.submit("m")
    sim.finish()
    assert ran(sim.first) == 0
    # The new version is behind by no more than the segment that was under way.
    assert sim.launches()[:2] == [("m", 0), ("m", 0)]
    assert sorted(sim.launches()) == [("m", 0)] * 4 + [("m", 1)]
    assert all(r.future.done() for r in (*sim.waiting, later))
    assert sim.mux.table.everyone() == [new]


def test_what_waits_is_finished_by_the_old_one_if_the_new_one_takes_other_inputs(sim):
    new = sim.serve("m", [1.0], buckets=(1, 2), replace=True)
    assert len(sim.old.queue) == 2
    later = sim.submit("m")
    sim.finish()
    assert all(r.future.exception(timeout=0) is None for r in (sim.first, *sim.waiting, later))
    assert sorted(sim.launches()) == [("m", 0)] * 4 + [("m", 1)] * 3
    assert sim.mux.table.everyone() == [new]


def test_a_request_that_the_old_one_accepted_is_accepted_anew(sim):
    asked = sim.submit("m")
    sim.serve("m", [1.0], buckets=(1, 2), replace=True)
    with pytest.raises(ReplacedError):
        sim.mux.submit(asked)


def test_counters_go_on(sim):
    sim.serve("m", [1.0], replace=True)
    sim.finish()
    assert sim.mux.table["m"].stats.success_count == 3
    sim.serve("m", [1.0], replace=True)
    assert sim.mux.table["m"].stats.success_count == 3


def test_the_old_one_counts_in_the_view_and_by_class(sim):
    sim.serve("ls", [1.0], latency=True)
    sim.serve("m", [1.0], replace=True)
    view = sim.mux.table.view(sim.clock.now_ns(), yields=False)
    assert [(m.name, m.queued, m.in_flight) for m in view.models] == [("m#0", 0, 1), ("m", 2, 0)]
    assert view.best_effort_in_flight == 1
    sim.submit("ls")
    sim.finish()
    assert sim.mux.table.idle


def test_a_drained_model_answers_what_it_has_and_is_gone(sim):
    sim.mux.retire("m")
    with pytest.raises(ModelNotFoundError):
        sim.submit("m")
    assert not sim.mux.wait_idle(0)
    sim.finish()
    assert all(r.future.exception(timeout=0) is None for r in (sim.first, *sim.waiting))
    assert sim.mux.table.everyone() == []
    assert sim.mux.wait_idle(0)


def test_a_name_that_was_drained_is_free_at_once(sim):
    sim.mux.retire("m")
    new = sim.serve("m", [1.0])
    later = sim.submit("m")
    sim.finish()
    assert all(r.future.done() for r in (sim.first, *sim.waiting, later))
    # The counters of a name go on: of the first, of the two that waited, and of the later one.
    assert new.stats is sim.old.stats
    assert new.stats.success_count == 4


def test_a_request_of_the_old_one_can_be_cancelled_and_be_late(sim):
    late = sim.submit("m", deadline_ms=100)
    sim.serve("m", [1.0], buckets=(1, 2), replace=True)
    assert sim.waiting[0].future.cancel()
    assert len(sim.old.queue) == 2
    sim.finish()
    assert ran(late) < 100
    assert sim.mux.table["m"].stats.cancel_count == 1


def test_unloading_at_once_ends_the_old_one_too(sim):
    new = sim.serve("m", [1.0], buckets=(1, 2), replace=True)
    sim.mux.remove("m")
    assert all(isinstance(r.future.exception(timeout=0), RuntimeClosedError) for r in sim.waiting)
    sim.finish()
    assert isinstance(sim.first.future.exception(timeout=0), RuntimeClosedError)
    assert sim.mux.table.everyone() == []
    assert new.idle


def test_closing_ends_the_old_one_too(sim):
    sim.serve("m", [1.0], buckets=(1, 2), replace=True)
    sim.mux.close()
    assert all(isinstance(r.future.exception(timeout=0), RuntimeClosedError) for r in sim.waiting)

"""The engine's ways out, one by one, under a virtual clock: every future gets its answer."""

import logging
from concurrent.futures import CancelledError, as_completed, wait

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from simulation import MS, Simulation

from missile_jax import (
    DeadlineExceededError,
    Missile,
    ModelExistsError,
    ModelNotFoundError,
    QueueFullError,
    RuntimeClosedError,
)
from missile_jax.schedule.view import Launch

CUT = Missile(calm_ms=float("inf"))


@pytest.fixture
def sim():
    """A best-effort model of four segments, and a latency-sensitive one."""
    sim = Simulation(CUT)
    sim.serve("be", [5.0] * 4, limit=3)
    sim.serve("ls", [2.0], latency=True)
    return sim


def stats(sim, name="be"):
    return sim.mux.table[name].stats


@pytest.mark.smoke
def test_a_request_runs_segment_by_segment_and_is_answered(sim):
    request = sim.submit("be")
    assert not request.future.done()
    sim.finish()
    assert request.future.done()
    assert sim.launches() == [("be", k) for k in range(4)]
    assert stats(sim).total.sum_ns == 20 * MS
    assert stats(sim).compute_ns == 20 * MS
    assert stats(sim).launch_count == 4


def test_a_queued_request_that_is_cancelled_never_runs(sim):
    first, second = sim.submit("be"), sim.submit("be")
    assert second.future.cancel()
    sim.finish()
    assert first.future.done()
    assert second.future.cancelled()
    assert sim.launches() == [("be", k) for k in range(4)]
    assert stats(sim).cancel_count == 1


def test_a_running_job_that_is_cancelled_stops_at_the_next_boundary(sim):
    request = sim.submit("be")
    sim.device.advance_to(7 * MS)
    assert request.future.cancel()
    sim.finish()
    assert sim.launches() == [("be", 0), ("be", 1)]
    assert (stats(sim).cancel_count, stats(sim).success_count) == (1, 0)
    assert sim.mux.table.idle


def test_a_paused_job_that_is_cancelled_goes_at_once():
    sim = Simulation(Missile(beside=False, calm_ms=float("inf")))
    sim.serve("be", [5.0] * 4)
    sim.serve("ls", [2.0], latency=True)
    request = sim.submit("be")
    sim.submit("ls")
    sim.device.advance_to(6 * MS)
    assert request.future.cancel()
    sim.finish()
    assert sim.launches() == [("be", 0), ("ls", -1)]


def test_a_batch_goes_on_for_those_who_still_wait():
    sim = Simulation(CUT)
    sim.serve("be", [5.0] * 2, buckets=(4,))
    first, second, third = (sim.submit("be") for _ in range(3))
    sim.device.advance_to(11 * MS)
    second.future.cancel()
    sim.finish()
    assert [r.future.cancelled() for r in (first, second, third)] == [False, True, False]
    assert sim.records[-1].rows == 2


def test_cancelling_twice_counts_once_and_wakes_those_who_wait(sim):
    request = sim.submit("be")
    assert request.future.cancel()
    assert request.future.cancel()
    assert stats(sim).cancel_count == 1
    assert wait([request.future], timeout=0).done == {request.future}
    assert list(as_completed([request.future], timeout=0)) == [request.future]
    with pytest.raises(CancelledError):
        request.future.result(timeout=0)


def test_a_finished_request_can_not_be_cancelled(sim):
    request = sim.submit("be")
    sim.finish()
    assert not request.future.cancel()
    assert stats(sim).cancel_count == 0


def test_a_deadline_that_passes_in_the_queue(sim):
    sim.submit("be")
    late = sim.submit("be", deadline_ms=12)
    sim.device.advance_to(16 * MS)
    with pytest.raises(DeadlineExceededError, match=r"12\.0 ms passed while it waited"):
        late.future.result(timeout=0)
    sim.finish()
    assert len(sim.records) == 4
    assert stats(sim).expire_count == 1


def test_a_deadline_that_passes_while_it_runs(sim):
    sim.device.advance_to(1 * MS)
    late = sim.submit("be", deadline_ms=12)
    sim.finish()
    with pytest.raises(DeadlineExceededError, match=r"12\.0 ms passed while it ran"):
        late.future.result(timeout=0)
    assert sim.launches() == [("be", 0), ("be", 1), ("be", 2)]
    assert stats(sim).expire_count == 1


def test_a_full_queue_refuses(sim):
    for _ in range(4):  # one runs, three wait
        sim.submit("be")
    with pytest.raises(QueueFullError, match="3 requests wait already"):
        sim.submit("be")
    assert stats(sim).reject_count == 1
    sim.finish()
    assert stats(sim).success_count == 4


def test_unknown_and_double_names(sim):
    with pytest.raises(ModelNotFoundError, match="no model named 'x'; loaded: be, ls"):
        sim.submit("x")
    with pytest.raises(ModelExistsError, match="unload it first"):
        sim.serve("be", [1.0])


def test_unloading_fails_what_waits_and_stops_what_runs(sim):
    running, queued = sim.submit("be"), sim.submit("be")
    sim.mux.remove("be")
    with pytest.raises(RuntimeClosedError, match="'be' was unloaded"):
        queued.future.result(timeout=0)
    assert not running.future.done()
    sim.finish()
    with pytest.raises(RuntimeClosedError, match="'be' was unloaded"):
        running.future.result(timeout=0)
    assert len(sim.records) == 1
    assert sim.mux.table.idle


def test_a_name_can_be_used_again_while_its_old_job_runs(sim):
    old = sim.submit("be")
    sim.mux.remove("be")
    sim.serve("be", [1.0, 1.0])
    new = sim.submit("be")
    sim.finish()
    assert isinstance(old.future.exception(timeout=0), RuntimeClosedError)
    assert new.future.exception(timeout=0) is None
    assert sim.launches() == [("be", 0), ("be", 0), ("be", 1)]
    assert stats(sim).success_count == 1


def test_closing_fails_what_is_not_done(sim):
    running, queued = sim.submit("be"), sim.submit("ls")
    sim.mux.close()
    sim.mux.close()
    for request in (running, queued):
        assert request.future.done()
    with pytest.raises(RuntimeClosedError, match="was closed"):
        running.future.result(timeout=0)
    with pytest.raises(RuntimeClosedError, match="was closed"):
        sim.submit("be")
    assert not sim.mux.wait_for_deadline()


class Wrong:
    """A policy that does what it likes."""

    name = "wrong"
    overlaps = False
    yields = False

    def __init__(self, decide):
        self.decide = decide

    def abreast(self, latency):
        return 1


def fail(view):
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("decide", "message"),
    [
        (fail, "ZeroDivisionError"),
        (lambda view: [Launch("ls", True)], "which has no work"),
        (lambda view: [Launch("be", True), Launch("be", True)], "which has no work"),
        (lambda view: [Launch("nobody", True)], "no model named 'nobody'"),
        (lambda view: 7, "not iterable"),
    ],
)
def test_a_policy_that_fails_closes_the_runtime_with_its_error(decide, message):
    sim = Simulation(Wrong(decide))
    sim.serve("be", [5.0])
    sim.serve("ls", [5.0], latency=True)
    request = sim.submit("be")
    sim.finish()
    error = request.future.exception(timeout=0)
    if error is not None:  # what was launched before the mistake may end well
        assert isinstance(error, RuntimeClosedError)
    with pytest.raises(RuntimeClosedError, match=f"policy 'wrong' failed.*{message}") as raised:
        sim.submit("be")
    assert raised.value.__cause__ is not None


def test_a_piece_that_the_device_refuses_fails_its_requests_alone(sim, monkeypatch):
    launch = sim.device.launch

    def refuse(piece, finished):
        if piece.job.requests[0].model == "ls":
            raise RuntimeError("can't start new thread")
        launch(piece, finished)

    monkeypatch.setattr(sim.device, "launch", refuse)
    refused, other = sim.submit("ls"), sim.submit("be")
    assert "can't start new thread" in str(refused.future.exception(timeout=0))
    sim.finish()
    assert other.future.exception(timeout=0) is None
    assert sim.mux.table.idle


def test_an_observer_that_fails_is_logged_and_nothing_else(sim, caplog):
    def fail(record):
        raise ZeroDivisionError

    sim.mux.observers = (fail,)
    request = sim.submit("be")
    with caplog.at_level(logging.ERROR):
        sim.finish()
    assert request.future.exception(timeout=0) is None
    assert "the observer failed" in caplog.text


def test_the_time_of_an_unloaded_model_is_not_charged_to_its_successor(sim):
    sim.submit("be")
    sim.mux.remove("be")
    sim.serve("be", [1.0])
    sim.finish()
    assert sim.mux.table._fair.vruntime_ns("be") == 0


class EngineMachine(RuleBasedStateMachine):
    """Any order of events: when all is done, every request was answered once."""

    def __init__(self):
        super().__init__()
        self.sim = Simulation(Missile(calm_ms=20, best_effort_floor=0.1))
        for name in ("a", "b"):
            self.sim.serve(name, [3.0, 1.0, 2.0], buckets=(1, 2), limit=4)
        self.sim.serve("ls", [2.0], latency=True, limit=4)
        self.requests = []
        self.refused = 0

    @rule(name=st.sampled_from(["a", "b", "ls"]), deadline_ms=st.none() | st.integers(1, 20))
    def submit(self, name, deadline_ms):
        try:
            self.requests.append(self.sim.submit(name, deadline_ms=deadline_ms))
        except QueueFullError:
            self.refused += 1
        except ModelNotFoundError:
            assert name == "b"

    @rule(ms=st.integers(0, 5))
    def advance(self, ms):
        self.sim.device.advance_to(self.sim.clock.now_ns() + ms * MS)

    @rule(data=st.data())
    def cancel(self, data):
        if self.requests:
            data.draw(st.sampled_from(self.requests)).future.cancel()

    @rule(drain=st.booleans())
    def unload(self, drain):
        if self.is_loaded():
            (self.sim.mux.retire if drain else self.sim.mux.remove)("b")

    @rule(largest=st.sampled_from([1, 2]))
    def load_or_replace(self, largest):
        self.sim.serve("b", [1.0, 1.0], limit=4, buckets=(1, largest), replace=True)

    def is_loaded(self):
        return any(served.name == "b" for served in self.sim.mux.table)

    @invariant()
    def counts_agree(self):
        served = self.sim.mux.table.everyone()
        view = self.sim.mux.table.view(self.sim.clock.now_ns(), yields=False)
        assert view.latency_in_flight <= 2
        assert view.best_effort_in_flight <= 1
        for model in view.models:
            assert model.launchable or model.in_flight
        assert all(s.idle or any(m.name == s.key for m in view.models) for s in served)

    def teardown(self):
        self.sim.finish()
        assert all(r.future.done() for r in self.requests)
        assert self.sim.mux.table.idle
        assert all(s.idle and not s.retired for s in self.sim.mux.table.everyone())
        done = sum(
            s.stats.success_count + s.stats.fail_count + s.stats.cancel_count + s.stats.expire_count
            for s in self.sim.mux.table
            if s.name != "b"
        )
        assert done == sum(r.model != "b" for r in self.requests)


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=40, stateful_step_count=30)

"""The policies on a simulated device under a virtual clock: exact times, no noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulation import MS, Simulation

from missile_jax import Concurrent, Fifo, Missile

# Never calm: best-effort jobs always run in segments.
CUT = Missile(calm_ms=float("inf"))


def latency_ms(records, arrivals, name):
    """From arrival to end, of each request of `name`, which arrive and run one by one."""
    ends = sorted(r.ended_ns for r in records if r.model == name)
    starts = sorted(at for at, model in arrivals if model == name)
    return [end / MS - at for end, at in zip(ends, starts, strict=True)]


@pytest.mark.smoke
def test_latency_goes_first_at_the_next_boundary():
    sim = Simulation(Missile(beside=False, calm_ms=float("inf")))
    sim.serve("be", [5.0] * 10)
    sim.serve("ls", [2.0], latency=True)
    arrivals = [(0, "be"), (12, "ls")]
    sim.play(arrivals)
    assert sim.launches()[:5] == [("be", 0), ("be", 1), ("be", 2), ("ls", -1), ("be", 3)]
    assert latency_ms(sim.records, arrivals, "ls") == [3 + 2]


def test_latency_runs_beside_the_segment_in_flight():
    sim = Simulation(CUT, slowdown=0.5)
    sim.serve("be", [5.0] * 10)
    sim.serve("ls", [2.0], latency=True)
    arrivals = [(0, "be"), (11, "ls")]
    sim.play(arrivals)
    assert latency_ms(sim.records, arrivals, "ls") == [2 * 1.5]
    # The segment in flight ends, and none follows before the request is done.
    after = [r for r in sim.records if r.model == "be" and r.started_ns > 11 * MS]
    assert min(r.started_ns for r in after) == 15 * MS


def test_latency_waits_for_one_segment_at_most():
    sim = Simulation(Missile(beside=False, calm_ms=float("inf")))
    sim.serve("be", [4.0, 1.0, 3.0])
    sim.serve("ls", [2.0], latency=True)
    rng = np.random.default_rng(0)
    arrivals = [(0, "be")] * 200
    arrivals += [(float(at), "ls") for at in np.cumsum(rng.uniform(7, 30, 60))]
    sim.play(arrivals)
    assert max(latency_ms(sim.records, arrivals, "ls")) <= 4.0 + 2.0 + 1e-6


def test_best_effort_gets_nothing_while_latency_asks_for_all():
    sim = Simulation(CUT)
    sim.serve("be", [5.0] * 4)
    sim.serve("ls", [10.0], latency=True)
    sim.play([(0, "ls")] * 50 + [(1, "be")])
    before = [r for r in sim.records if r.ended_ns <= 500 * MS]
    assert {r.model for r in before} == {"ls"}
    assert sim.device_ms()["be"] == 20


@pytest.mark.parametrize("floor", [0.05, 0.1, 0.3])
def test_the_floor_is_kept_while_latency_asks_for_all(floor):
    sim = Simulation(Missile(best_effort_floor=floor, beside=False))
    sim.serve("be", [5.0] * 4)
    sim.serve("ls", [10.0], latency=True)
    sim.play([(0, "ls")] * 1_000 + [(1, "be")] * 500, until_ms=8_000)
    spent = sim.device_ms()
    assert spent["be"] / sum(spent.values()) == pytest.approx(floor, abs=0.02)


def test_weights_1_2_4_share_what_is_left():
    sim = Simulation(CUT, slowdown=0.0)
    sim.serve("ls", [3.0], latency=True)
    for name, weight in (("a", 1), ("b", 2), ("c", 4)):
        sim.serve(name, [5.0] * 3, weight=weight)
    arrivals = [(0, name) for name in "abc" for _ in range(400)]
    arrivals += [(10 * k, "ls") for k in range(350)]
    sim.play(arrivals, until_ms=3_500)
    spent = sim.device_ms()
    total = spent["a"] + spent["b"] + spent["c"]
    shares = [spent[n] / total for n in "abc"]
    assert shares == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=2 * 5.0 / total)


def test_a_model_that_was_idle_takes_no_more_than_its_share():
    sim = Simulation(CUT)
    sim.serve("a", [5.0])
    sim.serve("b", [5.0])
    sim.play([(0, "a")] * 1_000 + [(1_000, "b")] * 400, until_ms=2_000)
    late = [r.model for r in sim.records if r.started_ns >= 1_000 * MS]
    assert abs(late.count("a") - late.count("b")) <= 1


def test_the_quantum_is_elastic():
    sim = Simulation(Missile(calm_ms=100))
    sim.serve("be", [5.0] * 4)
    sim.serve("ls", [2.0], latency=True)
    sim.play([(0, "be")] * 20 + [(45, "ls")])
    indices = [(r.started_ns / MS, r.index) for r in sim.records if r.model == "be"]
    busy_end = max(r.ended_ns for r in sim.records if r.model == "ls") / MS
    for start, index in indices:
        calm = start < 45 or start > busy_end + 100
        if index in (-1, 0):  # a job that is under way goes on in segments
            assert (index == -1) == calm
    assert {index for _, index in indices} == {-1, 0, 1, 2, 3}


def test_earliest_due_first():
    sim = Simulation(Missile(latency_launches=1))
    for name in ("slack", "urgent", "first"):
        sim.serve(name, [1.0], latency=True)
    sim.submit("first", due_ms=100)
    sim.submit("slack", due_ms=90)
    sim.submit("urgent", due_ms=10)
    sim.finish()
    assert [name for name, _ in sim.launches()] == ["first", "urgent", "slack"]


def test_two_latency_requests_run_beside_each_other():
    sim = Simulation(slowdown=0.0)
    for name in ("one", "two", "three"):
        sim.serve(name, [3.0], latency=True)
        sim.submit(name)
    sim.submit("one")
    assert sim.mux.table.view(0, yields=False).latency_in_flight == 2
    sim.finish()
    assert sim.clock.now_ns() == 6 * MS


def test_requests_that_were_queued_together_start_together(monkeypatch):
    sim = Simulation(slowdown=0.0)
    sim.serve("ls", [3.0], latency=True)
    monkeypatch.setattr(sim.mux, "submit", sim.mux.queue)
    for _ in range(3):
        sim.submit("ls")
    assert sim.mux.step()
    assert sim.mux.table.view(0, yields=False).latency_in_flight == 2


def test_launches_in_flight_have_memory_for_all_of_them():
    sim = Simulation(Concurrent(max_in_flight=3), slowdown=0.0)
    sim.mux.table.launch_limit = 100
    for name, size in (("small", 30), ("large", 90), ("middle", 70)):
        sim.serve(name, [10.0], launch_bytes=size)
    sim.play([(0, "small"), (1, "large"), (2, "middle")])
    # The middle one fits beside the small one; the large one waits until it can be alone.
    starts = {r.model: r.started_ns // MS for r in sim.records}
    assert starts == {"small": 0, "middle": 2, "large": 12}


def test_of_two_launches_decided_at_once_the_second_waits_for_memory(monkeypatch):
    sim = Simulation(slowdown=0.0)
    sim.mux.table.launch_limit = 100
    sim.serve("ls", [3.0], latency=True, launch_bytes=60)
    monkeypatch.setattr(sim.mux, "submit", sim.mux.queue)
    requests = [sim.submit("ls") for _ in range(3)]
    assert sim.mux.step()
    assert sim.mux.table.view(0, yields=False).latency_in_flight == 1
    sim.finish()
    assert sim.clock.now_ns() == 9 * MS
    assert all(request.future.done() for request in requests)


def test_fifo_is_in_order_of_arrival():
    sim = Simulation(Fifo())
    sim.serve("be", [5.0] * 10)
    sim.serve("ls", [2.0], latency=True)
    sim.play([(0, "be"), (1, "ls"), (2, "be"), (3, "ls")])
    # Batch size one: each request is a launch of its own.
    assert sim.launches() == [("be", -1), ("ls", -1), ("be", -1), ("ls", -1)]


def test_concurrent_launches_at_once_and_all_slow_down():
    sim = Simulation(Concurrent(max_in_flight=2))
    for name in "abc":
        sim.serve(name, [10.0])
    sim.play([(0, "a"), (1, "b"), (2, "c")])
    starts = {r.model: r.started_ns // MS for r in sim.records}
    assert starts == {"a": 0, "b": 1, "c": 10}
    assert {r.model: r.ended_ns // MS for r in sim.records} == {"a": 10, "b": 21, "c": 30}


def test_requests_share_a_batch_up_to_the_largest_bucket():
    sim = Simulation(CUT)
    sim.serve("be", [5.0], buckets=(1, 4))
    sim.play([(0, "be")] * 9)
    assert [r.rows for r in sim.records] == [1, 4, 4]
    assert sim.mux.table["be"].stats.batch_rows == {1: 1, 4: 2}


def test_a_model_without_a_batch_axis_shares_with_nobody():
    sim = Simulation(CUT)
    sim.serve("be", [5.0], buckets=(1, 4), batched=False)
    sim.play([(0, "be")] * 3)
    assert [r.rows for r in sim.records] == [1, 1, 1]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), policy=st.sampled_from([CUT, Missile(), Fifo()]))
def test_a_schedule_repeats_exactly(seed, policy):
    def once():
        rng = np.random.default_rng(seed)
        sim = Simulation(policy, slowdown=0.5)
        for k in range(3):
            sim.serve(f"be{k}", rng.uniform(1, 6, 4).tolist(), weight=1 + k)
        sim.serve("ls", [2.0], latency=True)
        arrivals = [(rng.uniform(0, 200), f"be{rng.integers(3)}") for _ in range(20)]
        arrivals += [(rng.uniform(0, 200), "ls") for _ in range(20)]
        requests = sim.play(arrivals)
        assert all(r.future.done() for r in requests)
        return sim.records

    assert once() == once()


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), beside=st.booleans())
def test_no_best_effort_piece_starts_while_latency_is_there(seed, beside):
    rng = np.random.default_rng(seed)
    sim = Simulation(Missile(beside=beside, calm_ms=10), slowdown=0.5)
    sim.serve("be", rng.uniform(1, 6, 4).tolist())
    sim.serve("ls", [2.0], latency=True)
    arrivals = [(rng.uniform(0, 200), "be") for _ in range(20)]
    asked = sorted(rng.uniform(0, 200, 20).tolist())
    sim.play(arrivals + [(at, "ls") for at in asked])
    ends = sorted(r.ended_ns for r in sim.records if r.model == "ls")
    busy = [(round(at * MS), end) for at, end in zip(asked, ends, strict=True)]
    for r in sim.records:
        if r.model == "be":
            assert not any(at <= r.started_ns < end for at, end in busy)

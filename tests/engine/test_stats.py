"""What is counted of requests, and where the time of one went."""

import pytest
from simulation import MS, Simulation

from missile_jax.engine.request import Phases
from missile_jax.engine.stats import BOUNDS_NS, Histogram, ModelStats, latency_percentiles


def test_a_duration_counts_in_the_first_bucket_that_holds_it():
    histogram = Histogram()
    for duration_ns in (0, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1], BOUNDS_NS[-1] + 1):
        histogram.add(duration_ns)
    assert histogram.counts[:2] == [2, 1]
    assert histogram.counts[-2:] == [1, 1]
    assert sum(histogram.counts) == 5
    assert histogram.sum_ns == 2 * BOUNDS_NS[0] + 1 + 2 * BOUNDS_NS[-1] + 1


def test_a_snapshot_is_plain_and_adds_up():
    stats = ModelStats()
    stats.succeeded(Phases(100, 10, 20, 30, 165), 64, 8, 9)
    stats.succeeded(Phases(100, 0, 0, 30, 164), 64, 8, 9)
    taken = stats.snapshot()
    assert (taken["success_count"], taken["within_slo_count"]) == (2, 1)
    assert (taken["success_ns"], taken["queue_ns"]) == (65 + 64, 30)
    sums = {name: phase["sum_ns"] for name, phase in taken["phases"].items()}
    assert sums == {"total": 129, "queue": 10, "swap": 20, "compute": 60}
    assert (taken["input_bytes"], taken["output_bytes"]) == (16, 18)
    stats.succeeded(Phases(0, 0, 0, 0, 1), None, 0, 0)
    assert taken["phases"]["total"]["counts"][0] == 2


def test_percentiles_are_of_what_there_is():
    assert latency_percentiles([]) is None
    found = latency_percentiles([MS] * 99 + [3 * MS])
    assert found is not None
    assert found["p50"] == 1.0
    assert 1.0 <= found["p99"] <= 3.0


def test_phases_say_how_long_it_waited_and_ran():
    sim = Simulation()
    sim.serve("be", [5, 5, 5])
    first = sim.submit("be")
    second = sim.submit("be")
    sim.finish()
    assert first.future.phases == Phases(0, 0, 0, 15 * MS, 15 * MS)
    assert second.future.phases == Phases(0, 15 * MS, 0, 15 * MS, 30 * MS)


def test_what_a_job_does_not_get_is_in_no_phase():
    sim = Simulation()
    sim.serve("be", [5, 5])
    sim.serve("ls", [2], latency=True)
    sim.serve("long", [20], latency=True)
    _, be, _ = sim.play([(0, "ls"), (1, "be"), (4, "long")])
    phases = be.future.phases
    assert phases is not None
    assert phases.swap_ns == 0
    total_ns = phases.ended_ns - phases.arrival_ns
    assert phases.queue_ns + phases.compute_ns < total_ns
    device_ms = sim.device_ms()
    for name in ("be", "ls", "long"):
        account = next(a for a in sim.mux.table.accounts() if a["model"] == name)
        assert account["device_ns"] == device_ms[name] * MS


def test_a_request_that_does_not_succeed_has_no_phases():
    sim = Simulation()
    sim.serve("be", [5])
    late = sim.submit("be", deadline_ms=1)
    sim.finish()
    with pytest.raises(TimeoutError):
        late.future.result(0)
    assert late.future.phases is None


def test_accounts_go_on_when_a_model_comes_again():
    sim = Simulation()
    sim.serve("m", [1])
    sim.submit("m")
    sim.finish()
    sim.mux.remove("m")
    (account,) = sim.mux.table.accounts()
    assert (account["loaded"], account["success_count"]) == (False, 1)
    sim.serve("m", [1])
    sim.submit("m")
    sim.finish()
    sim.serve("n", [1], latency=True)
    m, n = sim.mux.table.accounts()
    assert (m["loaded"], m["success_count"], m["device_ns"]) == (True, 2, 2 * MS)
    assert (n["tenant"], n["priority"], n["success_count"]) == ("default", "latency", 0)

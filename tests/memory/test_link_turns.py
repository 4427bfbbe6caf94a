"""The link: whose chunk goes next, from its history rather than from a clock."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from fake_driver import until
from links import KIB, PATIENCE_S, MakeLink, endless, finish, ranks, run_together, threads

from missile_jax import _native


def test_shares_follow_weights_in_any_500_chunks(make_link: MakeLink):
    weights, chunk, turns = {"a": 1, "b": 2, "c": 4, "d": 8}, KIB, 100
    link = make_link(chunk_bytes=chunk, history=100_000, best_effort_share=0.0)
    flows = {name: link.flow(name, weight) for name, weight in weights.items()}
    size = {name: weight * turns * chunk for name, weight in weights.items()}
    run_together(
        link, lambda: [flows[n].copy(bytearray(s), 0, bytes(s), 0, s) for n, s in size.items()]
    )
    rows = link.history(15 * turns)
    assert set(rows[:, 0]) == {flow.id for flow in flows.values()}
    assert rows[:, 1].sum() == sum(size.values())
    for name, flow in flows.items():
        had = np.concatenate([[0], np.cumsum(np.where(rows[:, 0] == flow.id, rows[:, 1], 0))])
        share = (had[500:] - had[:-500]) / (500 * chunk)
        assert np.abs(share - weights[name] / 15).max() <= 0.01
    stats = link.stats()
    assert {name: stats[name]["bytes"] for name in weights} == size
    runtimes = [stats[name]["virtual_runtime"] for name in weights]
    assert max(runtimes) == min(runtimes)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_latency_copy_waits_for_no_more_than_is_in_flight(make_link: MakeLink, threads: int):
    link = make_link(chunk_bytes=64 * KIB, threads=threads)
    background = [endless(link.flow(f"be{k}", weight=1 + k)) for k in range(3)]
    urgent = link.flow("ls", latency=True)
    waited = []
    for _ in range(200):
        copy = urgent.copy(bytearray(4096), 0, bytes(4096), 0, 4096)
        finish(copy)
        waited.append(copy.waited_chunks)
    assert not any(copy.done for copy in background)
    assert max(waited) <= threads
    if threads == 1:
        # A best-effort chunk is always in flight then: the first copy alone may have been early.
        assert min(waited[1:]) == 1
    for copy in background:
        assert copy.cancel()


def test_the_end_of_a_copy_is_shared_out_among_threads(make_link: MakeLink):
    link = make_link(chunk_bytes=1024 * KIB, threads=2, history=100)
    size = 3072 * KIB
    finish(link.flow("a").copy(bytearray(size), 0, bytes(size), 0, size))
    pieces = sorted(link.history(100)[:, 1] // KIB)
    assert pieces == [256, 256, 512, 1024, 1024]


def test_best_effort_keeps_its_share_beside_latency_copies(make_link: MakeLink):
    chunk = 16 * KIB
    link = make_link(chunk_bytes=chunk, best_effort_share=0.1, history=1 << 20)
    urgent = endless(link.flow("ls", latency=True))
    patient = link.flow("be")
    finish(patient.copy(bytearray(200 * chunk), 0, bytes(200 * chunk), 0, 200 * chunk))
    assert urgent.cancel()
    served = link.history(1 << 20)[:, 0]
    turns = np.flatnonzero(served == patient.id)
    assert len(turns) == 200
    np.testing.assert_array_equal(np.diff(turns), 10)


def test_a_flow_that_slept_has_no_credit(make_link: MakeLink):
    link = make_link(chunk_bytes=KIB, best_effort_share=0.0, history=10_000)
    busy, sleeper = link.flow("busy"), link.flow("sleeper")
    finish(busy.copy(bytearray(1 << 20), 0, bytes(1 << 20), 0, 1 << 20))
    size = 100 * KIB
    run_together(
        link, lambda: [f.copy(bytearray(size), 0, bytes(size), 0, size) for f in (busy, sleeper)]
    )
    served = link.history(200)[:, 0]
    for first in range(0, 200, 2):
        assert set(served[first : first + 2]) == {busy.id, sleeper.id}


def test_a_weight_can_change_while_copies_wait(make_link: MakeLink):
    link = make_link(chunk_bytes=KIB, best_effort_share=0.0, history=10_000)
    first, second = link.flow("first"), link.flow("second", weight=7)

    def ask() -> list[_native.Copy]:
        size = {first: 400 * KIB, second: 100 * KIB}
        copies = [f.copy(bytearray(n), 0, bytes(n), 0, n) for f, n in size.items()]
        first.weight, second.weight = 4.0, 1.0
        return copies

    run_together(link, ask)
    assert (first.weight, second.weight) == (4.0, 1.0)
    served = link.history(500)[:, 0]
    assert all(np.count_nonzero(served[k : k + 5] == second.id) == 1 for k in range(0, 500, 5))


def test_copies_of_a_flow_start_in_order(make_link: MakeLink):
    link = make_link(chunk_bytes=KIB, threads=2)
    flow = link.flow("a")
    copies = [flow.copy(bytearray(5000), 0, bytes(5000), 0, 5000) for _ in range(50)]
    finish(*copies)
    started = [copy.started_ns for copy in copies]
    assert started == sorted(started)
    assert all(c.submitted_ns <= c.started_ns <= c.ended_ns for c in copies)
    assert all(copy.waited_chunks == 0 for copy in copies)
    assert link.stats()["a"]["waited_ns"] == sum(c.started_ns - c.submitted_ns for c in copies)


def test_many_threads_ask_at_once(make_link: MakeLink):
    link = make_link(chunk_bytes=KIB, threads=2)
    rng = np.random.default_rng(0)
    source = rng.integers(0, 256, 1 << 16, np.uint8)
    wrong: list[int] = []

    def client(k: int) -> None:
        own = np.random.default_rng(k)
        flow = link.flow(f"tenant {k}", weight=1 + k, latency=k % 2 == 0)
        target = np.zeros(1 << 16, np.uint8)
        for _ in range(60):
            at, size = int(own.integers(0, 1 << 15)), int(own.integers(0, 1 << 15))
            copy = flow.copy(target, at, source, at, size)
            if own.random() < 0.2:
                copy.cancel()
            flow.weight = 1.0 + own.random()
            ended = copy.wait(PATIENCE_S)
            part = slice(at, at + size)
            if not ended or (copy.error is None and (target[part] != source[part]).any()):
                wrong.append(k)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    stats = link.stats()
    assert all(flow["copies"] + flow["cancelled"] == 60 for flow in stats.values())
    assert len(stats) == 8


def test_names_are_unique_and_options_are_checked(make_link: MakeLink):
    link = make_link(history=3)
    link.flow("a")
    with pytest.raises(ValueError, match='named "a"'):
        link.flow("a")
    with pytest.raises(ValueError, match="weight"):
        link.flow("b", weight=0.0)
    assert link.history(10).shape == (0, 3)
    for wrong in (
        {"chunk_bytes": 0},
        {"threads": 0},
        {"best_effort_share": 1.0},
        {"emulate_bytes_per_s": -1.0},
        {"emulate_latency_ns": -1},
        {"nice": 20},
    ):
        with pytest.raises(ValueError, match=r"quantum|threads|share|emulate|nice"):
            _native.Link(**wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no rank of their own")
def test_threads_that_copy_are_as_nice_as_asked_for(make_link: MakeLink):
    others = threads()
    make_link(threads=2, nice=7)
    # Each when it begins; the third thread calls back.
    until(lambda: ranks(threads() - others) == [0, 7, 7])


def test_the_history_keeps_the_last_chunks(make_link: MakeLink):
    link = make_link(chunk_bytes=10, history=4)
    flow = link.flow("a")
    finish(flow.copy(bytearray(95), 0, bytes(95), 0, 95))
    rows = link.history(3)
    assert rows[:, 1].tolist() == [10, 10, 5]
    assert (np.diff(rows[:, 2]) >= 0).all()
    assert len(link.history(100)) == 4


def test_an_open_link_does_not_keep_the_interpreter():
    code = """
from missile_jax import _native
link = _native.Link(threads=2, chunk_bytes=1 << 16)
flow = link.flow("a")
ranges = [(0, 0, 1 << 16)] * (1 << 17)
copies = [flow.copy_many(bytearray(1 << 16), bytes(1 << 16), ranges, print) for _ in range(3)]
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.count("Copy object") == 3
